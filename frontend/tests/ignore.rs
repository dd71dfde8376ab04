//! Ignore patterns where matching a path and walking down to it differ, and what cleaning leaves.

use frontend::patterns::{IgnoreFile, Patterns};

/// Whether a walk that asks for every directory on the way would leave the path out.
fn walked(patterns: &Patterns, path: &str) -> bool {
    let mut state = patterns.root();
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        state = patterns.descend(&state, &path.as_bytes()[..at]);
    }
    patterns.excludes(&state)
}

#[test]
fn a_walk_does_not_bring_back_what_its_directory_never_lost() {
    let patterns = IgnoreFile::parse("z/foo\n!z\n").unwrap();
    // `!z` was not asked for `z`, which nothing had excluded, and does not match `z/foo` itself.
    assert!(walked(&patterns, "z/foo"));
    assert!(!patterns.matches(b"z/foo"));
    let patterns = IgnoreFile::parse("z\n!z\n").unwrap();
    assert!(!walked(&patterns, "z/foo"));
    let patterns = IgnoreFile::parse("a\n!a/b\na\n").unwrap();
    assert!(!walked(&patterns, "a/b"));
    assert!(patterns.matches(b"a/b"));
}

#[test]
fn patterns_of_an_ignore_file_are_shortened_and_those_of_flags_taken_as_they_are() {
    let cleaned = IgnoreFile::cleaned("/a//b/./c/\n ! /d \n../x\n/\n.\n!\n a # b\n");
    assert_eq!(cleaned, ["a/b/c", "!d", "../x", "/", ".", "!", "a # b"]);
    let matches = |pattern: &str| Patterns::new(&[pattern]).unwrap().matches(b"a");
    assert!(matches(" a/ "));
    assert!(!matches("/a"));
    assert!(IgnoreFile::parse("/a").unwrap().matches(b"a"));
    let negated = Patterns::new(&["a", "! a"]).unwrap();
    assert!(negated.matches(b"a"), "the blank is part of the name");
}

#[test]
fn odd_paths_have_clean_parents() {
    let matches = |pattern: &str, path: &str| Patterns::new(&[pattern]).unwrap().matches(path.as_bytes());
    assert!(matches("a", "a//b"));
    assert!(!matches("a/*", "a//b"));
    assert!(matches("/", "/a"));
    assert!(!matches(".", "./a"));
}
