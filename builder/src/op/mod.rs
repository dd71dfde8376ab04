//! File operations as pure planning: `COPY`, `ADD` and `WORKDIR` are computed on metadata and mount nothing.

pub mod select;
mod destination;
pub mod copy;
pub mod mkdir;
pub mod owner;
pub mod mode;
pub mod archive;
