//! Fills a directory of the engine with files of a stage, an image or a context: the first content of a cache mount.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use cache::budget::Charge;
use proto::definition::VertexId;
use proto::oci::Compression;
use proto::tree::RelPath;

use super::file::tree_of;
use super::source::Reader;
use super::work::BuildWork;
use crate::blocking;
use crate::event::StepNumber;
use crate::host::Host;
use crate::layer::apply::{self, LayerSource};
use crate::layer::entry::LayerEntry;
use crate::layer::limits::Limits;
use crate::layer::tar;
use crate::layers::store_failed;
use crate::request::BuildError;
use crate::solve::Inputs;

/// Copies what is below `source` of `from` into `dest`, by the same way that layers take: written as a tar, unpacked with all
/// checks.
///
/// # Errors
/// Layers that cannot be read; a full disk.
pub async fn directory(
    work: &BuildWork,
    from: VertexId,
    source: &str,
    inputs: &Inputs,
    dest: &Path,
) -> Result<(), BuildError> {
    let tree = tree_of(work, from, inputs, StepNumber::NONE).await?;
    let reader = Reader::open(work, from, inputs, StepNumber::NONE, None).await?;
    let (root, _) = tree
        .resolve(&RelPath::clean(source.as_bytes()))
        .map_err(|error| BuildError::user(error.to_string()))?;
    let entries = tree.walk(&root).filter_map(|found| {
        let content = reader.content_of(found.entry, found.layer);
        let mut entry = found.entry.clone();
        entry.path = entry.path.below(&root)?;
        Some(LayerEntry { entry, content })
    });
    let entries: Vec<LayerEntry> = entries.collect();
    let (dest, host) = (dest.to_owned(), work.job.host.clone());
    blocking::run(move || unpacked(&entries, &dest, &host)).await
}

/// A file that nobody sees, counted by the budget while it is there.
struct Spool {
    file: File,
    charge: Charge,
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.charge.add(bytes.len() as u64)?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn unpacked(entries: &[LayerEntry], dest: &Path, host: &Host) -> Result<(), BuildError> {
    // On disk, not in memory: there may be gigabytes. Nobody sees the file, and it is gone when it is closed.
    let file = tempfile::tempfile_in(host.store.tmp_dir()).map_err(|error| store_failed(&error))?;
    let mut spool = Spool {
        file,
        charge: Charge::new(host.store.budget()),
    };
    let written = tar::write(entries, None, &mut spool).map_err(|error| host.layers.unwritten(&error, entries))?;
    std::io::Seek::rewind(&mut spool.file).map_err(|error| store_failed(&error))?;
    let source = LayerSource {
        reader: spool.file,
        compression: Compression::None,
        expected: written.diff_id,
    };
    apply::unpack(source, dest, &[], &Limits::default()).map_err(|error| store_failed(&error))?;
    // Before it is renamed: a name that outlives a loss of power must not lead to empty files.
    let opened = std::fs::File::open(dest).map_err(|error| store_failed(&error))?;
    rustix::fs::syncfs(opened).map_err(|error| store_failed(&error))
}
