//! Dockerfile text to plan: a pure function of text, options and base-image facts.
//!
//! This crate never knows files, networks, environments, clocks, tokio, `cache` or `builder`.
//!
//! ```text
//! bytes ─ scan ─► logical lines ─ parse ─► instructions ─ stages ─► stages with edges     parse()
//!                                                                        │
//! options, base-image facts ────────────────────────────── args, words, lower ─► plan     lower()
//! ```
//!
//! Beside builds: [`check`] and [`outline`] look at a file without any image, with [`stub`]s in their place.
//!
//! [`parse`] never fails: it returns what it understood and every diagnostic. Lowering answers `Need(images)` until it has
//! the facts of every base image that the target reaches, then `Done(plan)`.
#![forbid(unsafe_code)]

pub mod source;
pub mod diagnostic;
mod text;
mod directives;
mod scan;
pub mod words;
mod shell_pattern;
pub mod suggest;
pub mod instruction;
mod parse;

pub use directives::Directives;
pub use parse::{FirstError, Parsed, parse};
pub mod stages;
mod args;
pub mod lint;
pub mod lower;
pub mod plan;
pub mod patterns;
mod ignore_pattern;
pub mod git;
pub mod stub;
pub mod check;
pub mod outline;
pub mod corner_cases;

pub use check::{Checked, Finding, check};
pub use lower::{LowerOptions, NamedContext, epoch_context, lower};
pub use plan::{ImageFacts, ImageRequest, ImageTemplate, Lowered, Plan};
