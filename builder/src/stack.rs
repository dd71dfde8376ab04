//! A root filesystem as a stack of layers, and where the bytes of each layer may be found.

use std::sync::Arc;

use proto::digest::{ChainId, DiffId};
use proto::oci::Descriptor;
use proto::record::LayerInfo;
use proto::reference::Reference;

use crate::sources::Source;

/// One layer of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Identity, size, and the blobs that are known to hold it.
    pub info: LayerInfo,
    /// Where its blobs can be fetched if the store lacks them.
    pub origin: Origin,
}

/// Where blobs of a layer come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built here: a snapshot or a blob of the store, or the step that made it.
    Built,
    /// A repository of a registry.
    Registry(Arc<Reference>),
    /// An OCI layout of the client, by the name of the context.
    Layout(Arc<str>),
    /// A remote source of a build, pinned.
    Fetched(Arc<Source>),
}

/// Layers from the base upwards. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    layers: Arc<[Layer]>,
    chains: Arc<[ChainId]>,
}

impl Stack {
    /// The stack of `layers`, base first.
    #[must_use]
    pub fn new(layers: Vec<Layer>) -> Self {
        let mut chains = Vec::with_capacity(layers.len());
        for layer in &layers {
            chains.push(ChainId::append(chains.last().copied(), layer.info.diff_id));
        }
        Self {
            layers: layers.into(),
            chains: chains.into(),
        }
    }

    /// This stack with one more layer on top.
    #[must_use]
    pub fn with(&self, layer: Layer) -> Self {
        let mut layers = self.layers.to_vec();
        layers.push(layer);
        Self::new(layers)
    }

    /// The layers, base first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// For each layer the chain that it ends, base first.
    #[must_use]
    pub fn chains(&self) -> &[ChainId] {
        &self.chains
    }

    /// The chain of the whole stack; nothing for an empty one.
    #[must_use]
    pub fn chain(&self) -> Option<ChainId> {
        self.chains.last().copied()
    }

    /// Diff IDs, base first.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|layer| layer.info.diff_id).collect()
    }
}

impl Layer {
    /// A layer that was built here and has the blobs `forms`.
    #[must_use]
    pub fn built(diff_id: DiffId, size_bytes: u64, forms: Vec<Descriptor>) -> Self {
        Self {
            info: LayerInfo {
                diff_id,
                size_bytes,
                forms,
            },
            origin: Origin::Built,
        }
    }
}
