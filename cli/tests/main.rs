//! End to end: the binary as users run it.

mod support;

mod bases;
mod build;
mod cache;
mod check;
mod context;
mod contexts;
mod crash;
mod damage;
mod debug;
mod encodings;
mod errors;
mod explain;
mod failures;
mod help;
mod leases;
mod memory;
mod mounts;
mod networks;
mod old_stores;
mod other_user;
mod outputs;
mod platforms;
mod privileges;
mod registry;
mod registry_access;
mod serve;
mod server;
mod sources;
mod store;
mod survival;
mod test_files;
mod together;
mod trees;
mod verify;
