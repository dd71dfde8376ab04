//! `HEALTHCHECK` and its durations.

use super::Statement;
use super::flags::{Flags, Takes};
use super::form;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Command, Healthcheck, Kind, Word};

const FLAGS: [(&str, Takes); 5] = [
    ("interval", Takes::Text),
    ("timeout", Takes::Text),
    ("start-period", Takes::Text),
    ("start-interval", Takes::Text),
    ("retries", Takes::Text),
];

/// Shortest duration that engines take.
const MIN_DURATION_NS: i64 = 1_000_000;

pub(super) fn healthcheck(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    let text = statement.rest.as_str();
    let (kind, command) = statement
        .rest
        .split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    let given = command.trim();
    let command = form::command(given)?;
    match kind.as_str().to_ascii_uppercase().as_str() {
        "" => Err(statement.needs_an_argument()),
        "NONE" if given.is_empty() => Ok(Kind::Healthcheck(Healthcheck::default())),
        "NONE" => Err(Diagnostic::error(
            "excess-argument",
            given.span(),
            "HEALTHCHECK NONE takes no arguments",
        )),
        "CMD" => {
            let flags = Flags::check(&statement.flags, &FLAGS)?;
            if is_empty(&command) {
                let message = "Missing command after HEALTHCHECK CMD";
                return Err(Diagnostic::error("missing-argument", kind.span(), message));
            }
            check(&flags, command).map(Kind::Healthcheck)
        }
        name => {
            Flags::check(&statement.flags, &FLAGS)?;
            let message = format!("Unknown type \"{name}\" in HEALTHCHECK (try CMD)");
            Err(Diagnostic::error("unknown-healthcheck", kind.span(), message))
        }
    }
}

fn is_empty(command: &Command) -> bool {
    match command {
        Command::Shell(text) => text.value.is_empty(),
        Command::Exec(words) => words.is_empty(),
    }
}

fn check(flags: &Flags, command: Command) -> Result<Healthcheck, Diagnostic> {
    Ok(Healthcheck {
        command: Some(command),
        interval_ns: duration(flags, "interval")?,
        timeout_ns: duration(flags, "timeout")?,
        start_period_ns: duration(flags, "start-period")?,
        start_interval_ns: duration(flags, "start-interval")?,
        retries: retries(flags.text("retries"))?,
    })
}

fn duration(flags: &Flags, name: &str) -> Result<i64, Diagnostic> {
    let Some(word) = flags.text(name) else { return Ok(0) };
    let Some(duration_ns) = nanoseconds(&word.value) else {
        let message = format!("invalid duration \"{}\" for --{name}", word.value);
        return Err(Diagnostic::error("invalid-flag-value", word.span, message)
            .help("write numbers with units, such as `30s`, `1m30s` or `500ms`"));
    };
    if duration_ns != 0 && duration_ns < MIN_DURATION_NS {
        let message = format!("Interval \"{name}\" cannot be less than 1ms");
        return Err(Diagnostic::error("invalid-flag-value", word.span, message));
    }
    Ok(duration_ns)
}

fn retries(word: Option<Word>) -> Result<i64, Diagnostic> {
    let Some(word) = word else { return Ok(0) };
    match word.value.parse::<i32>() {
        Ok(count) if count < 0 => {
            let message = format!("--retries cannot be negative ({count})");
            Err(Diagnostic::error("invalid-flag-value", word.span, message))
        }
        Ok(count) => Ok(i64::from(count)),
        Err(cause) => {
            let message = format!("--retries is not a number: \"{}\"", word.value);
            Err(Diagnostic::error("invalid-flag-value", word.span, message).note(cause.to_string()))
        }
    }
}

/// A duration as Go writes it: a sign, then numbers with units; fractions of a nanosecond are cut off. `None` is not one,
/// or more than 292 years.
fn nanoseconds(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let number_end = rest
            .find(|ch: char| !ch.is_ascii_digit() && ch != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|ch: char| ch.is_ascii_digit() || ch == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        total = total.checked_add(scaled(number, unit_ns(unit)?)?)?;
        rest = after;
    }
    Some(if negative { -total } else { total })
}

fn unit_ns(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// A decimal number times a unit.
fn scaled(number: &str, unit_ns: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit_ns)?;
    // Thirteen digits reach below a nanosecond, even of an hour.
    let digits: String = fraction.chars().take(13).collect();
    if !digits.is_empty() {
        let parts: i128 = digits.parse().ok()?;
        let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
        total = total.checked_add(i64::try_from(parts * i128::from(unit_ns) / scale).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        let check = |text, expected| assert_eq!(nanoseconds(text), expected, "{text}");
        check("0", Some(0));
        check("30s", Some(30_000_000_000));
        check("1m30s", Some(90_000_000_000));
        check("1.5h", Some(5_400_000_000_000));
        check(".5ms", Some(500_000));
        check("-1s", Some(-1_000_000_000));
        check("5", None);
        check("s", None);
        check("", None);
        check(".s", None);
        check("1d", None);
        check("1.2.3s", None);
        check("9999999999999h", None);
    }
}
