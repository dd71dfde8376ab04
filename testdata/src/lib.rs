//! Fixtures for the tests of the other crates: what a machine must have, base images, a registry, a web server.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

pub mod image;
pub mod machine;
pub mod registry;
pub mod web;
