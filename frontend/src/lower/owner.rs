//! `--chown`, `--chmod` and `USER` values → owners and modes.

use proto::definition::{Id, ModeChange, Owner};

/// Why a value is no owner or mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    /// A number that no user or group can have.
    #[error("invalid id `{0}`: expected a number up to 2147483646")]
    Id(String),
    /// Neither octal nor clauses.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Octal(String),
    /// A symbolic mode that is none.
    #[error("invalid chmod parameter: '{0}'. invalid syntax")]
    Symbolic(String),
}

/// The largest id that user namespaces and tar headers agree on.
pub(crate) const MAX_ID: u32 = 2_147_483_646;

/// `user[:group]`. `:group` leaves the user to be 0, `user:` selects group 0.
pub(crate) fn parse_owner(text: &str) -> Result<Owner, AccessError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { None } else { Some(parse_id(user)?) };
    let group = match group {
        None => None,
        Some("") => Some(Id::Number(0)),
        Some(group) => Some(parse_id(group)?),
    };
    Ok(Owner { user, group })
}

fn parse_id(text: &str) -> Result<Id, AccessError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Id::Name(text.to_owned()));
    }
    let number = text.parse::<u32>().ok().filter(|number| *number <= MAX_ID);
    number.map(Id::Number).ok_or_else(|| AccessError::Id(text.to_owned()))
}

/// Octal digits, or clauses like `u+rwX,go=r`.
pub(crate) fn parse_mode(text: &str) -> Result<ModeChange, AccessError> {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        return mode
            .map(ModeChange::Octal)
            .ok_or_else(|| AccessError::Octal(text.to_owned()));
    }
    if text.split(',').all(is_clause) {
        Ok(ModeChange::Symbolic(text.to_owned()))
    } else {
        Err(AccessError::Symbolic(text.to_owned()))
    }
}

/// `[ugoa]*` and then, once or more, `+`, `-` or `=` with permissions or one class to copy from.
fn is_clause(clause: &str) -> bool {
    let operator = |character: char| matches!(character, '+' | '-' | '=');
    let Some(first) = clause.find(operator) else {
        return false;
    };
    let (who, actions) = clause.split_at(first);
    let permissions = |text: &str| {
        matches!(text, "u" | "g" | "o")
            || text
                .bytes()
                .all(|byte| matches!(byte, b'r' | b'w' | b'x' | b'X' | b's' | b't'))
    };
    who.bytes().all(|byte| matches!(byte, b'u' | b'g' | b'o' | b'a'))
        && actions.split(operator).skip(1).all(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        let number = |number| Some(Id::Number(number));
        let name = |name: &str| Some(Id::Name(name.to_owned()));
        for (text, user, group) in [
            ("3", number(3), None),
            ("1:2", number(1), number(2)),
            ("joe", name("joe"), None),
            ("joe:grp", name("joe"), name("grp")),
            (":grp", None, name("grp")),
            ("user:", name("user"), number(0)),
        ] {
            assert_eq!(parse_owner(text).unwrap(), Owner { user, group }, "{text}");
        }
        assert_eq!(
            parse_owner("2147483647").unwrap_err(),
            AccessError::Id("2147483647".into())
        );
    }

    #[test]
    fn modes_are_octal_or_clauses() {
        for (text, mode) in [("600", 0o600), ("07777", 0o7777), ("0", 0)] {
            assert_eq!(parse_mode(text).unwrap(), ModeChange::Octal(mode));
        }
        for good in ["a+rwX", "u=rw,go=r", "g+w,o=u-x,+X", "u+s,+t", "a="] {
            assert_eq!(parse_mode(good).unwrap(), ModeChange::Symbolic(good.into()));
        }
        for bad in ["08", "77777", "8"] {
            assert_eq!(parse_mode(bad).unwrap_err(), AccessError::Octal(bad.into()));
        }
        for bad in ["a+y", "u+x,", "rwx", "u", "z+x", "u+ug"] {
            assert_eq!(parse_mode(bad).unwrap_err(), AccessError::Symbolic(bad.into()), "{bad}");
        }
    }
}
