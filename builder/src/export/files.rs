//! The root filesystems themselves, as one tar: for `--output type=local` and `type=tar`.

use std::collections::BTreeMap;

use proto::platform::Platform;
use proto::tree::{EntryKind, RelPath};

use super::image::Image;
use super::stream;
use crate::build::Job;
use crate::event::StepNumber;
use crate::layer::entry::{Content, LayerEntry};
use crate::layer::tar;
use crate::request::{Blame, BuildError};
use crate::tree::MergedTree;

/// Writes the files of `images` to output number `output` of the client, each into a directory of its own if `split`.
///
/// # Errors
/// Layers that can not be had any more; files of two platforms that want one place; what the client says.
pub async fn write(output: u32, images: &[Image], split: bool, job: &Job, step: StepNumber) -> Result<(), BuildError> {
    let mut all = Files::default();
    for image in images {
        let directory = match split {
            true => RelPath::clean(directory_of(&image.platform).as_bytes()),
            false => RelPath::root(),
        };
        all.add(entries(image, &directory, job, step).await?, &image.platform)?;
    }
    let entries: Vec<LayerEntry> = all.0.into_values().map(|(entry, _)| entry).collect();
    let epoch = images.iter().find_map(|image| image.epoch);
    let layers = job.host.layers.clone();
    stream::to_client(output, job, move |sink| {
        tar::write(&entries, epoch, sink)
            .map(drop)
            .map_err(|error| layers.unwritten(&error, &entries))
    })
    .await
}

/// `linux_arm_v7`.
fn directory_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

/// The files of one image, moved into `directory`.
async fn entries(
    image: &Image,
    directory: &RelPath,
    job: &Job,
    step: StepNumber,
) -> Result<Vec<LayerEntry>, BuildError> {
    let layers = &job.host.layers;
    layers.unpack(&image.stack, job, step).await?;
    let merged = MergedTree::new(layers.trees(&image.stack, job, step).await?);
    let roots = image
        .stack
        .chains()
        .iter()
        .map(|chain| layers.open_layer_dir(*chain))
        .collect::<Result<Vec<_>, _>>()?;
    let mut entries = Vec::new();
    for found in merged.walk(&RelPath::root()) {
        let mut entry = found.entry.clone();
        let content = match entry.kind {
            EntryKind::File { .. } => roots[found.layer].content(&entry.path),
            _ => Content::None,
        };
        entry.path = directory.join(&entry.path);
        match &mut entry.kind {
            EntryKind::Directory { opaque } => *opaque = false,
            EntryKind::Hardlink { target } => *target = directory.join(target),
            _ => {}
        }
        entries.push(LayerEntry { entry, content });
    }
    Ok(entries)
}

/// Files of several platforms, and whose they are.
#[derive(Default)]
struct Files(BTreeMap<RelPath, (LayerEntry, Platform)>);

impl Files {
    /// Directories may be in several platforms; the first one's mode and owner count.
    fn add(&mut self, entries: Vec<LayerEntry>, platform: &Platform) -> Result<(), BuildError> {
        let is_directory = |entry: &LayerEntry| matches!(entry.entry.kind, EntryKind::Directory { .. });
        for entry in entries {
            match self.0.get(&entry.entry.path) {
                None => {
                    let path = entry.entry.path.clone();
                    self.0.insert(path, (entry, platform.clone()));
                }
                Some((there, _)) if is_directory(there) && is_directory(&entry) => {}
                Some((_, owner)) => {
                    let message = format!(
                        "cannot overwrite `{}` from {owner} with {platform} when split option is disabled",
                        entry.entry.path
                    );
                    return Err(BuildError::new(Blame::User, message).help("leave out `platform-split=false`"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::tree::{Timestamp, TreeEntry};

    use super::*;

    fn entry(path: &str, kind: EntryKind) -> LayerEntry {
        let entry = TreeEntry {
            path: RelPath::clean(path.as_bytes()),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        LayerEntry {
            entry,
            content: Content::None,
        }
    }

    #[test]
    fn platforms_share_directories_and_nothing_else() {
        let directory = || EntryKind::Directory { opaque: false };
        let mut files = Files::default();
        let [amd64, arm] = ["linux/amd64", "linux/arm/v7"].map(|text| text.parse().unwrap());
        let first = vec![entry("bin", directory()), entry("bin/a", EntryKind::Fifo)];
        files.add(first, &amd64).unwrap();
        let second = vec![entry("bin", directory()), entry("bin/b", EntryKind::Fifo)];
        files.add(second, &arm).unwrap();
        assert_eq!(files.0.len(), 3);
        let error = files.add(vec![entry("bin/a", EntryKind::Fifo)], &arm).unwrap_err();
        assert!(
            error.message.contains("`bin/a` from linux/amd64 with linux/arm/v7"),
            "{error}"
        );
        assert!(files.add(vec![entry("bin/b", directory())], &amd64).is_err());
    }

    #[test]
    fn directories_are_called_as_other_builders_call_them() {
        assert_eq!(directory_of(&Platform::new("linux", "arm", "")), "linux_arm_v7");
        assert_eq!(directory_of(&Platform::new("linux", "x86_64", "")), "linux_amd64");
    }
}
