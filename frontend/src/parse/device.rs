//! `RUN --device`: the value → which device is asked for.

use super::run::csv_fields;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Device, Word};
use crate::suggest;

const KEYS: [&str; 2] = ["name", "required"];

/// Reads `NAME`, `NAME,required`, `name=NAME,required=true`. A name may hold a `=` itself: `vendor/class=name`. There may be no
/// name, which is a mistake where the step is needed.
pub(super) fn device(raw: Word) -> Result<Device, Diagnostic> {
    let wrong = |message: String| Diagnostic::error("invalid-device", raw.span, message);
    let fields = csv_fields(&raw.value).map_err(|message| wrong(message.to_owned()))?;
    let (mut name, mut required) = (String::new(), false);
    for field in fields {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        let key = key.to_ascii_lowercase();
        match (key.as_str(), field.contains('=')) {
            ("required", false) => required = true,
            ("required", true) => required = super::flags::switch(value).ok_or_else(|| wrong(invalid(value)))?,
            ("name", true) if name.is_empty() => value.clone_into(&mut name),
            ("name", true) => return Err(wrong(format!("device name already set to {name}"))),
            _ if name.is_empty() => name = field,
            (_, false) => return Err(wrong(format!("invalid field '{field}' must be a key=value pair"))),
            (_, true) => {
                let error = wrong(format!("unexpected key '{key}' in '{field}'"));
                return Err(match suggest::nearest(&key, KEYS) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
        }
    }
    Ok(Device { raw, name, required })
}

fn invalid(value: &str) -> String {
    format!("invalid value for required: {value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Span;

    fn check(text: &str, expected: Result<(&str, bool), &str>) {
        let word = Word {
            value: text.to_owned(),
            span: Span::new(0, text.len()),
        };
        let found = device(word).map(|device| (device.name, device.required));
        let expected = expected.map(|(name, required)| (name.to_owned(), required));
        assert_eq!(
            found.map_err(|error| error.message),
            expected.map_err(str::to_owned),
            "{text}"
        );
    }

    #[test]
    fn devices_have_a_name_and_may_be_required() {
        check("v.com/c=x", Ok(("v.com/c=x", false)));
        check("v.com/c", Ok(("v.com/c", false)));
        check("v.com/c=x,required", Ok(("v.com/c=x", true)));
        check("required=1,name=v.com/c=*", Ok(("v.com/c=*", true)));
        check("class1,required=false", Ok(("class1", false)));
        check("required", Ok(("", true)));
        check("a,b", Err("invalid field 'b' must be a key=value pair"));
        check("a,nam=b", Err("unexpected key 'nam' in 'nam=b'"));
        check("a,name=b", Err("device name already set to a"));
        check("a,required=maybe", Err("invalid value for required: maybe"));
        check("\"a", Err("a quoted option does not end"));
    }
}
