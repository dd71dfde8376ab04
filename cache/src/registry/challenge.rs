//! `WWW-Authenticate` headers. Source: RFC 9110 §11.6.1; distribution-spec token authentication.

use std::collections::BTreeMap;

/// How a registry wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name of the registry as the token server knows it.
        service: Option<String>,
    },
}

/// The strongest challenge among header values: a token before a password.
pub(super) fn strongest<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for value in values {
        match parse(value) {
            Some(Challenge::Basic) => basic = Some(Challenge::Basic),
            Some(bearer) => return Some(bearer),
            None => {}
        }
    }
    basic
}

fn parse(value: &str) -> Option<Challenge> {
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
    })
}

/// `name=value` or `name="value"`, separated by commas; a quoted value may hold commas and escaped quotes.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, remaining) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => match after.split_once(',') {
                Some((value, remaining)) => (value.trim().to_owned(), remaining),
                None => (after.trim().to_owned(), ""),
            },
        };
        found.insert(name, value);
        rest = remaining;
    }
    found
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], expected: Option<Challenge>) {
        assert_eq!(strongest(values.iter().copied()), expected, "{values:?}");
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_in_all_their_spellings() {
        check(&["Basic realm=\"x\""], Some(Challenge::Basic));
        check(&["basic"], Some(Challenge::Basic));
        check(
            &["Bearer realm=\"https://a.example/token\",service=\"r\",scope=\"repository:a:pull,push\""],
            bearer("https://a.example/token", Some("r")),
        );
        check(
            &["bearer service=r, realm=https://a/t"],
            bearer("https://a/t", Some("r")),
        );
        check(&["Bearer realm=\"a\\\"b\""], bearer("a\"b", None));
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        check(&["Basic realm=\"x\"", "Bearer realm=\"y\""], bearer("y", None));
    }

    #[test]
    fn what_is_no_challenge_is_ignored() {
        check(&[], None);
        check(&["Negotiate"], None);
        check(&["Bearer service=\"r\""], None);
    }
}
