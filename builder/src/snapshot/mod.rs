//! Snapshots: file-system states that steps run on.

pub mod rootfs;
