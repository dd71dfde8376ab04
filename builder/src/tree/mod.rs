//! Root filesystems as metadata: stacks of layer trees seen as one.

pub mod digest;
mod merged;

pub use merged::{Located, MergedTree, ResolveError};
