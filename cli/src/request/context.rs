//! Where the files of a build come from: a directory, stdin, or an address that the server fetches.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use frontend::git::GitReference;
use proto::address::{is_http, is_ssh, redacted};
use proto::v1::named_context::Kind;

use crate::args::BuildArgs;
use crate::dockerfile::{self, Description};
use crate::engine;
use crate::exit::Problem;
use crate::session::extract;

/// The main context and what the build is described by.
pub(crate) struct MainContext {
    /// Where the files are.
    pub(crate) files: Files,
    /// Dockerfile and ignore file; nothing if the Dockerfile is in a context that the server fetches.
    pub(crate) description: Option<Description>,
    /// How messages name the Dockerfile; its path in a context that the server fetches.
    pub(crate) dockerfile_name: String,
    /// What the user should know.
    pub(crate) notice: Option<String>,
}

/// Where the files of a context are.
pub(crate) enum Files {
    /// In a directory of the user.
    Directory(PathBuf),
    /// In a directory that lives as long as the build.
    Temporary(tempfile::TempDir),
    /// Behind an address.
    Remote(Kind),
}

/// The main context that the flags name.
///
/// # Errors
/// A context or a Dockerfile that cannot be read.
pub(crate) fn main_context(args: &BuildArgs, stdin: impl Read) -> Result<MainContext, Problem> {
    let file = args.file.as_deref();
    let url = file.and_then(Path::to_str).filter(|file| is_http(file));
    let elsewhere = match (file, url) {
        (Some(file), _) if file == Path::new("-") && args.context == "-" => {
            return Err(Problem::usage("stdin can not be both the context and the Dockerfile"));
        }
        (_, Some(url)) => Some(engine::download_dockerfile(url)?),
        _ => None,
    };
    if args.context == "-" {
        return match elsewhere {
            None => from_stdin(file, stdin),
            Some(dockerfile) => {
                let found = from_stdin(None, stdin)?;
                Ok(with_dockerfile(
                    found.files,
                    Description {
                        dockerfile,
                        ignore: None,
                    },
                    found.notice,
                ))
            }
        };
    }
    let stdin_file = |stdin| dockerfile::from_stream(stdin);
    if let Some(kind) = remote(&args.context)? {
        let files = Files::Remote(kind);
        let dockerfile = match (elsewhere, file) {
            (Some(dockerfile), _) => dockerfile,
            (None, Some(file)) if file == Path::new("-") => stdin_file(stdin)?,
            (None, file) => {
                let name = file.map_or_else(|| "Dockerfile".to_owned(), |file| file.display().to_string());
                return Ok(MainContext {
                    files,
                    description: None,
                    dockerfile_name: name,
                    notice: None,
                });
            }
        };
        return Ok(with_dockerfile(
            files,
            Description {
                dockerfile,
                ignore: None,
            },
            None,
        ));
    }
    let root = directory(&args.context)?;
    let description = match (elsewhere, file) {
        (Some(dockerfile), _) => Description {
            dockerfile,
            ignore: dockerfile::context_ignore(&root)?,
        },
        (None, Some(file)) if file == Path::new("-") => Description {
            dockerfile: stdin_file(stdin)?,
            ignore: dockerfile::context_ignore(&root)?,
        },
        // Messages name the path as it was typed; the session needs the resolved one.
        (None, file) => dockerfile::read(Path::new(&args.context), file)?,
    };
    Ok(with_dockerfile(Files::Directory(root), description, None))
}

/// Whether `context` is a git repository that is reached over SSH.
pub(crate) fn is_over_ssh(context: &str) -> bool {
    matches!(GitReference::parse(context), Some(Ok(reference)) if is_ssh(&reference.remote.address))
}

fn with_dockerfile(files: Files, description: Description, notice: Option<String>) -> MainContext {
    MainContext {
        files,
        dockerfile_name: description.dockerfile.name.clone(),
        description: Some(description),
        notice,
    }
}

/// Stdin as the context: a tar archive, perhaps compressed, or a Dockerfile alone.
fn from_stdin(file: Option<&Path>, mut stdin: impl Read) -> Result<MainContext, Problem> {
    let failed = |error: std::io::Error| Problem::environment(format!("the context from stdin: {error}"));
    let temporary = tempfile::Builder::new()
        .prefix("rbuild-context-")
        .tempdir()
        .map_err(failed)?;
    let root = temporary.path().to_owned();
    let mut spool = tempfile::tempfile().map_err(failed)?;
    std::io::copy(&mut stdin, &mut spool).map_err(failed)?;
    spool.flush().map_err(failed)?;
    spool.rewind().map_err(failed)?;
    let mut notice = None;
    let description = match engine::tar_in(&spool)? {
        Some(tar) => {
            let unpacked = extract::extract(tar, &root, extract::Owners::Invoker);
            unpacked.map_err(|error| Problem::usage(format!("the context from stdin: {error}")))?;
            // As for all contexts that are not a directory of the user: the Dockerfile is inside, and nothing is ignored.
            let mut description = dockerfile::read(&root, file.map(|file| root.join(file)).as_deref())?;
            if description.ignore.take().is_some() {
                notice = Some("the `.dockerignore` of the context from stdin is not applied".to_owned());
            }
            description
        }
        None => {
            if let Some(file) = file {
                return Err(Problem::usage(format!(
                    "stdin is a Dockerfile, not an archive: `-f {}` has no context to be in",
                    file.display()
                )));
            }
            spool.rewind().map_err(failed)?;
            Description {
                dockerfile: dockerfile::from_stream(spool)?,
                ignore: None,
            }
        }
    };
    Ok(with_dockerfile(Files::Temporary(temporary), description, notice))
}

/// What the server fetches, if `text` is such an address. What could be a path as well is one if it exists.
///
/// # Errors
/// Git references that contradict themselves.
pub(crate) fn remote(text: &str) -> Result<Option<Kind>, Problem> {
    let is_url = text.contains("://");
    if !is_url && Path::new(text).exists() {
        return Ok(None);
    }
    match GitReference::parse(text) {
        Some(Ok(_)) => Ok(Some(Kind::Git(text.to_owned()))),
        Some(Err(error)) => Err(Problem::usage(format!("`{}`: {error}", redacted(text)))),
        None if is_http(text) => Ok(Some(Kind::Http(text.to_owned()))),
        None => Ok(None),
    }
}

/// The resolved path of a directory that is a context.
///
/// # Errors
/// It is none, or cannot be read.
pub(crate) fn directory(text: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(text);
    let failed = |error: &dyn std::fmt::Display| Problem::usage(format!("the build context `{text}`: {error}"));
    let resolved = path.canonicalize().map_err(|error| failed(&error))?;
    if !resolved.is_dir() {
        return Err(failed(&"this is not a directory"));
    }
    // Also checks that it can be read, before a server is asked for anything.
    std::fs::read_dir(&resolved).map_err(|error| failed(&error))?;
    Ok(resolved)
}
