//! Graph to image: solver, ops, snapshots, executor, layers, exporters, and the build server over them.
//!
//! This crate never knows terminals, flags, environment variables or exit codes. Only `plan` knows Dockerfiles, only
//! `executor` runs what a Dockerfile asks for, only `sys` holds `unsafe`, and `solve` does not know what an op does.
//!
//! Read [`build`] first: it is the table of contents. Then [`plan`], [`solve`], [`op`], [`layers`], [`export`], in the order in
//! which a build goes through them; [`server`] and [`session`] are how clients reach it.

pub mod build;
pub mod request;
pub mod limits;
pub mod scrub;
pub mod platforms;
pub mod plan;
pub mod images;
pub mod solve;
pub mod op;
pub mod layers;
pub mod room;
pub mod fetch;
pub mod sources;
pub mod export;
pub mod inspect;
pub mod server;
pub mod session;
pub mod event;
pub mod host;
pub mod stack;
pub mod tree;
pub mod context;
pub mod context_trees;
pub mod layer;
pub mod snapshot;
pub mod executor;
pub mod cdi;
pub mod ids;
mod notes;
mod blocking;
mod turns;
mod phase;
mod recent;
mod sys;
