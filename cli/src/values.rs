//! Small notations in flags: CSV, sizes, durations, `KEY=VALUE`.

use std::time::Duration;

use crate::engine::Amount;
use crate::exit::Problem;

/// Splits one line of CSV: fields between commas, quotes as in `"a,b"`, `""` for a quote.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, Problem> {
    let broken = || Problem::usage(format!("`{text}`: the quotes do not match"));
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = rest.split_once(',').map_or((rest, None), |(f, m)| (f, Some(m)));
            if field.contains('"') {
                return Err(broken());
            }
            fields.push(field.to_owned());
            match more {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, after) = quoted_field(quoted).ok_or_else(broken)?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err(broken()),
        }
    }
}

/// The field up to its closing quote, and what follows.
fn quoted_field(mut text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (part, after) = text.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                text = more;
            }
            None => return Some((field, after)),
        }
    }
}

/// `KEY=VALUE`; the key is not empty.
pub(crate) fn key_value<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str), Problem> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(Problem::usage(format!("{flag}: `{text}` is not of the form KEY=VALUE"))),
    }
}

/// `true`, `false`, `1`, `0`: what other builders take as a boolean.
pub(crate) fn boolean(key: &str, text: &str) -> Result<bool, Problem> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Problem::usage(format!("non-bool value specified for {key}: `{text}`"))),
    }
}

/// A number of bytes, with an optional unit: `512`, `64m`, `1.5g`, `10GiB`. Units are powers of 1024.
pub(crate) fn bytes(flag: &str, text: &str) -> Result<u64, Problem> {
    let wrong = || Problem::usage(format!("{flag}: `{text}` is not a size")).help("write it as in 512, 64m or 10g");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let scale = 1_u64 << shift;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part = fraction_of(fraction, scale).ok_or_else(wrong)?;
    whole
        .checked_mul(scale)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(wrong)
}

/// `0.fraction` of `scale`, rounded down.
fn fraction_of(fraction: &str, scale: u64) -> Option<u64> {
    if fraction.is_empty() {
        return Some(0);
    }
    // Nine digits are exact enough for terabytes, and fit.
    let digits = fraction.get(..fraction.len().min(9))?;
    let value: u128 = digits.parse().ok()?;
    let tens = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    u64::try_from(value * u128::from(scale) / tens).ok()
}

/// A size, or a part of the store's disk: `10g`, `60%`.
pub(crate) fn amount(flag: &str, text: &str) -> Result<Amount, Problem> {
    let Some(percent) = text.strip_suffix('%') else {
        return bytes(flag, text).map(Amount::Bytes);
    };
    match percent.parse() {
        Ok(percent @ 0..=100) => Ok(Amount::Percent(percent)),
        _ => Err(Problem::usage(format!("{flag}: `{text}` is no part of a disk")).help("write it as in 60%")),
    }
}

/// A duration: `90s`, `15m`, `1h30m`, `250ms`, `7d`, `2w`.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, Problem> {
    let wrong =
        || Problem::usage(format!("{flag}: `{text}` is not a duration")).help("write it as in 90s, 15m, 1h30m or 7d");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(24 * 3600),
            "w" => Duration::from_secs(7 * 24 * 3600),
            _ => return Err(wrong()),
        };
        total = unit
            .checked_mul(number)
            .and_then(|d| total.checked_add(d))
            .ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_fields_may_be_quoted() {
        assert_eq!(csv("type=local,dest=out").unwrap(), ["type=local", "dest=out"]);
        assert_eq!(csv(r#"type=image,"name=a,b""#).unwrap(), ["type=image", "name=a,b"]);
        assert_eq!(csv(r#""a""b",c"#).unwrap(), [r#"a"b"#, "c"]);
        assert_eq!(csv("a,,").unwrap(), ["a", "", ""]);
        assert_eq!(csv("").unwrap(), [""]);
    }

    #[test]
    fn csv_with_stray_quotes_is_refused() {
        for bad in [r#""a"#, r#""a"b"#, r#"a"b"#, r#"a,"b"#] {
            assert!(csv(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, expected) in [
            ("0", 0),
            ("512", 512),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("10GiB", 10 << 30),
            ("2kb", 2048),
        ] {
            assert_eq!(bytes("--x", text).unwrap(), expected, "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1.2.3m", "99999999999999t", "1e3"] {
            assert!(bytes("--x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_sizes_or_parts_of_a_disk() {
        assert_eq!(amount("--x", "10g").unwrap(), Amount::Bytes(10 << 30));
        assert_eq!(amount("--x", "60%").unwrap(), Amount::Percent(60));
        for bad in ["101%", "%", "-1%", "half"] {
            assert!(amount("--x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("--x", "1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("--x", "250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("--x", "7d").unwrap(), Duration::from_secs(7 * 86400));
        assert_eq!(duration("--x", "1w1h").unwrap(), Duration::from_secs(7 * 86400 + 3600));
        for bad in ["", "5", "m", "1y", "1m5"] {
            assert!(duration("--x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn booleans_are_those_of_other_builders() {
        assert_eq!(boolean("push", "1"), Ok(true));
        assert_eq!(boolean("push", "False"), Ok(false));
        assert!(
            boolean("push", "yes")
                .unwrap_err()
                .message
                .contains("non-bool value specified for push")
        );
    }
}
