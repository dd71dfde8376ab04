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
pub use parse::{Parsed, parse};
mod stages;
mod args;
mod lint;
mod lint_settings;
pub mod lower;
pub mod plan;
pub mod patterns;
pub mod git;

pub use lower::{LowerOptions, NamedContext, epoch_context, lower};
pub use plan::{ImageFacts, ImageRequest, ImageTemplate, Lowered, Plan};
