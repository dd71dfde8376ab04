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
//! [`parse`] never fails: it returns what it understood and every diagnostic. [`lower`] answers `Need(images)` until it has
//! the facts of every base image that the target reaches, then `Done(plan)`.
#![forbid(unsafe_code)]

pub mod source;
pub mod diagnostic;
pub mod instruction;
