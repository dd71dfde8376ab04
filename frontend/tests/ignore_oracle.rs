//! Ignore patterns against a matcher that follows the rules word by word: it tries everything, so it can not be wrong, only slow.

use frontend::patterns::{IgnoreFile, wildcard_matches};
use proptest::prelude::*;

/// Whether `patterns` exclude `path`: the last pattern that matches it, or a directory it is in, decides.
fn excluded(patterns: &[String], path: &str) -> bool {
    let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
    let all: Vec<&str> = parents.chain([path]).collect();
    let mut excluded = false;
    for pattern in patterns {
        let (negated, body) = pattern
            .strip_prefix('!')
            .map_or((false, pattern.as_str()), |body| (true, body));
        if all.iter().any(|path| matches(body, path)) {
            excluded = !negated;
        }
    }
    excluded
}

fn matches(pattern: &str, path: &str) -> bool {
    let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
    if plain(pattern) {
        return pattern == path;
    }
    if let Some(end) = pattern.strip_prefix("**").filter(|end| plain(end)) {
        return path.ends_with(end) || end.strip_prefix('/') == Some(path);
    }
    if let Some(start) = pattern.strip_suffix("**").filter(|start| plain(start)) {
        return path.starts_with(start);
    }
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    general(&pattern, &path)
}

fn general(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*', rest @ ..] => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            let below = |at: usize| path[at] == '/' && general(rest, &path[at + 1..]);
            rest.is_empty() || general(rest, path) || (0..path.len()).any(below)
        }
        ['*', rest @ ..] => {
            let name = path.iter().take_while(|character| **character != '/').count();
            (0..=name).any(|taken| general(rest, &path[taken..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|first| *first != '/') && general(rest, &path[1..]),
        ['\\', literal, rest @ ..] => path.first() == Some(literal) && general(rest, &path[1..]),
        ['[', class @ ..] => {
            let Some(first) = path.first() else { return false };
            let (holds, rest) = in_class(class, *first);
            holds && general(rest, &path[1..])
        }
        [literal, rest @ ..] => path.first() == Some(literal) && general(rest, &path[1..]),
    }
}

/// Whether a class that is well formed holds a character, and what follows it.
fn in_class(class: &[char], wanted: char) -> (bool, &[char]) {
    let (negated, mut rest) = match class {
        ['^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut inside = false;
    loop {
        let low;
        (low, rest) = member(rest);
        let mut high = low;
        if let ['-', after @ ..] = rest {
            (high, rest) = member(after);
        }
        inside |= (low..=high).contains(&wanted);
        if let [']', after @ ..] = rest {
            return (inside != negated, after);
        }
    }
}

fn member(class: &[char]) -> (char, &[char]) {
    match class {
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal, rest),
        [] => panic!("the class has no end"),
    }
}

/// Clean patterns over few characters: no empty names, nothing to trim.
fn patterns() -> impl Strategy<Value = String> {
    let pieces = [
        "a", "b", "ab", "/", "/", "*", "**", "?", "[a]", "[^a]", "[a-b/]", "\\*", "\\a", "]", "**/", "/**",
    ];
    let body = prop::collection::vec(prop::sample::select(pieces.to_vec()), 1..7).prop_map(|parts| parts.concat());
    let clean = |text: &String| !text.contains("//") && !text.starts_with('/') && !text.ends_with('/');
    ("!?", body.prop_filter("not clean", clean)).prop_map(|(negation, body)| negation + &body)
}

fn path() -> impl Strategy<Value = String> {
    "[ab*]{1,3}(/[ab]{1,2}){0,3}"
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn ignore_files_decide_as_the_rules_say(list in prop::collection::vec(patterns(), 1..4), paths in prop::collection::vec(path(), 1..6)) {
        if let Ok(read) = IgnoreFile::parse(&list.join("\n")) {
            for path in paths {
                prop_assert_eq!(read.matches(path.as_bytes()), excluded(&list, &path), "{:?} and {}", list, path);
            }
        }
    }

    #[test]
    fn a_directory_is_entered_if_something_inside_could_be_taken_back(list in prop::collection::vec(patterns(), 1..4), path in path()) {
        if let Ok(read) = IgnoreFile::parse(&list.join("\n")) {
            let taken_back = read.deciding(path.as_bytes()).is_some_and(|(pattern, _)| pattern.starts_with('!'));
            for (at, _) in path.match_indices('/') {
                prop_assert!(!taken_back || read.may_match_below(&path.as_bytes()[..at]), "{:?} below {}", list, &path[..at]);
            }
        }
    }

    #[test]
    fn wildcards_of_copy_match_as_the_rules_say(pattern in "([ab*?]|\\[a-b\\]|\\[\\^a\\]|\\\\[ab*]){0,8}", name in "[ab*/]{0,8}") {
        let (chars, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
        // Two stars are one star twice there, and a class never holds a slash.
        let expected = !name.contains('/') && one_star_each(&chars, &text);
        prop_assert_eq!(wildcard_matches(&pattern, &name), Ok(expected));
    }
}

fn one_star_each(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        ['*', rest @ ..] => (0..=name.len()).any(|taken| one_star_each(rest, &name[taken..])),
        ['?', rest @ ..] => !name.is_empty() && one_star_each(rest, &name[1..]),
        ['[', class @ ..] => name.first().is_some_and(|first| {
            let (holds, rest) = in_class(class, *first);
            holds && one_star_each(rest, &name[1..])
        }),
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
            name.first() == Some(literal) && one_star_each(rest, &name[1..])
        }
        [] => name.is_empty(),
    }
}

/// Trying everything would take longer here than there is time.
#[test]
fn hostile_patterns_end() {
    let (stars, name) = ("a*".repeat(100) + "b", "a".repeat(2_000));
    assert_eq!(wildcard_matches(&stars, &name), Ok(false));
    let deep = "**/".repeat(100) + &"a*/".repeat(50) + "b";
    let patterns = IgnoreFile::parse(&format!("{stars}\n{deep}\n")).unwrap();
    assert!(!patterns.matches(name.as_bytes()));
    let directory = patterns.descend(&patterns.root(), "aaa/".repeat(500).as_bytes());
    assert!(!patterns.excludes(&directory));
}
