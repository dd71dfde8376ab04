//! Layers: what changed, as a deterministic tar and back.

pub mod entry;
