//! What fails before a server is asked, with its words and exit codes.

use expect_test::{Expect, expect};

use crate::support::Place;

fn check(place: &Place, arguments: &[&str], expected: &Expect) {
    let outcome = place.run(arguments).exits(2);
    assert_eq!(outcome.stdout, "");
    expected.assert_eq(&outcome.stderr);
    assert!(
        !place.root().exists(),
        "nothing may be created for a command that can not work"
    );
}

#[test]
fn a_missing_dockerfile_shows_what_is_there_instead() {
    let place = Place::new();
    place.file("app/Containerfile", "FROM scratch\n");
    check(
        &place,
        &["build", "app"],
        &expect![[r#"
            error: failed to read dockerfile: open app/Dockerfile: no such file or directory
            note: `app` has `Containerfile`
            help: name the file, as in `-f app/Containerfile`
        "#]],
    );
}

#[test]
fn a_missing_context_is_named() {
    check(
        &Place::new(),
        &["build", "nowhere"],
        &expect![[r#"
            error: the build context `nowhere`: No such file or directory (os error 2)
        "#]],
    );
}

#[test]
fn a_missing_secret_fails_before_the_build() {
    let place = Place::new();
    place.file("Dockerfile", "FROM scratch\n");
    check(
        &place,
        &["build", "--secret", "id=token,src=none", "."],
        &expect![[r#"
            error: --secret: `token`: failed to read `none`: No such file or directory (os error 2)
        "#]],
    );
}

#[test]
fn a_server_elsewhere_must_be_one_we_can_speak_to() {
    let place = Place::new();
    place.file("Dockerfile", "FROM scratch\n");
    check(
        &place,
        &["build", "--builder", "tcp://farm:1234", "."],
        &expect![[r#"
            error: `--builder`: this version does not speak TCP yet: `tcp://farm:1234`
            help: use `unix:///path/of/server.sock`
        "#]],
    );
}

#[test]
fn a_server_that_is_not_there_is_an_error_of_this_machine() {
    let place = Place::new();
    place.file("Dockerfile", "FROM scratch\n");
    let outcome = place
        .run(&["build", "--builder", "unix:///does/not/exist.sock", "."])
        .exits(3);
    assert!(
        outcome
            .stderr
            .contains("no build server listens on `/does/not/exist.sock`"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn unknown_flags_are_usage_errors() {
    let outcome = Place::new().run(&["build", "--no-such-flag", "."]).exits(2);
    assert!(outcome.stderr.contains("--no-such-flag"));
    let nothing = Place::new().run(&[]).exits(2);
    assert!(nothing.stderr.contains("Usage: rbuild"));
}

#[test]
fn a_password_is_not_taken_from_an_empty_stdin() {
    let place = Place::new();
    let outcome = place
        .run_with_stdin(&["login", "-u", "me", "--password-stdin", "r.example"], b"\n")
        .exits(2);
    assert_eq!(outcome.stderr, "error: there is no password on stdin\n");
}

#[test]
fn a_sandbox_is_the_one_that_was_asked_for() {
    let place = Place::new();
    place.file("Dockerfile", "FROM scratch\n");
    check(
        &place,
        &["build", "--sandbox", "chroot", "."],
        &expect![[r#"
            error: `--sandbox`: `chroot` is no kind of sandbox; there are root, rootless, single-id, plain
        "#]],
    );
}
