//! What goes over a wire or into a hash.
//!
//! Every type here is a promise: its bytes are read by another process, another version or another machine. This crate
//! never knows I/O, clocks, async, or defaults of the machine it runs on; what it encodes is pinned by golden tests.
//!
//! Reading order: identity first ([`digest`], [`reference`], [`platform`]), then what images are made of ([`oci`],
//! [`tree`]), then what a build is made of ([`definition`], [`entitlement`], [`canonical`], [`record`]) and what
//! explains it afterwards ([`miss`], [`history`]), last what is spoken:
//! the gRPC protocol ([`v1`], generated from `proto/rbuild/v1/*.proto`), the way between it and the types here ([`convert`]),
//! and the part of the SSH agent protocol that travels in it ([`agent`]).
#![forbid(unsafe_code)]

pub mod date;
pub mod digest;
pub mod reference;
pub mod platform;
pub mod oci;
pub mod tree;
pub mod tree_digest;
pub mod tree_nodes;
pub mod address;
pub mod definition;
pub mod entitlement;
pub mod canonical;
pub mod record;
pub mod miss;
pub mod history;
pub mod v1;
pub mod convert;
pub mod agent;
