//! The files that an op reads, as a part of its key: a digest for each root that a source names, and, for those who ask later why
//! the op ran, the list of files behind it.

use proto::definition::{CopyAction, CopySource, ExecOp, FileAction, HttpOp, ImageOp, Mount, MountKind, Op, VertexId};
use proto::record::Field;
use proto::tree::{EntryKind, TreeEntry};

use super::file::{missing, tree_of};
use super::select::{self, RootDigest, SelectError, Selected, Selection};
use super::work::BuildWork;
use crate::event::StepNumber;
use crate::request::BuildError;
use crate::solve::Inputs;
use crate::solve::cache_key::chain_text;
use crate::tree::digest;

/// What one source or mount reads.
struct Reading<'a> {
    /// Position among the sources or mounts.
    index: usize,
    from: VertexId,
    selection: Selection<'a>,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Copy,
    Mount,
}

/// What the files that `id` reads add to its key.
///
/// # Errors
/// Sources that do not exist; layers that cannot be read.
pub async fn fields(work: &BuildWork, id: VertexId, inputs: &Inputs) -> Result<Vec<Field>, BuildError> {
    let mut fields = Vec::new();
    for reading in readings(&work.definition.vertex(id).op) {
        let index = reading.index;
        match &work.definition.vertex(reading.from).op {
            Op::Image(image) => {
                let path = (reading.by == By::Copy).then_some(reading.selection.pattern);
                fields.extend(image_fields(index, image, path));
                continue;
            }
            // The one file whose time is part of what was asked for: it is the server's, not that of a checkout.
            Op::Http(HttpOp { pin: Some(pin), .. }) if reading.by == By::Copy => {
                fields.push(field(format!("modified {index}"), pin.modified.to_string()));
            }
            _ => {}
        }
        let tree = tree_of(work, reading.from, inputs, StepNumber::NONE).await?;
        let roots = select::digests(&tree, &reading.selection).map_err(|error| reading.failed(work, id, error))?;
        fields.extend(digest_fields(index, roots));
    }
    Ok(fields)
}

/// What the source or mount `index` adds to a key if it is of an image. That is its layers: looking into them would mean fetching
/// them just to find out that nothing changed. The path of a mount is part of the mount.
#[must_use]
pub fn image_fields(index: usize, image: &ImageOp, path: Option<&str>) -> Vec<Field> {
    let chain = field(format!("image {index}"), chain_text(&image.diff_ids));
    let path = path.map(|path| field(format!("path {index}"), path));
    [chain].into_iter().chain(path).collect()
}

/// What the roots that the source `index` names add to a key.
#[must_use]
pub fn digest_fields(index: usize, roots: Vec<RootDigest>) -> Vec<Field> {
    let mut fields = Vec::with_capacity(2 * roots.len());
    for (number, RootDigest { name, files }) in roots.into_iter().enumerate() {
        fields.push(field(format!("source {number} of {index}"), name));
        fields.push(field(format!("files {number} of {index}"), *files.as_bytes()));
    }
    fields
}

/// The files behind the digests of [`fields`], named so that [`crate::solve::compare`] can show their paths:
/// `file <source>.<root> <path>`, after `source <root> of <source>`.
///
/// # Errors
/// As [`fields`].
pub async fn listing(work: &BuildWork, id: VertexId, inputs: &Inputs) -> Result<Vec<Field>, BuildError> {
    let mut listing = Vec::new();
    for reading in readings(&work.definition.vertex(id).op) {
        if matches!(work.definition.vertex(reading.from).op, Op::Image(_)) {
            continue;
        }
        let tree = tree_of(work, reading.from, inputs, StepNumber::NONE).await?;
        let selected = select::select(&tree, &reading.selection).map_err(|error| reading.failed(work, id, error))?;
        list(&mut listing, &reading, &selected);
    }
    Ok(listing)
}

impl Reading<'_> {
    fn failed(&self, work: &BuildWork, id: VertexId, error: SelectError) -> BuildError {
        let mut failure = missing(work, self.from, error);
        if self.by == By::Copy {
            failure.place = work.place(id, Some(self.selection.pattern));
        }
        failure
    }
}

/// What `op` reads of other vertices by content.
fn readings(op: &Op) -> Vec<Reading<'_>> {
    match op {
        Op::File(file) => match &file.action {
            FileAction::Copy(copy) => copied(copy),
            FileAction::MakeDir(_) => Vec::new(),
        },
        Op::Exec(exec) => mounted(exec),
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => Vec::new(),
    }
}

fn copied(copy: &CopyAction) -> Vec<Reading<'_>> {
    let mut readings = Vec::new();
    for (index, source) in copy.sources.iter().enumerate() {
        let CopySource::Path { from, pattern } = source else {
            continue;
        };
        let selection = Selection {
            pattern,
            exclude: &copy.exclude,
            parents: copy.parents,
        };
        readings.push(Reading {
            index,
            from: *from,
            selection,
            by: By::Copy,
        });
    }
    readings
}

fn mounted(exec: &ExecOp) -> Vec<Reading<'_>> {
    let mut readings = Vec::new();
    for (index, mount) in exec.mounts.iter().enumerate() {
        let Some((from, pattern)) = read_by(mount) else {
            continue;
        };
        let selection = Selection {
            pattern,
            exclude: &[],
            parents: false,
        };
        readings.push(Reading {
            index,
            from,
            selection,
            by: By::Mount,
        });
    }
    readings
}

/// The files a mount reads: whose, and which.
fn read_by(mount: &Mount) -> Option<(VertexId, &str)> {
    match &mount.kind {
        MountKind::Bind { from, source, .. } => Some((*from, source)),
        MountKind::Cache {
            from: Some((from, source)),
            ..
        } => Some((*from, source)),
        _ => None,
    }
}

fn list(listing: &mut Vec<Field>, reading: &Reading<'_>, selected: &Selected) {
    let index = reading.index;
    for (number, root) in selected.roots.iter().enumerate() {
        listing.push(field(format!("source {number} of {index}"), root.name.as_slice()));
        for picked in root.top.iter().chain(&root.below) {
            let path = &picked.entry.path;
            let name = match path.is_root() {
                true => format!("file {index}.{number} {}", reading.selection.pattern),
                false => format!("file {index}.{number} {path}"),
            };
            listing.push(field(name, facts(&picked.entry)));
        }
    }
}

fn field(name: String, value: impl Into<Vec<u8>>) -> Field {
    Field {
        name,
        value: value.into(),
    }
}

/// What of a file is compared. Numbers are big-endian, texts have their length before them.
fn facts(entry: &TreeEntry) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, entry.path.as_bytes());
    let (kind, detail): (u8, Vec<u8>) = match &entry.kind {
        EntryKind::File { content, .. } => (b'f', content.to_string().into_bytes()),
        EntryKind::Directory { .. } => (b'd', Vec::new()),
        EntryKind::Symlink { target } => (b'l', target.clone()),
        EntryKind::Hardlink { target } => (b'h', target.as_bytes().to_vec()),
        EntryKind::CharDevice { major, minor } => (b'c', format!("{major}:{minor}").into_bytes()),
        EntryKind::BlockDevice { major, minor } => (b'b', format!("{major}:{minor}").into_bytes()),
        EntryKind::Fifo => (b'p', Vec::new()),
        EntryKind::Whiteout => (b'w', Vec::new()),
    };
    bytes.push(kind);
    put(&mut bytes, &detail);
    for number in [entry.mode, entry.uid, entry.gid] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| digest::counts(name)) {
        put(&mut bytes, name);
        put(&mut bytes, value);
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bytes.extend_from_slice(part);
}
