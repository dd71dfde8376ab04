//! What each kind of step does.
//!
//! `COPY`, `ADD` and `WORKDIR` are computed on metadata and mount nothing: [`select`] what a source names, plan it with
//! [`copy`] or [`mkdir`], write it ([`file`]). `RUN` is [`exec`]. What their files add to keys is [`content`]. [`work`] is what the
//! solver sees of them.

pub mod work;
pub mod file;
pub mod select;
pub mod content;
mod destination;
pub mod copy;
pub mod mkdir;
pub mod owner;
pub mod mode;
pub mod remote;
pub mod source;
pub mod exec;
mod output;
mod watch;
mod verdict;
mod certificates;
pub mod cache_mount;
pub mod agent;
pub mod device;
pub mod fill;
mod foreign;
pub mod stubs;
pub mod sockets;
pub mod archive;
