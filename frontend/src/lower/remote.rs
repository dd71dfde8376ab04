//! Sources of `ADD` that are not in the build context: files behind URLs, and git repositories.

use proto::address::{file_name, is_http, split_login};
use proto::definition::{HttpOp, Op};
use proto::digest::Digest;

use crate::diagnostic::Diagnostic;
use crate::git::{GitReference, GitReferenceError};
use crate::instruction::{Copy, Word};

/// Which of the expanded `sources` are remote: an op for each that is.
pub(crate) fn of_add(copy: &Copy, sources: &[String], checksum: &str) -> Result<Vec<Option<Op>>, Diagnostic> {
    let checksum = copy
        .checksum
        .as_ref()
        .filter(|_| !checksum.is_empty())
        .map(|word| (word, checksum));
    if let Some((word, _)) = checksum {
        let refused = |message| Err(Diagnostic::error("checksum-of-local", word.span, message));
        match sources {
            [one] if is_http(one) || GitReference::parse(one).is_some_and(is_distinct) => {}
            [_] => return refused("checksum requires HTTP(S) or Git sources"),
            _ => return refused("checksum can't be specified for multiple sources"),
        }
    }
    let mut remotes = Vec::new();
    for (word, source) in copy.sources.iter().zip(sources) {
        remotes.push(match GitReference::parse(source) {
            Some(parsed) if is_distinct(parsed.clone()) => {
                let wrong = |error: GitReferenceError| invalid(word, error.to_string());
                Some(git_op(copy, word, parsed.map_err(wrong)?, checksum)?)
            }
            _ if is_http(source) => Some(http_op(source, checksum)?),
            _ => None,
        });
    }
    Ok(remotes)
}

/// `github.com/…` without a scheme is a path here, however it is meant where it names a context.
fn is_distinct(parsed: Result<GitReference, GitReferenceError>) -> bool {
    parsed.map_or(true, |parsed| !parsed.shorthand)
}

fn invalid(word: &Word, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("invalid-git-reference", word.span, message)
}

fn git_op(
    copy: &Copy,
    word: &Word,
    mut reference: GitReference,
    checksum: Option<(&Word, &str)>,
) -> Result<Op, Diagnostic> {
    if let (Some(flag), Some(query)) = (copy.keep_git_dir, reference.keep_git_dir)
        && flag != query
    {
        return Err(invalid(word, "inconsistent keep-git-dir configuration"));
    }
    reference.keep_git_dir = reference.keep_git_dir.or(copy.keep_git_dir);
    if let Some((flag, value)) = checksum {
        match &reference.remote.checksum {
            Some(known) if known != value => {
                let message = format!("checksum mismatch {value:?} != {known:?}");
                return Err(Diagnostic::error("invalid-checksum", flag.span, message));
            }
            _ => reference.remote.checksum = Some(value.to_owned()),
        }
    }
    Ok(Op::Git(reference.into_op()))
}

fn http_op(url: &str, checksum: Option<(&Word, &str)>) -> Result<Op, Diagnostic> {
    let digest = |(word, text): (&Word, &str)| {
        let wrong = |_| {
            Diagnostic::error(
                "invalid-checksum",
                word.span,
                format!("invalid checksum digest format: {text:?}"),
            )
            .help("write `--checksum=sha256:` and 64 hex digits")
        };
        text.parse::<Digest>().map_err(wrong)
    };
    Ok(Op::Http(HttpOp {
        url: url.to_owned(),
        file_name: file_name(url),
        checksum: checksum.map(digest).transpose()?,
        pin: None,
    }))
}

/// What a copy takes of the filesystem of `op`: the one file of a URL, all of a repository.
pub(crate) fn pattern(op: &Op) -> String {
    match op {
        Op::Http(http) => {
            let mut pattern = String::from("/");
            for c in http.file_name.chars() {
                // The name is no wildcard, whatever is in it.
                if matches!(c, '*' | '?' | '[' | '\\') {
                    pattern.push('\\');
                }
                pattern.push(c);
            }
            pattern
        }
        _ => "/".to_owned(),
    }
}

/// `text` without the logins in the addresses of `sources`: it is shown to whoever sees the progress or gets the image.
pub(crate) fn without_logins(text: String, sources: &[String]) -> String {
    sources.iter().fold(text, |text, source| match split_login(source) {
        (Some(login), _) if is_http(source) => text.replace(&format!("{login}@"), ""),
        _ => text,
    })
}

/// Refuses remote sources of `COPY`; the answer has nothing in it.
pub(crate) fn refuse(copy: &Copy, sources: &[String]) -> Result<Vec<Option<Op>>, Diagnostic> {
    for (word, source) in copy.sources.iter().zip(sources) {
        let what = match GitReference::parse(source) {
            Some(Err(error)) => return Err(invalid(word, error.to_string())),
            Some(Ok(reference)) if !reference.shorthand => "git ref",
            _ if is_http(source) => "URL",
            _ => continue,
        };
        return Err(
            Diagnostic::error("copy-remote", word.span, format!("source can't be a {what} for COPY"))
                .help("`ADD` takes remote sources"),
        );
    }
    Ok(sources.iter().map(|_| None).collect())
}
