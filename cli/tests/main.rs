//! End to end: the binary as users run it.

mod support;

mod build;
mod cache;
mod contexts;
mod crash;
mod errors;
mod failures;
mod help;
mod mounts;
mod outputs;
mod registry;
mod serve;
mod server;
mod sources;
mod store;
mod test_files;
