//! Lowering through the public API, against images that exist only in these tests.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot write to a string or find its stub fails at once"
)]

mod errors;
mod goldens;
mod hostile;
mod limits;
mod plans;
mod scopes;
mod support;
