//! Bytes under keys, near and far.
//!
//! A **blob** is found by its digest, a **record** by its key; a **lease** keeps both from being collected; what nobody holds
//! is collected when room is needed. A key is 32 opaque bytes: this crate knows no Dockerfiles and no processes. No reader sees
//! a half-written blob, no byte leaves unverified, nothing that a live lease holds is deleted.
//!
//! Reading order: [`store_format`] (what is on disk, and why a crash is harmless), [`durable`] (how files are written),
//! [`store`] (the front door), then its parts. [`registry`] stands beside them: far blobs, over HTTP.
#![forbid(unsafe_code)]

pub mod store_format;
pub mod remove;
pub mod budget;
pub mod durable;
mod sealed;
pub mod store;
pub mod blob;
pub mod records;
pub mod trees;
pub mod images;
pub mod kept;
pub mod index;
pub mod lease;
pub mod gc;
pub mod verify;
pub mod usage;
pub mod registry;
pub mod addresses;
pub mod download;
pub mod answers;
pub mod mirrors;
pub mod history;
pub mod builds;
pub mod cache_mounts;
