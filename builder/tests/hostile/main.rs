//! Input of strangers, each test named after the row of `docs/security.md` that it stands for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod any_input;
mod layers;

/// Whether this test can run; says so if not, and fails where everything is required to run.
#[expect(
    clippy::disallowed_methods,
    reason = "only tests ask for this variable, and cli's configuration is not in here"
)]
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn privileged(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let required = std::env::var("RBUILD_TEST_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "{test} needs root");
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}
