//! Root filesystems as metadata: stacks of layer trees seen as one.

mod merged;

pub use merged::{Located, MergedTree, ResolveError};
