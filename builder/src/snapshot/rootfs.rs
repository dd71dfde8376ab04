//! What a snapshot is to whoever mounts it. The snapshotter only names directories; the executor mounts them inside the step's
//! own mount namespace, so that no mount can outlive a step.

use std::path::PathBuf;

/// A root filesystem, not mounted yet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rootfs {
    /// overlayfs: directories in overlay format (whiteouts are 0:0 character devices, opaque directories carry
    /// the mark of [`crate::ids::opaque_mark`]), topmost first, and where writes go.
    Overlay {
        /// Read-only layers, topmost first. Empty for a root without a parent.
        lower: Vec<PathBuf>,
        /// Where writes go, and the empty directory on the same file system that overlayfs needs beside it. Nothing: read-only.
        upper: Option<Upper>,
    },
    /// One plain directory, used as it is.
    Directory(PathBuf),
}

/// The writable part of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Upper {
    /// Becomes the layer.
    pub dir: PathBuf,
    /// overlayfs' `workdir`. Good for one mount: the mount is volatile, and leaves a mark in it that forbids another.
    pub work: PathBuf,
}
