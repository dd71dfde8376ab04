//! The text that a check offers instead of what is written.

/// `text` as one word of `ENV` or `LABEL`: quoted where it must be, variables still alive.
pub(crate) fn value(text: &str, escape: char) -> String {
    let plain = |ch: char| !ch.is_whitespace() && !matches!(ch, '"' | '\'') && ch != escape;
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for ch in text.chars() {
        if ch == '"' || ch == escape {
            quoted.push(escape);
        }
        quoted.push(ch);
    }
    quoted.push('"');
    quoted
}

/// A shell command as a JSON array: its words if a shell would find the same ones, else the shell with the command, and true.
pub(crate) fn exec_form(command: &str) -> (String, bool) {
    let simple = |ch: char| {
        ch.is_ascii_alphanumeric() || matches!(ch, ' ' | '/' | '.' | '-' | '_' | ':' | ',' | '@' | '+' | '%' | '=')
    };
    let assigns = command.split(' ').next().is_some_and(|word| word.contains('='));
    let needs_shell = assigns || !command.chars().all(simple);
    let words: Vec<&str> = match needs_shell {
        false => command.split(' ').filter(|word| !word.is_empty()).collect(),
        true => vec!["/bin/sh", "-c", command],
    };
    let quoted: Vec<String> = words
        .into_iter()
        .map(|word| serde_json::Value::from(word).to_string())
        .collect();
    (format!("[{}]", quoted.join(", ")), needs_shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_only_where_they_must_be() {
        assert_eq!(value("a=$B", '\\'), "a=$B");
        assert_eq!(value("a b", '\\'), r#""a b""#);
        assert_eq!(value(r#"say "hi""#, '\\'), r#""say \"hi\"""#);
        assert_eq!(value(r#"c:\x y""#, '`'), r#""c:\x y`"""#);
        assert_eq!(value("", '\\'), r#""""#);
    }

    #[test]
    fn a_command_keeps_its_shell_if_it_needs_one() {
        for (command, form, needs_shell) in [
            ("node  server.js", r#"["node", "server.js"]"#, false),
            ("serve --port=80", r#"["serve", "--port=80"]"#, false),
            ("A=1 serve", r#"["/bin/sh", "-c", "A=1 serve"]"#, true),
            ("echo $HOME", r#"["/bin/sh", "-c", "echo $HOME"]"#, true),
            (r#"a && "b""#, r#"["/bin/sh", "-c", "a && \"b\""]"#, true),
        ] {
            assert_eq!(exec_form(command), (form.to_owned(), needs_shell));
        }
    }
}
