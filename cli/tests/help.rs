//! The help texts, as users read them.

use expect_test::{ExpectFile, expect_file};

use crate::support::Place;

fn check(arguments: &[&str], expected: &ExpectFile) {
    let outcome = Place::new().run(arguments).exits(0);
    assert_eq!(outcome.stderr, "");
    expected.assert_eq(&outcome.stdout);
}

#[test]
fn the_commands_are_listed_with_one_line_each() {
    check(&["--help"], &expect_file!["golden/rbuild.txt"]);
}

#[test]
fn the_options_of_build_are_explained() {
    check(&["build", "--help"], &expect_file!["golden/build.txt"]);
}

#[test]
fn the_marks_of_the_store_are_explained() {
    check(&["serve", "--help"], &expect_file!["golden/serve.txt"]);
    check(&["prune", "--help"], &expect_file!["golden/prune.txt"]);
}

#[test]
fn the_ways_to_look_inside_are_explained() {
    check(&["debug", "--help"], &expect_file!["golden/debug.txt"]);
    check(&["run", "--help"], &expect_file!["golden/run.txt"]);
    check(&["cp", "--help"], &expect_file!["golden/cp.txt"]);
}

#[test]
fn help_is_a_command_too() {
    check(&["help", "build"], &expect_file!["golden/build.txt"]);
}
