//! Addresses of remote files and repositories as messages, logs and stored facts may show them.

/// `address` without user, password and query, which may hold secrets: `https://me:word@host/a?token=1` becomes
/// `https://host/a?…`. The fragment stays.
#[must_use]
pub fn redacted(address: &str) -> String {
    let (whole, fragment) = match address.split_once('#') {
        Some((whole, fragment)) => (whole, format!("#{fragment}")),
        None => (address, String::new()),
    };
    let (whole, query) = match whole.split_once('?') {
        Some((whole, _)) => (whole, "?…"),
        None => (whole, ""),
    };
    match whole.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            format!("{scheme}://{host}{path}{query}{fragment}")
        }
        // `user@host:path` names an account, and has no place for a password.
        None => format!("{whole}{query}{fragment}"),
    }
}

/// `user:password` of a URL, if it has a part for them, and the URL without it.
#[must_use]
pub fn split_login(address: &str) -> (Option<&str>, String) {
    let Some((scheme, rest)) = address.split_once("://") else {
        return (None, address.to_owned());
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), format!("{scheme}://{host}{path}")),
        None => (None, address.to_owned()),
    }
}

/// Host and port of a URL or of `user@host:path`, as names of secrets have it.
#[must_use]
pub fn host(address: &str) -> Option<&str> {
    let authority = match address.split_once("://") {
        Some((_, rest)) => rest.split(['/', '?', '#']).next()?,
        None => address.split_once(':')?.0,
    };
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then_some(host)
}

/// Replaces `%41` by the byte it stands for; what is no such escape stays.
#[must_use]
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| !hex.starts_with('+'))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    decoded
}

/// Whether `text` is an HTTP(S) URL; a git reference may be one too.
#[must_use]
pub fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Whether `text` is the address of a repository over SSH: `ssh://…` or `user@host:path`.
#[must_use]
pub fn is_ssh(text: &str) -> bool {
    text.starts_with("ssh://") || is_scp(text)
}

/// Whether `text` is `user@host:path`, as `scp` has it.
#[must_use]
pub fn is_scp(text: &str) -> bool {
    let Some((account, path)) = text.split_once(':') else {
        return false;
    };
    let of = |text: &str, more: &str| {
        let mut characters = text.chars();
        !text.is_empty()
            && !text.starts_with('-')
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(c))
    };
    let named = account.split_once('@');
    named.is_some_and(|(user, host)| of(user, "_") && of(host, ".")) && !path.is_empty()
}

/// The name of the file behind a URL: the last component of its path, or `__unnamed__`.
#[must_use]
pub fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    // Decoded first: an encoded slash is one for whoever names the file.
    let decoded = String::from_utf8(percent_decoded(path)).unwrap_or_else(|_| path.to_owned());
    match decoded.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => "__unnamed__".to_owned(),
        Some(name) if name.contains('\0') => "__unnamed__".to_owned(),
        Some(name) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        for (address, shown) in [
            ("https://me:word@host:1/a/b?token=1#x", "https://host:1/a/b?…#x"),
            ("https://host", "https://host"),
            ("https://tok@en@host/p@th", "https://host/p@th"),
            ("git@host:a/b.git#main", "git@host:a/b.git#main"),
        ] {
            assert_eq!(redacted(address), shown, "{address}");
        }
    }

    #[test]
    fn a_login_is_taken_out_of_a_url() {
        assert_eq!(
            split_login("https://me:word@host/a"),
            (Some("me:word"), "https://host/a".to_owned())
        );
        assert_eq!(split_login("https://host/a@b"), (None, "https://host/a@b".to_owned()));
        assert_eq!(split_login("git@host:a"), (None, "git@host:a".to_owned()));
    }

    #[test]
    fn repositories_over_ssh_have_two_forms() {
        for (text, expected) in [
            ("ssh://h/a", true),
            ("git@h.example:a", true),
            ("git@h:", false),
            ("h:a", false),
            ("-u@h:a", false),
            ("git@-h:a", false),
            ("ext::a@b:c", false),
            ("https://git@h/a:b", false),
        ] {
            assert_eq!(is_ssh(text), expected, "{text}");
        }
    }

    #[test]
    fn hosts_are_found_in_both_forms() {
        assert_eq!(host("https://me@host.example:8/a"), Some("host.example:8"));
        assert_eq!(host("git@host.example:a/b"), Some("host.example"));
        assert_eq!(host("https:///a"), None);
    }

    #[test]
    fn only_whole_escapes_are_decoded() {
        assert_eq!(percent_decoded("a%20b%2fc%zz%4"), b"a b/c%zz%4");
        assert_eq!(percent_decoded("%+1"), b"%+1");
    }

    #[test]
    fn files_are_named_by_the_end_of_their_path() {
        for (url, expected) in [
            ("http://h/a/b.tar.gz?x=/y#/z", "b.tar.gz"),
            ("http://h/a/", "a"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2Fb", "b"),
            ("http://h/%ff", "%ff"),
        ] {
            assert_eq!(file_name(url), expected, "{url}");
        }
    }
}
