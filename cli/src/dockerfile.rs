//! Finds and reads the Dockerfile and its ignore file, before anything else happens.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::exit::{Blame, Problem};

/// Largest Dockerfile and ignore file: far more than anyone writes by hand, far less than hurts.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// A file with the name that messages use for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedText {
    /// As the user gave it, or as it was found.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// What a build is described by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// The Dockerfile.
    pub(crate) dockerfile: NamedText,
    /// The ignore file of the main context, if there is one.
    pub(crate) ignore: Option<NamedText>,
}

/// Reads the Dockerfile `file` (default: `context/Dockerfile`) and the ignore file that belongs to it.
///
/// `<Dockerfile>.dockerignore` beside the Dockerfile wins over `.dockerignore` in the context.
pub(crate) fn read(context: &Path, file: Option<&Path>) -> Result<Description, Problem> {
    let (path, name) = match file {
        Some(path) => (path.to_owned(), path.display().to_string()),
        None => default_dockerfile(context),
    };
    // A pipe that the user names is a Dockerfile; one that lies in the context would keep us waiting.
    let dockerfile = match if file.is_some() {
        read_limited(&path)
    } else {
        read_regular(&path)
    } {
        Ok(Some(bytes)) => NamedText { name, bytes },
        Ok(None) => return Err(missing(&path, context, file.is_some())),
        Err(problem) => return Err(problem),
    };
    let mut own = path.into_os_string();
    own.push(".dockerignore");
    let own = PathBuf::from(own);
    let ignore = match read_regular(&own)? {
        Some(bytes) => Some(NamedText {
            name: file_name(&own),
            bytes,
        }),
        None => context_ignore(context)?,
    };
    Ok(Description { dockerfile, ignore })
}

/// A Dockerfile by its path, without a context.
pub(crate) fn file(path: &Path) -> Result<NamedText, Problem> {
    let name = path.display().to_string();
    match read_limited(path)? {
        Some(bytes) => Ok(NamedText { name, bytes }),
        None => Err(missing(path, Path::new("."), true)),
    }
}

/// The `.dockerignore` at the top of a context.
pub(crate) fn context_ignore(context: &Path) -> Result<Option<NamedText>, Problem> {
    let bytes = read_regular(&context.join(".dockerignore"))?;
    Ok(bytes.map(|bytes| NamedText {
        name: ".dockerignore".to_owned(),
        bytes,
    }))
}

/// A Dockerfile from a stream, such as stdin.
pub(crate) fn from_stream(stream: impl Read) -> Result<NamedText, Problem> {
    let bytes = take(stream, "stdin")?;
    Ok(NamedText {
        name: "stdin".to_owned(),
        bytes,
    })
}

/// `Dockerfile`, or `dockerfile` if only that is there.
fn default_dockerfile(context: &Path) -> (PathBuf, String) {
    let lower = context.join("dockerfile");
    if !context.join("Dockerfile").exists() && lower.exists() {
        return (lower, "dockerfile".to_owned());
    }
    (context.join("Dockerfile"), "Dockerfile".to_owned())
}

/// The bytes of a file that is no pipe and no device; nothing if there is none.
fn read_regular(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            Err(Problem::usage(format!("`{}` is no regular file", path.display())))
        }
        // Whatever else is wrong with it shows itself when it is read.
        _ => read_limited(path),
    }
}

/// The bytes of a file; nothing if there is none.
fn read_limited(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let failed = |error: std::io::Error| Problem::usage(format!("failed to read `{}`: {error}", path.display()));
    match std::fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.is_dir() => {
            return Err(Problem::usage(format!("`{}` is a directory", path.display())));
        }
        Ok(_) => {}
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    take(file, &path.display().to_string()).map(Some)
}

fn take(stream: impl Read, name: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    stream
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::usage(format!("failed to read `{name}`: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Problem::usage(format!(
            "`{name}` is larger than {} MiB",
            MAX_BYTES >> 20
        )));
    }
    Ok(bytes)
}

fn missing(path: &Path, context: &Path, asked_for: bool) -> Problem {
    let shown = path.display();
    let message = format!("failed to read dockerfile: open {shown}: no such file or directory");
    let problem = Problem::new(Blame::Usage, message);
    let directory = if asked_for {
        path.parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    } else {
        context
    };
    let near = near_names(directory);
    if let [first, ..] = near.as_slice() {
        let example = directory.join(first);
        return problem
            .note(format!("`{}` has {}", directory.display(), list(&near)))
            .help(format!("name the file, as in `-f {}`", example.display()));
    }
    if asked_for {
        return problem.help("paths after `-f` are relative to the current directory, not to the context");
    }
    problem.help("name the Dockerfile with `-f PATH`")
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Files of `directory` that look like what was meant, at most five, in byte order.
fn near_names(directory: &Path) -> Vec<String> {
    // A directory that can not be listed has no near names: the problem itself is told anyway.
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let lower = name.to_ascii_lowercase();
            let known = lower.starts_with("dockerfile") || lower.starts_with("containerfile");
            (known || lower.ends_with(".dockerfile")) && !lower.ends_with(".dockerignore")
        })
        .collect();
    names.sort();
    names.truncate(5);
    names
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(OsStr::new(".dockerignore"))
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }

    #[test]
    fn the_ignore_file_of_a_dockerfile_wins() {
        let context = context(&[
            ("Dockerfile", "FROM a"),
            (".dockerignore", "general"),
            ("other", "FROM b"),
            ("other.dockerignore", "special"),
        ]);
        let default = read(context.path(), None).unwrap();
        assert_eq!(default.dockerfile.name, "Dockerfile");
        assert_eq!(default.dockerfile.bytes, b"FROM a");
        assert_eq!(default.ignore.unwrap().bytes, b"general");
        let other = read(context.path(), Some(&context.path().join("other"))).unwrap();
        let ignore = other.ignore.unwrap();
        assert_eq!(
            (ignore.name.as_str(), ignore.bytes.as_slice()),
            ("other.dockerignore", &b"special"[..])
        );
    }

    #[test]
    fn a_lower_case_dockerfile_is_found() {
        let context = context(&[("dockerfile", "FROM a")]);
        let description = read(context.path(), None).unwrap();
        assert_eq!(description.dockerfile.name, "dockerfile");
        assert_eq!(description.ignore, None);
    }

    #[test]
    fn a_missing_dockerfile_names_the_path_and_near_names() {
        let context = context(&[
            ("Containerfile", ""),
            ("app.dockerfile", ""),
            ("Dockerfile.dockerignore", ""),
        ]);
        let problem = read(context.path(), None).unwrap_err();
        assert_eq!(problem.blame, Blame::Usage);
        let path = context.path().join("Dockerfile");
        assert!(problem.message.contains(&path.display().to_string()));
        assert!(
            problem.notes[0].ends_with("has `Containerfile`, `app.dockerfile`"),
            "{:?}",
            problem.notes
        );
        assert!(problem.helps[0].contains("-f "));
    }

    #[test]
    fn a_missing_dockerfile_alone_asks_for_its_name() {
        let context = context(&[]);
        let problem = read(context.path(), None).unwrap_err();
        assert_eq!(problem.helps, ["name the Dockerfile with `-f PATH`"]);
        let asked = read(context.path(), Some(&context.path().join("x"))).unwrap_err();
        assert!(asked.helps[0].contains("relative to the current directory"));
    }

    #[test]
    fn r07_a_pipe_in_the_context_is_not_waited_for() {
        for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
            let context = match name {
                "Dockerfile" => context(&[]),
                _ => context(&[("Dockerfile", "FROM a")]),
            };
            let place = context.path().join(name);
            rustix::fs::mkfifoat(rustix::fs::CWD, place, rustix::fs::Mode::RUSR).unwrap();
            let problem = read(context.path(), None).unwrap_err();
            assert!(problem.message.ends_with("is no regular file"), "{}", problem.message);
        }
    }

    #[test]
    fn a_dockerfile_that_is_a_directory_is_refused() {
        let context = context(&[]);
        std::fs::create_dir(context.path().join("Dockerfile")).unwrap();
        assert!(
            read(context.path(), None)
                .unwrap_err()
                .message
                .ends_with("is a directory")
        );
    }
}
