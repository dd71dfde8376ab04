//! Layers of the result are compressed while further steps run, if an output will want them compressed.
//!
//! Nothing depends on it: what is not ready when the outputs begin, they make themselves, and what goes wrong here goes wrong there
//! again and is told there.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use proto::definition::{Definition, Op, VertexId};
use proto::oci::Compression;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::build::Job;
use crate::layers::Layers;
use crate::layers::encode::{Order, Urgency, Wanted};
use crate::plan::Planned;
use crate::platforms::Shape;
use crate::request::{BuildRequest, Output};
use crate::stack::Stack;

/// What one build compresses early. Dropped, it ends what it started.
#[derive(Debug)]
pub struct Early {
    /// Steps whose layers are part of a result.
    steps: BTreeSet<VertexId>,
    wanted: Vec<Wanted>,
    layers: Layers,
    tasks: Mutex<JoinSet<()>>,
    cancel: CancellationToken,
    _ends: DropGuard,
}

impl Early {
    /// For the outputs of `request`.
    #[must_use]
    pub fn new(request: &BuildRequest, planned: &Planned, job: &Job) -> Self {
        // With a date, layers become others before they are compressed: their times are lowered.
        let wanted = match planned.source_date_epoch {
            Some(_) => Vec::new(),
            None => wanted(&request.outputs, request.shape == Shape::Index),
        };
        let targets = planned.images_to_make.iter().filter_map(|image| image.target);
        let cancel = job.cancel.child_token();
        Self {
            steps: targets
                .flat_map(|target| steps_below(&planned.definition, target))
                .collect(),
            wanted,
            layers: job.host.layers.clone(),
            tasks: Mutex::default(),
            _ends: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// The result of `step` is known: its layer is the last one of `stack`.
    pub fn made(&self, step: VertexId, stack: &Stack) {
        let Some(index) = stack.layers().len().checked_sub(1) else {
            return;
        };
        if !self.steps.contains(&step) {
            return;
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for wanted in &self.wanted {
            let (layers, stack, wanted, cancel) = (self.layers.clone(), stack.clone(), *wanted, self.cancel.clone());
            tasks.spawn(async move {
                let order = Order {
                    urgency: Urgency::Early,
                    cancel: &cancel,
                };
                let made = layers.encode(&stack, index, wanted, order).await;
                if let Err(error) = made {
                    tracing::debug!(%error, "a layer was not compressed early");
                }
            });
        }
    }

    /// Ends what still runs. Nothing does if the outputs were made.
    pub async fn finish(&self) {
        self.cancel.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

/// The forms that `outputs` will ask for, as far as they take work.
fn wanted(outputs: &[Output], indexed: bool) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for output in outputs {
        let encoding = match output {
            Output::Oci { encoding, .. } => encoding,
            // What only stays in the store is compressed when it leaves; but the digest of an index depends on its blobs.
            Output::Image { push, encoding, .. } if *push || indexed => encoding,
            Output::Image { .. } | Output::Files { .. } => continue,
        };
        let form = encoding.form;
        if form.recipe.compression() != Compression::None && !all.contains(&form) {
            all.push(form);
        }
    }
    all
}

/// The steps whose layers are in the root filesystem of `target`.
fn steps_below(definition: &Definition, target: VertexId) -> Vec<VertexId> {
    let root_of = |id: &VertexId| match &definition.vertex(*id).op {
        Op::Exec(exec) => exec.root,
        Op::File(file) => file.root,
        _ => None,
    };
    let is_step = |id: &VertexId| !definition.vertex(*id).op.is_source();
    std::iter::successors(Some(target), root_of).filter(is_step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::compress::Recipe;
    use crate::request::Encoding;

    fn encoding(compression: Compression) -> Encoding {
        Encoding {
            form: Wanted {
                recipe: Recipe::new(compression, None).unwrap(),
                exact: false,
            },
            ..Encoding::default()
        }
    }

    fn image(push: bool) -> Output {
        Output::Image {
            push,
            names: Vec::new(),
            encoding: encoding(Compression::Gzip),
        }
    }

    fn oci(compression: Compression) -> Output {
        Output::Oci {
            names: Vec::new(),
            encoding: encoding(compression),
        }
    }

    fn forms(outputs: &[Output], indexed: bool) -> Vec<Compression> {
        let wanted = wanted(outputs, indexed);
        wanted.iter().map(|wanted| wanted.recipe.compression()).collect()
    }

    #[test]
    fn only_what_an_output_asks_for_is_compressed_early() {
        assert_eq!(forms(&[image(false)], false), []);
        assert_eq!(forms(&[Output::Files { platform_split: None }], true), []);
        assert_eq!(forms(&[oci(Compression::None)], false), []);
        assert_eq!(forms(&[image(true)], false), [Compression::Gzip]);
        assert_eq!(forms(&[image(false)], true), [Compression::Gzip]);
        let both = [oci(Compression::Gzip), image(true), oci(Compression::Zstd)];
        assert_eq!(forms(&both, false), [Compression::Gzip, Compression::Zstd]);
    }
}
