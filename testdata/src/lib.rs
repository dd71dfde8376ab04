//! Fixtures for the tests of the other crates: what a machine must have, base images, contexts, Dockerfiles, a registry, a web server.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

pub mod contexts;
pub mod dockerfiles;
pub mod fuzz;
pub mod image;
pub mod foreign;
pub mod hostile;
pub mod machine;
pub mod ordinary;
pub mod certificate;
pub mod registry;
pub mod token_server;
pub mod trees;
pub mod web;
