//! Input of strangers, each test named after the row of `docs/security.md` that it stands for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod any_input;
mod layers;
