//! Graph to image: solver, ops, snapshots, executor, layers, exporters, and the build server over them.
//!
//! This crate never knows terminals, flags, environment variables or exit codes. Only `plan` knows Dockerfiles, only
//! `executor` runs what a Dockerfile asks for, only `sys` holds `unsafe`, and `solve` does not know what an op does.

pub mod executor;
pub mod op;
pub mod tree;
pub mod context;
pub mod layer;
pub mod snapshot;
mod sys;
