//! Paths as text: joined and cleaned as a Unix path, never looked up.

/// Lexically shortest form of an absolute path: no `.`, no `..`, no `//`, no trailing `/`. `..` at the root stays there.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` seen from `base`, which is absolute; cleaned.
pub(crate) fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&format!("{base}/{path}"))
    }
}

/// The last component; empty for the root.
pub(crate) fn base_name(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default()
}

/// The file system of the kernel that a cleaned `path` leads into, if it does.
pub(crate) fn of_the_kernel(path: &str) -> Option<&'static str> {
    let is_in = |top: &&str| {
        path.strip_prefix(*top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    ["/proc", "/sys"].into_iter().find(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_cleaned_as_text() {
        for (base, path, expected) in [
            ("/", "a", "/a"),
            ("/w", "sub", "/w/sub"),
            ("/w", "/", "/"),
            ("/w", "..", "/"),
            ("/w", "../../x/./y//", "/x/y"),
            ("/w", "/a/../b/./c", "/b/c"),
            ("/w", "", "/w"),
        ] {
            assert_eq!(join(base, path), expected, "{base} {path}");
        }
        assert_eq!((base_name("/a/b/"), base_name("/")), ("b", ""));
        let kernel = ["/proc", "/proc/self/fd/3", "/sys/x", "/process", "/a/proc"].map(of_the_kernel);
        assert_eq!(kernel, [Some("/proc"), Some("/proc"), Some("/sys"), None, None]);
    }
}
