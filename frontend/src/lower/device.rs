//! `RUN --device`: the value → a request for a device.

use proto::definition::DeviceRequest;

use crate::diagnostic::Diagnostic;
use crate::instruction::Word;
use crate::parse::csv_fields;
use crate::suggest;

const KEYS: [&str; 2] = ["name", "required"];

/// Reads `NAME`, `NAME,required`, `name=NAME,required=true`. A name may hold a `=` itself: `vendor/class=name`.
pub(crate) fn request(written: &Word) -> Result<DeviceRequest, Diagnostic> {
    let wrong = |message: String| Diagnostic::error("invalid-device", written.span, message);
    let fields = csv_fields(&written.value).map_err(|message| wrong(message.to_owned()))?;
    let mut request = DeviceRequest {
        name: String::new(),
        required: false,
    };
    for field in fields {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        let key = key.to_ascii_lowercase();
        match (key.as_str(), field.contains('=')) {
            ("required", false) => request.required = true,
            ("required", true) => request.required = flag(value).ok_or_else(|| wrong(invalid(value)))?,
            ("name", true) if request.name.is_empty() => value.clone_into(&mut request.name),
            ("name", true) => return Err(wrong(format!("device name already set to {}", request.name))),
            _ if request.name.is_empty() => request.name = field,
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
    if request.name.is_empty() {
        return Err(wrong("the device has no name".to_owned()).help("write `--device=vendor/class=name`"));
    }
    Ok(request)
}

fn invalid(value: &str) -> String {
    format!("invalid value for required: {value}")
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
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
        let found = request(&word).map(|request| (request.name, request.required));
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
        check("", Err("the device has no name"));
        check("required", Err("the device has no name"));
        check("a,b", Err("invalid field 'b' must be a key=value pair"));
        check("a,nam=b", Err("unexpected key 'nam' in 'nam=b'"));
        check("a,name=b", Err("device name already set to a"));
        check("a,required=maybe", Err("invalid value for required: maybe"));
        check("\"a", Err("a quoted option does not end"));
    }
}
