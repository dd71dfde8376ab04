//! Looking into what builds left, and running what they made.
//!
//! A failed `RUN` leaves its files and what it had ([`keep`]); a step that succeeded left its layers, an image its config. [`find`]
//! says which of them is meant, [`ground`] what a process gets on it, [`run`] runs one on a snapshot that is thrown away, so whoever
//! looks twice sees the same. [`copy`] takes files out without any process.

pub mod setup;
pub mod keep;
pub mod find;
pub mod ground;
mod mounts;
pub mod run;
pub mod copy;
