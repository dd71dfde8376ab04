//! The seam to the library: every call of the command line into `builder` and `cache` that is not gRPC.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use builder::context::{self, WalkRequest};
pub(crate) use builder::context::{Fate, Listed};
use builder::limits::Limits;
use builder::op::archive;
use builder::server;
use cache::addresses::Reach;
use cache::download::{DownloadError, Downloader, Request};
use cache::registry::{Credentials, Patience, credentials};
use frontend::patterns::{IgnoreFile, Patterns};
use proto::digest::ContentDigest;
use proto::entitlement::Entitlements;
use proto::platform::Platform;
use proto::tree::{EntryKind, Tree};
use proto::v1;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::dockerfile::NamedText;
use crate::exit::{Blame, Problem};

pub(crate) use builder::server::prepare_process;

/// How a server is run.
#[derive(Debug, Clone)]
pub(crate) struct ServeOptions {
    /// Directory of the store.
    pub(crate) root: PathBuf,
    /// Ends after this long without builds.
    pub(crate) idle_timeout: Option<Duration>,
    /// What clients of other users may allow their steps.
    pub(crate) entitlements: Entitlements,
    /// Whether steps of every build are hardened.
    pub(crate) hardened: bool,
    /// Directories with specifications of devices.
    pub(crate) device_specs: Vec<PathBuf>,
    /// When it collects by itself.
    pub(crate) marks: Marks,
    /// The kind of sandbox for steps; nothing: the best one that is possible.
    pub(crate) sandbox: Option<Tier>,
    /// What every step gets that asks for nothing, and no step gets more of.
    pub(crate) limits: v1::StepLimits,
}

pub(crate) use builder::executor::tier::Tier;

pub(crate) use builder::room::Marks;
pub(crate) use cache::budget::Amount;

/// Where specifications of devices are on every machine.
pub(crate) use builder::cdi::DIRECTORIES as DEVICE_SPECS;

/// A login as the session hands it out.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    /// Empty: none, go on anonymously.
    pub(crate) username: String,
    /// Password or token.
    pub(crate) password: String,
    /// An OAuth2 refresh token instead of a password.
    pub(crate) identity_token: String,
}

impl std::fmt::Debug for Login {
    /// The name only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// The first thing `main` does: if this process is the init of a sandbox, runs it and never returns.
pub(crate) fn become_sandbox_init() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == builder::executor::INIT_ARGUMENT)
    {
        builder::executor::init_main();
    }
}

/// Makes this process one that can make sandboxes of `asked`, or of the best kind that is possible. There must be one thread.
///
/// # Errors
/// Why that is not possible.
pub(crate) fn settle(asked: Option<Tier>) -> Result<(), Problem> {
    builder::executor::tier::settle(asked).map_err(|error| Problem::environment(error.to_string()))
}

/// Steps that run at the same time.
fn slots() -> usize {
    std::thread::available_parallelism()
        .map_or(4, std::num::NonZero::get)
        .max(2)
        * 2
}

/// Whether a server takes these limits.
///
/// # Errors
/// The first that makes no sense.
pub(crate) fn check_limits(limits: &v1::StepLimits) -> Result<(), Problem> {
    limits_from_wire(limits.clone()).map(drop)
}

fn limits_from_wire(limits: v1::StepLimits) -> Result<Limits, Problem> {
    Limits::from_wire(limits).map_err(|error| Problem::usage(error.to_string()))
}

fn options(options: ServeOptions, wait_for_store: bool) -> Result<server::ServeOptions, Problem> {
    let limits = limits_from_wire(options.limits)?;
    Ok(server::ServeOptions {
        limits,
        root: options.root,
        idle_timeout: options.idle_timeout,
        slots: slots(),
        wait_for_store,
        entitlements: options.entitlements,
        hardened: options.hardened,
        device_specs: options.device_specs,
        marks: options.marks,
        tier: options.sandbox,
        sandbox_program: PathBuf::from("/proc/self/exe"),
    })
}

fn failed(error: &server::ServeError) -> Problem {
    let mut problem = Problem::environment(error.to_string());
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        problem = problem.note(source.to_string());
        cause = source.source();
    }
    problem
}

/// The tar in a file of the user, plain or compressed; nothing if there is none.
///
/// # Errors
/// A file that begins as an archive and does not go on as one.
pub(crate) fn tar_in(file: &std::fs::File) -> Result<Option<Box<dyn std::io::Read + Send>>, Problem> {
    archive::tar_in(file).map_err(|error| Problem::usage(format!("the context from stdin: {error}")))
}

/// The Dockerfile behind a URL, which the client fetches: the server need not reach it.
///
/// # Errors
/// No whole answer.
pub(crate) fn download_dockerfile(url: &str) -> Result<NamedText, Problem> {
    let failed = |error: DownloadError| {
        let blame = match error {
            DownloadError::Setup { .. } => Blame::Environment,
            _ => Blame::Remote,
        };
        Problem::new(blame, error.to_string())
    };
    let request = Request {
        url: url.to_owned(),
        limit_bytes: crate::dockerfile::MAX_BYTES,
        reach: Reach::ThisMachine,
        ..Request::default()
    };
    let mut bytes = Vec::new();
    let runtime = crate::commands::runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let downloader = Downloader::new(Patience::default()).map_err(failed)?;
    runtime
        .block_on(downloader.fetch(&request, &mut bytes))
        .map_err(failed)?;
    Ok(NamedText {
        name: proto::address::redacted(url),
        bytes,
    })
}

/// Serves on `listener` until `shutdown`, or until nothing was asked for `idle_timeout`.
///
/// # Errors
/// The store can not be used.
pub(crate) async fn serve(
    serve: ServeOptions,
    listener: UnixListener,
    shutdown: CancellationToken,
) -> Result<(), Problem> {
    server::serve(options(serve, false)?, listener, shutdown)
        .await
        .map_err(|error| failed(&error))
}

/// Runs the server inside this process until `shutdown`; the handle ends when nothing of it is left.
///
/// # Errors
/// The store can not be used.
pub(crate) async fn in_process(
    serve: ServeOptions,
    shutdown: CancellationToken,
) -> Result<(Channel, JoinHandle<Result<(), Problem>>), Problem> {
    let started = server::in_process(options(serve, true)?, shutdown)
        .await
        .map_err(|error| failed(&error))?;
    let ended = tokio::spawn(async move {
        match started.ended.await {
            Ok(result) => result.map_err(|error| failed(&error)),
            Err(error) => Err(Problem::new(
                Blame::Bug,
                format!("the server inside this process ended: {error}"),
            )),
        }
    });
    Ok((started.channel, ended))
}

/// A tree, and what a server is told of it besides.
pub(crate) struct Walked {
    /// What was selected.
    pub(crate) tree: Tree,
    /// Without the tree.
    pub(crate) message: v1::ContextTree,
}

/// What `wanted` selects of the context at `root`, after the ignore file. Blocks. Digests of files that did not change come from
/// a file in `cache_dir`.
///
/// # Errors
/// Words for the user: what could not be read.
pub(crate) fn walk(
    root: &Path,
    ignore: Option<&NamedText>,
    wanted: &v1::WalkContext,
    cache_dir: Option<&Path>,
) -> Result<Walked, String> {
    let patterns = ignore.map(patterns).transpose()?;
    let modes = v1::ContextModes::try_from(wanted.modes);
    let modes = modes.map_err(|_| "the server asks for modes of files that this client does not know".to_owned())?;
    // One cache a context: what walks do not see is forgotten in the end.
    let name = ContentDigest::of(root.as_os_str().as_encoded_bytes()).hex();
    let caches = cache_dir.map(|dir| dir.join("contexts"));
    // Where no cache can be kept, every file is read: slower, and just as right.
    let caches = caches.filter(|caches| std::fs::create_dir_all(caches).is_ok());
    let stat_cache = caches.map(|caches| caches.join(&name[..16]));
    let request = WalkRequest {
        include: &wanted.include,
        ignore: patterns.as_ref(),
        modes: modes.into(),
    };
    let started = Instant::now();
    let walked = context::walk(root, &request, stat_cache.as_deref()).map_err(|error| with_causes(&error))?;
    let excluded = walked.excluded.into_iter().map(|excluded| v1::context_tree::Excluded {
        path: excluded.path.as_bytes().to_vec(),
        pattern: excluded.pattern,
        line: excluded.line,
    });
    Ok(Walked {
        message: v1::ContextTree {
            excluded: excluded.collect(),
            walk_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..v1::ContextTree::default()
        },
        tree: walked.tree,
    })
}

/// What of `root` is sent under an ignore file, in order: `path`, `path/` for a directory, `path -> target` for a link. Blocks.
///
/// # Errors
/// Words for the user: a malformed pattern, or what could not be read.
pub(crate) fn sent(root: &Path, ignore: &str) -> Result<Vec<String>, String> {
    let patterns = IgnoreFile::parse(ignore).map_err(|error| error.to_string())?;
    let request = WalkRequest {
        ignore: Some(&patterns),
        ..WalkRequest::default()
    };
    let walked = context::walk(root, &request, None).map_err(|error| with_causes(&error))?;
    let shown = walked.tree.entries().iter().map(|entry| {
        let path = String::from_utf8_lossy(entry.path.as_bytes());
        match &entry.kind {
            EntryKind::Directory { .. } => format!("{path}/"),
            EntryKind::Symlink { target } => format!("{path} -> {}", String::from_utf8_lossy(target)),
            _ => path.into_owned(),
        }
    });
    Ok(shown.collect())
}

/// The platform of this machine.
pub(crate) fn native_platform() -> Platform {
    server::open::native_platform()
}

/// Every path of the context at `root`, and whether a build that reads `include` (nothing: everything) gets it. Blocks.
///
/// # Errors
/// Words for the user: what could not be read.
pub(crate) fn list(root: &Path, ignore: Option<&Patterns>, include: Option<&[String]>) -> Result<Vec<Listed>, String> {
    context::list(root, ignore, include).map_err(|error| with_causes(&error))
}

/// The patterns of an ignore file.
///
/// # Errors
/// Words for the user: the pattern that is none.
pub(crate) fn patterns(file: &NamedText) -> Result<Patterns, String> {
    let text = String::from_utf8_lossy(&file.bytes);
    IgnoreFile::parse(&text).map_err(|error| format!("`{}`: {error}", file.name))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_causes(source)),
        None => error.to_string(),
    }
}

/// The login of this user for `registry`, from `config.json` in `config_dir` or its credential helpers. Blocks.
///
/// # Errors
/// Words for the user: a broken file, a helper that failed.
pub(crate) fn lookup_login(config_dir: &Path, registry: &str) -> Result<Login, String> {
    let found = credentials::lookup(config_dir, registry).map_err(|error| error.to_string())?;
    Ok(match found {
        None => Login::default(),
        Some(Credentials::Password { username, password }) => Login {
            username,
            password,
            ..Login::default()
        },
        Some(Credentials::IdentityToken(identity_token)) => Login {
            identity_token,
            ..Login::default()
        },
    })
}

/// Remembers a login. Blocks.
///
/// # Errors
/// The file or the credential helper can not be written.
pub(crate) fn store_login(config_dir: &Path, registry: &str, login: &Login) -> Result<(), Problem> {
    let credentials = if login.identity_token.is_empty() {
        Credentials::Password {
            username: login.username.clone(),
            password: login.password.clone(),
        }
    } else {
        Credentials::IdentityToken(login.identity_token.clone())
    };
    credentials::store(config_dir, registry, &credentials).map_err(|error| Problem::environment(error.to_string()))
}

/// Forgets a login; true if there was one. Blocks.
///
/// # Errors
/// The file or the credential helper can not be written.
pub(crate) fn erase_login(config_dir: &Path, registry: &str) -> Result<bool, Problem> {
    credentials::erase(config_dir, registry).map_err(|error| Problem::environment(error.to_string()))
}
