//! `rbuild.v1`, generated from `proto/rbuild/v1/*.proto`, and the conversions between it and the types of this crate.
#![allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::redundant_closure,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    missing_docs,
    reason = "generated; the documentation is in the `.proto` files"
)]

tonic::include_proto!("rbuild.v1");

/// Encoded file descriptors, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rbuild.v1.bin"));
