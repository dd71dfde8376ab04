//! Layers: what changed, as a deterministic tar and back.
//!
//! Outwards: [`diff`] finds what a step changed, [`tar`] writes it, [`compress`] makes the forms that registries hold. Inwards:
//! [`apply`] reads a stranger's layer with the limits of [`limits`], into a directory in overlay format or into a tree alone.
//! [`lower`] is how both see the layers below.

pub mod entry;
pub mod tar;
mod ahead;
mod header;
pub mod lower;
mod facts;
pub mod diff;
pub mod used;
pub mod limits;
pub mod retime;
pub mod compress;
mod blocks;
mod gzip;
mod noise;
pub(crate) mod whiteout;
mod zstd_frame;
pub(crate) mod read;
pub(crate) mod names;
pub(crate) mod merge;
pub(crate) mod early;
mod place;
pub mod compare;
pub mod apply;
