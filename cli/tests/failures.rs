//! Builds that fail: whose fault, where, and what to do about it.

use expect_test::{Expect, expect};

use crate::support::Place;
use crate::support::build::needs;

/// The words after the progress.
fn check(place: &Place, arguments: &[&str], code: i32, expected: &Expect) {
    let outcome = place.build(arguments).exits(code);
    assert_eq!(outcome.stdout, "");
    let start = outcome.stderr.find("\nerror").map_or(0, |at| at + 1);
    expected.assert_eq(&outcome.stderr[start..]);
}

#[test]
fn an_unknown_instruction_is_pointed_at_with_the_nearest_name() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nWORKDIR /a\n  CPOY a b\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
        error: unknown instruction: CPOY (did you mean COPY?)
          --> Dockerfile:3:3
           3 |   CPOY a b
             |   ^^^^
    "#]],
    );
}

#[test]
fn every_mistake_of_a_dockerfile_is_shown_at_once_in_the_order_of_the_file() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nEXPOSE\nRUM x\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: EXPOSE requires at least one argument
              --> Dockerfile:2:1
               2 | EXPOSE
                 | ^^^^^^
            error[unknown-instruction]: unknown instruction: RUM (did you mean RUN?)
              --> Dockerfile:3:1
               3 | RUM x
                 | ^^^
        "#]],
    );
}

#[test]
fn a_copy_of_what_is_not_there_says_where_it_looked() {
    needs!();
    let place = Place::new();
    place.file("apps/x", "").dockerfile("FROM base\nCOPY app.tar /srv/\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: `app.tar` is not in the build context: "/app.tar": not found
              --> Dockerfile:2:6
               2 | COPY app.tar /srv/
                 |      ^^^^^^^
            help: paths are relative to the build context; `..` does not lead out of it
        "#]],
    );
}

#[test]
fn a_copy_of_what_is_ignored_names_the_line_that_does_it() {
    needs!();
    let place = Place::new();
    place.file("app.tar", "").file(".dockerignore", "# archives\n\n*.tar\n");
    place.dockerfile("FROM base\nCOPY app.tar /srv/\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: `app.tar` is not in the build context: "/app.tar": not found
              --> Dockerfile:2:6
               2 | COPY app.tar /srv/
                 |      ^^^^^^^
            note: excluded by `*.tar`, .dockerignore line 3
            help: add `!app.tar` below it, or take the file from a stage with `--from=<stage>`
        "#]],
    );
}

#[test]
fn a_copy_of_what_a_stage_does_not_have_names_the_stage() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS compile\nRUN echo > /app\nFROM base\nCOPY --from=compile /ap /srv/\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: `/ap` not found in `compile`
              --> Dockerfile:4:21
               4 | COPY --from=compile /ap /srv/
                 |                     ^^^
        "#]],
    );
}

#[test]
fn an_unknown_target_is_answered_with_the_stages() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS compile\nFROM base AS release\n");
    check(
        &place,
        &["--target=relaese", "."],
        1,
        &expect![[r#"
        error: target stage "relaese" could not be found
        help: did you mean the stage `release`?
    "#]],
    );
}

#[test]
fn a_frontend_from_outside_is_refused_wherever_it_is_named() {
    needs!();
    let place = Place::new();
    place.dockerfile("# syntax=r.example/other:1\nFROM base\nNO SUCH THING\n");
    let refused = "error: frontend image `r.example/other:1` cannot be used: rbuild has its frontend built in\n";
    let outcome = place
        .build(&["."])
        .exits(1)
        .says(&format!("{refused}  --> Dockerfile:1:10\n"));
    assert!(!outcome.stderr.contains("unknown instruction"), "{}", outcome.stderr);
    place.dockerfile("# syntax=docker/dockerfile:1.7-labs\nFROM base\n");
    place.build(&["."]).exits(0);
    let argument = "--build-arg=BUILDKIT_SYNTAX=r.example/other:1 more";
    place
        .build(&[argument, "."])
        .exits(1)
        .says(&format!("{refused}help: leave out"));
    place.dockerfile("# syntax=r.example/other:1\nFROM base\n");
    place
        .build(&["--build-arg=BUILDKIT_SYNTAX=docker/dockerfile:1", "."])
        .exits(0);
    place
        .build(&["--build-arg=BUILDKIT_SYNTAX=", "."])
        .exits(2)
        .says("BUILDKIT_SYNTAX cannot be empty");
}

#[test]
fn a_failing_step_shows_its_line_its_code_and_its_last_words() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo fine\nRUN echo one; echo two; exit 7\nRUN echo never\n");
    let outcome = place.build(&["."]).exits(1);
    let steps = outcome.steps();
    assert_eq!(
        steps.len(),
        2,
        "what follows a failure does not run: {}",
        outcome.stderr
    );
    let excerpt = " RUN echo one; echo two; exit 7:\none\ntwo\n------\nerror: ";
    assert!(outcome.stderr.contains(excerpt), "{}", outcome.stderr);
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: process "/bin/sh -c echo one; echo two; exit 7" did not complete successfully: exit code: 7
              --> Dockerfile:3:1
               3 | RUN echo one; echo two; exit 7
            help: look at what it left: `rbuild debug [build] 5`
        "#]],
    );
}

#[test]
fn a_step_that_a_signal_ends_says_which() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN kill -9 $$\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: process "/bin/sh -c kill -9 $$" did not complete successfully: exit code: 137
              --> Dockerfile:2:1
               2 | RUN kill -9 $$
            note: signal 9 ended it
            help: look at what it left: `rbuild debug [build] 4`
        "#]],
    );
}

#[test]
fn a_program_that_is_not_there_is_named() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN [\"/no/such\", \"x\"]\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: process "/no/such x" did not complete successfully: exit code: 127
              --> Dockerfile:2:1
               2 | RUN ["/no/such", "x"]
            help: look at what it left: `rbuild debug [build] 4`
        "#]],
    );
}

#[test]
fn a_shell_that_is_not_there_is_named() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM scratch\nRUN true\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
            error: process "/bin/sh -c true" did not complete successfully: exit code: 127
              --> Dockerfile:2:1
               2 | RUN true
            help: look at what it left: `rbuild debug [build] 2`
        "#]],
    );
}

#[test]
fn a_user_that_is_not_there_is_named() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nUSER bob\nRUN true\n");
    check(
        &place,
        &["."],
        1,
        &expect![[r#"
        error: unable to find user bob: no matching entries in passwd file
          --> Dockerfile:3:1
           3 | RUN true
    "#]],
    );
}

#[test]
fn a_step_that_failed_runs_again_and_steps_before_it_do_not() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN echo once\nRUN --mount=type=cache,target=/c test -e /c/second || { touch /c/second; false; }\n",
    );
    place.build(&["."]).exits(1);
    let outcome = place.build(&["."]).exits(0);
    assert_eq!(outcome.step("RUN echo once").status, "CACHED");
    assert_eq!(outcome.steps()[1].status, "DONE");
}

#[test]
fn the_host_network_must_be_granted() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN --network=host true\n");
    let outcome = place.build(&["."]);
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    outcome.says("network.host");
    place.build(&["--allow=network.host", "."]).exits(0);
}

#[test]
fn a_build_that_fails_writes_no_output() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN false\n");
    place
        .build(&["-o", "type=oci,dest=out", "--iidfile=id", "--metadata-file=meta", "."])
        .exits(1);
    for name in ["type=oci,dest=out", "id", "meta"] {
        assert!(!place.work().join(name).exists(), "{name}");
    }
}
