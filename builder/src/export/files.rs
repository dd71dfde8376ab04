//! The root filesystem itself, as one tar: for `--output type=local` and `type=tar`.

use std::sync::Arc;

use proto::tree::{EntryKind, RelPath};

use super::image::Image;
use super::stream;
use crate::build::Job;
use crate::event::StepNumber;
use crate::layer::entry::{Content, LayerEntry};
use crate::layer::tar;
use crate::layers::{store_failed, to_path};
use crate::request::BuildError;
use crate::tree::MergedTree;

/// Writes the files of `image` to output number `output` of the client.
///
/// # Errors
/// Layers that can not be had any more; what the client says.
pub async fn write(output: u32, image: &Image, job: &Job, step: StepNumber) -> Result<(), BuildError> {
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
        if let EntryKind::Directory { opaque } = &mut entry.kind {
            *opaque = false;
        }
        let content = match entry.kind {
            EntryKind::File { .. } => Content::File {
                root: Arc::clone(&roots[found.layer]),
                path: to_path(&entry.path),
            },
            _ => Content::None,
        };
        entries.push(LayerEntry { entry, content });
    }
    let epoch = image.epoch;
    stream::to_client(output, job, move |sink| {
        tar::write(&entries, epoch, sink)
            .map(drop)
            .map_err(|error| store_failed(&error))
    })
    .await
}
