//! Checks: what is legal, and still likely not meant. Names and messages are those of other builders, for tools look for them.
//!
//! A check is a row of [`rules::RULES`] and the code that finds it, which stands where it knows enough:
//! - [`file`]: what the shape of a file tells, nothing expanded, in stages that nothing needs too;
//! - [`from`]: the words of `FROM`, expanded with the global arguments, in all stages too;
//! - `lower/checks.rs` and the instructions beside it: what is known only when an instruction is lowered;
//! - the scanner: empty lines in a continued instruction.
//!
//! [`settings`] comes last and drops what the file does not want to hear.

pub mod rules;
pub(crate) mod file;
pub(crate) mod from;
pub(crate) mod settings;
pub(crate) mod fix;
