//! Words and references against the tables of `testdata/tables`, and what a one-line table cannot say.

use frontend::words::{ExpandReason, Expander, Quotes, Unset, expand_heredoc};
use proptest::prelude::*;
use proto::reference::{Reference, ReferenceError};

const WORDS: &str = include_str!("../../testdata/tables/words.txt");
const REFERENCES: &str = include_str!("../../testdata/tables/references.txt");

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "FOO" => "xxyy",
        "E" => "",
        "P" => "/a/b.tar.gz",
        "D" => "a b",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn words_expand_as_the_table_says() {
    let mut wrong = Vec::new();
    let mut cases = 0;
    for line in WORDS.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        let (word, expected) = line.rsplit_once(" => ").expect("a case has an arrow");
        let found = match Expander::new('\\').expand(word, &lookup) {
            Ok(expanded) => format!("«{}»", expanded.text),
            Err(error) => format!("error {}", error.reason),
        };
        cases += 1;
        if found != expected {
            wrong.push(format!("{word}: expected {expected}, found {found}"));
        }
    }
    assert!(cases > 60, "only {cases} cases were read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn references_are_completed_or_refused_as_the_table_says() {
    let (digest, tag) = (format!("sha256:{}", "0".repeat(64)), "t".repeat(128));
    let long = |text: &str| {
        text.replace("@D", &format!("@{digest}"))
            .replace(":T", &format!(":{tag}"))
    };
    let mut wrong = Vec::new();
    let mut cases = 0;
    for line in REFERENCES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
    {
        let (text, expected) = line.split_once(" => ").expect("a case has an arrow");
        let found = match long(text).parse::<Reference>() {
            Ok(reference) => {
                let full = reference.to_string();
                assert_eq!(
                    full.parse(),
                    Ok(reference),
                    "{text}: the full form is another reference"
                );
                full
            }
            Err(ReferenceError::Format(_)) => "error format".to_owned(),
            Err(ReferenceError::UpperCase(_)) => "error upper case".to_owned(),
        };
        cases += 1;
        if found != long(expected) {
            wrong.push(format!("{text}: expected {expected}, found {found}"));
        }
    }
    assert!(cases > 70, "only {cases} cases were read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_name_the_whole_word() {
    let error = Expander::new('\\').expand("a${U:?no}b", &lookup).unwrap_err();
    assert_eq!(error.to_string(), "failed to process \"a${U:?no}b\": U: no");
}

#[test]
fn the_backtick_can_be_the_escape_character() {
    let expand = |word| Expander::new('`').expand(word, &lookup).unwrap().text;
    assert_eq!(expand(r"C:\a`$FOO\$FOO"), r"C:\a$FOO\xxyy");
    assert_eq!(expand("\"`\"`a\""), "\"`a");
}

#[test]
fn unset_names_are_reported_once_and_in_order() {
    let expanded = Expander::new('\\').expand("$B${A:-x}$B$FOO${C+y}", &lookup).unwrap();
    assert_eq!(
        (expanded.text.as_str(), expanded.unset),
        ("xxxyy", ["B", "A", "C"].map(String::from).to_vec())
    );
}

#[test]
fn variables_split_into_words_unless_quoted() {
    let words = |text| Expander::new('\\').expand_words(text, &lookup).unwrap().words;
    assert_eq!(words("  $D c\\ d \"$D\" '' x$D "), ["a", "b", "c d", "a b", "xa", "b"]);
}

/// What other builders leave in an image for `EXPOSE` depends on this.
#[test]
fn a_word_in_braces_takes_the_place_of_what_stands_before_it_when_words_are_split() {
    let words = |text| Expander::new('\\').expand_words(text, &lookup).unwrap().words;
    assert_eq!(words("a b${U:-c}d"), ["a", "cd"]);
    assert_eq!(words("b${FOO:-c}d"), ["xxyyd"]);
    assert_eq!(words("b\"${U:-c d}\"e"), ["c de"]);
    assert_eq!(words("b${FOO/x/z}"), ["zxyy"]);
    assert_eq!(words("b${FOO}d"), ["bxxyyd"]);
}

#[test]
fn two_less_than_signs_hold_the_next_word() {
    let words = |text| Expander::new('\\').expand_words(text, &lookup).unwrap().words;
    assert_eq!(words("a << b < c"), ["a", "<< b", "<", "c"]);
}

#[test]
fn an_unknown_modifier_of_an_unset_variable_stays_where_unset_ones_stay() {
    let keeping = Expander {
        unset: Unset::Keep,
        ..Expander::new('\\')
    };
    assert_eq!(keeping.expand("${U:=x}", &lookup).unwrap().text, "${U:=x}");
    assert!(keeping.expand("${FOO:=x}", &lookup).is_err());
    assert!(keeping.expand("${U=x}", &lookup).is_err());
    assert!(keeping.expand("${U:#x}", &lookup).is_err());
}

#[test]
fn quotes_are_text_in_a_heredoc() {
    let expanded = expand_heredoc("$FOO \\$FOO \"q\" 'r' \\\\ \\n\n", &lookup).unwrap();
    assert_eq!(expanded.text, "xxyy $FOO \"q\" 'r' \\ n\n");
}

#[test]
fn what_is_unset_can_stay_as_written() {
    let keeping = Expander {
        unset: Unset::Keep,
        quotes: Quotes::Keep,
        ..Expander::new('\\')
    };
    let text = keeping
        .expand("\"$U\" ${U} ${U:-a} ${U#b} ${U/c/d} $FOO", &lookup)
        .unwrap()
        .text;
    assert_eq!(text, "\"$U\" ${U} ${U:-a} ${U#b} ${U/c/d} xxyy");
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let word = format!("{}x{}", "${A:-".repeat(100_000), "}".repeat(100_000));
    let error = Expander::new('\\').expand(&word, &lookup).unwrap_err();
    assert_eq!(error.reason, ExpandReason::NestedTooDeep);
}

#[test]
fn a_word_brings_in_a_limited_amount() {
    let long = "x".repeat(100_000);
    let lookup = |name: &str| (name == "A").then(|| long.clone());
    let expand = |word: &str| Expander::new('\\').expand(word, &lookup);
    assert_eq!(expand(&"$A".repeat(10)).unwrap().text.len(), 1_000_000);
    // Not only what comes out counts: this would be a terabyte on the way, work of hours, or both.
    for word in [
        "$A".repeat(11),
        "${A//?/$A}".into(),
        "${U:+$A}".repeat(11),
        "${A%%*$A*y}".into(),
    ] {
        assert_eq!(expand(&word).unwrap_err().reason, ExpandReason::TooLong, "{word}");
    }
    assert_eq!(expand("${A%%x*}").unwrap().text, "");
}

proptest! {
    #[test]
    fn any_word_expands_or_fails(word in r#"[a-c${}:/#%?*'"\\ \n+-]{0,24}|\PC{0,16}"#) {
        let once = Expander::new('\\').expand(&word, &lookup);
        prop_assert_eq!(&once, &Expander::new('\\').expand(&word, &lookup));
        if !word.contains(['$', '\'', '"', '\\']) {
            prop_assert_eq!(once.unwrap().text, word);
        }
    }
}
