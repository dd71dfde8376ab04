//! Finds the build server, or starts it: `ROOT/server.sock` answers, or nobody holds `ROOT/server.lock`.
//!
//! Two locks order everybody. Whoever serves holds `server.lock` for as long as it serves, so a socket whose lock is free is
//! stale. Whoever starts a server holds `server.starting` meanwhile, so of several clients one starts and the others find.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use proto::entitlement::Entitlements;
use proto::v1;
use proto::v1::admin_client::AdminClient;
use rustix::fs::FlockOperation;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::config::{Config, ServerChoice};
use crate::engine::{self, ServeOptions};
use crate::exit::{Blame, Problem};
use crate::ui;

/// Largest frame that a server may send: outputs come in few of them instead of many of 16 KiB.
const FRAME_BYTES: u32 = 256 << 10;

/// How long a server that was started may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long whoever listens may take to say who it is. A server that just started answers when its store is open.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two looks at a socket or lock that is not there yet.
const POLL: Duration = Duration::from_millis(10);

/// How long waiting for another process goes without a word.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// How long a server that we started lives without work.
const IDLE: &str = "15m";

/// Lines of the log that are shown when a server did not come up.
const LOG_LINES: usize = 10;

/// A way to the server.
#[derive(Debug)]
pub(crate) struct Connection {
    /// For any client.
    pub(crate) channel: Channel,
    /// Whether the server shares our file system: true for all but remote ones.
    pub(crate) shares_files: bool,
    /// The server inside this process, if it is there.
    in_process: Option<InProcess>,
}

#[derive(Debug)]
struct InProcess {
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), Problem>>,
    /// Held as long as this process serves.
    _lock: File,
}

impl Connection {
    /// Calls to [`Admin`](v1::admin_client).
    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// A way to a server that a test runs.
    #[cfg(test)]
    pub(crate) fn for_tests(channel: Channel) -> Self {
        outside(channel)
    }

    /// Ends a server inside this process, and waits until nothing of it is left.
    async fn close(self) -> Result<(), Problem> {
        // The server waits for its clients.
        drop(self.channel);
        let Some(in_process) = self.in_process else {
            return Ok(());
        };
        in_process.shutdown.cancel();
        match in_process.server.await {
            Ok(outcome) => outcome,
            Err(panic) => Err(Problem::new(Blame::Bug, format!("the build server: {panic}"))),
        }
    }
}

/// Connects, asks, and closes the connection however that went.
///
/// # Errors
/// Those of [`connect`] and `ask`.
pub(crate) async fn with<T>(
    config: &Config,
    ask: impl AsyncFnOnce(&Connection) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let connection = connect(config).await?;
    let answer = ask(&connection).await;
    match (answer, connection.close().await) {
        (Ok(answer), Ok(())) => Ok(answer),
        (Err(problem), _) | (Ok(_), Err(problem)) => Err(problem),
    }
}

/// Connects to the server that the configuration names; starts one if it may.
///
/// # Errors
/// Nobody answers, and no server could be started; the last lines of its log say why.
async fn connect(config: &Config) -> Result<Connection, Problem> {
    match &config.server {
        ServerChoice::InProcess => in_process(config).await,
        ServerChoice::Socket(path) => match dial(path).await? {
            Some((channel, info)) => {
                check_version(&info)?;
                check_sandbox(config, &info)?;
                Ok(outside(channel))
            }
            None => Err(
                Problem::environment(format!("no build server listens on `{}`", path.display()))
                    .help("start one with `rbuild serve`, or leave out `--builder`"),
            ),
        },
        ServerChoice::OnDemand => on_demand(config).await.map(outside),
    }
}

/// The server of the store, if it runs: for questions that are no reason to start one.
pub(crate) async fn running(config: &Config) -> Result<Option<v1::InfoReply>, Problem> {
    let path = match &config.server {
        ServerChoice::Socket(path) => path.clone(),
        ServerChoice::OnDemand | ServerChoice::InProcess => socket_path(&config.root),
    };
    Ok(dial(&path).await?.map(|(_, info)| info))
}

fn outside(channel: Channel) -> Connection {
    Connection {
        channel,
        shares_files: true,
        in_process: None,
    }
}

/// The socket of a store.
pub(crate) fn socket_path(root: &Path) -> PathBuf {
    root.join("server.sock")
}

/// Makes the directory of the store, for its owner alone.
pub(crate) fn make_root(root: &Path) -> Result<(), Problem> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.map_err(|error| {
        Problem::environment(format!("the store `{}` can not be created: {error}", root.display()))
            .help("name a directory of your own with `--root` or RBUILD_ROOT")
    })
}

async fn in_process(config: &Config) -> Result<Connection, Problem> {
    make_root(&config.root)?;
    let lock = wait_for_lock(config).await?;
    let shutdown = CancellationToken::new();
    let options = ServeOptions {
        root: config.root.clone(),
        idle_timeout: None,
        // There is one client, and it is us.
        entitlements: Entitlements::default(),
        hardened: false,
        device_specs: config.device_specs.clone(),
        marks: config.marks,
        sandbox: config.sandbox,
        limits: v1::StepLimits::default(),
    };
    let (channel, server) = engine::in_process(options, shutdown.clone()).await?;
    Ok(Connection {
        channel,
        shares_files: true,
        in_process: Some(InProcess {
            shutdown,
            server,
            _lock: lock,
        }),
    })
}

async fn wait_for_lock(config: &Config) -> Result<File, Problem> {
    let socket = socket_path(&config.root);
    let mut turn = Turn::default();
    let mut next_look = Instant::now();
    loop {
        if let Some(lock) = owned_lock(&config.root)? {
            return Ok(lock);
        }
        // A server that was started on demand would idle for minutes while we wait.
        if Instant::now() >= next_look {
            next_look = Instant::now() + TELL_AFTER;
            if let Some((channel, info)) = dial(&socket).await?
                && info.ends_when_idle
            {
                drain(config, channel, &info).await?;
            }
        }
        turn.wait(config).await;
    }
}

/// Waiting for whoever serves the store now.
struct Turn {
    since: Instant,
    told: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            told: false,
        }
    }
}

impl Turn {
    /// Waits a moment; says once whose turn it is, unless it is over at once.
    async fn wait(&mut self, config: &Config) {
        if !self.told && self.since.elapsed() > TELL_AFTER {
            let root = config.root.display();
            ui::remark(&format!(
                "waiting for the process {} that serves `{root}`",
                owner(&config.root)
            ));
            self.told = true;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The process id in the lock file, as far as it can be read: for messages only.
fn owner(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("server.lock")).unwrap_or_default();
    text.trim().to_owned()
}

/// Takes the lock that a server holds, and leaves the process id in it.
///
/// # Errors
/// Somebody else serves this store.
pub(crate) fn take_server_lock(root: &Path) -> Result<File, Problem> {
    let lock = owned_lock(root)?;
    lock.ok_or_else(|| {
        let (owner, root) = (owner(root), root.display());
        Problem::environment(format!("the process {owner} serves `{root}` already"))
    })
}

/// The lock with our process id in it; nothing if somebody else has it.
fn owned_lock(root: &Path) -> Result<Option<File>, Problem> {
    let Some(mut file) = lock(root, "server.lock")? else {
        return Ok(None);
    };
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    match written {
        Ok(()) => Ok(Some(file)),
        Err(error) => Err(Problem::environment(format!(
            "`{}/server.lock`: {error}",
            root.display()
        ))),
    }
}

/// A lock file, locked; nothing if somebody else has it. The lock ends with the file.
fn lock(root: &Path, name: &str) -> Result<Option<File>, Problem> {
    let path = root.join(name);
    let failed = |error: std::io::Error| Problem::environment(format!("`{}`: {error}", path.display()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

async fn on_demand(config: &Config) -> Result<Channel, Problem> {
    let socket = socket_path(&config.root);
    if let Some((channel, info)) = dial(&socket).await?
        && is_wanted(config, &info)
    {
        return Ok(channel);
    }
    make_root(&config.root)?;
    let _starting = loop {
        match lock(&config.root, "server.starting")? {
            Some(lock) => break lock,
            None => tokio::time::sleep(POLL).await,
        }
    };
    // Somebody else may have started it while we waited; a server may also be about to listen, or be inside a command.
    let mut turn = Turn::default();
    loop {
        match dial(&socket).await? {
            Some((channel, info)) if is_wanted(config, &info) => return Ok(channel),
            Some((channel, info)) => drain(config, channel, &info).await?,
            None => {}
        }
        if lock(&config.root, "server.lock")?.is_some() {
            return start(config, &socket).await;
        }
        turn.wait(config).await;
    }
}

/// Asks a server to end once its builds have ended, and waits until it has.
async fn drain(config: &Config, channel: Channel, info: &v1::InfoReply) -> Result<(), Problem> {
    let version = &info.version;
    if info.builds_running > 0 {
        let count = info.builds_running;
        ui::remark(&format!(
            "waiting for {count} builds of the build server of version {version}"
        ));
    }
    let mut admin = AdminClient::new(channel);
    match admin.shutdown(v1::ShutdownRequest { drain: true }).await {
        Ok(_) => {}
        // It may end before its answer is out.
        Err(status) if status.code() == tonic::Code::Unavailable => {}
        Err(status) => {
            return Err(Problem::from(status).note(format!("a build server of version {version} did not end")));
        }
    }
    while lock(&config.root, "server.lock")?.is_none() {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn start(config: &Config, socket: &Path) -> Result<Channel, Problem> {
    let log_path = config.root.join("server.log");
    let (mut child, log_start) = spawn(config, &log_path)?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some((channel, _)) = dial(socket).await? {
            return Ok(channel);
        }
        let ended = child
            .try_wait()
            .map_err(|error| Problem::environment(format!("the build server: {error}")))?;
        let message = match ended {
            Some(status) => format!("the build server did not start: {status}"),
            None if Instant::now() > deadline => {
                format!(
                    "the build server did not answer within {} seconds",
                    START_TIMEOUT.as_secs()
                )
            }
            None => {
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        return Err(with_log(Problem::environment(message), &log_path, log_start));
    }
}

/// Starts `rbuild serve` with a log file; returns where its part of the log begins.
fn spawn(config: &Config, log_path: &Path) -> Result<(Child, u64), Problem> {
    let failed = |what: &str, error: std::io::Error| Problem::environment(format!("{what}: {error}"));
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let log_name = format!("`{}`", log_path.display());
    let log = options.open(log_path).map_err(|error| failed(&log_name, error))?;
    let log_start = log.metadata().map_err(|error| failed(&log_name, error))?.len();
    let stdout = log.try_clone().map_err(|error| failed(&log_name, error))?;
    let program = std::env::current_exe().map_err(|error| failed("the path of rbuild", error))?;
    let child = Command::new(program)
        .args(["serve", "--idle", IDLE, "--own-session", "--root"])
        .arg(&config.root)
        .args(config.sandbox.map(|tier| format!("--sandbox={tier}")))
        .env_clear()
        .envs(config.environment.for_server())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(log)
        .spawn()
        .map_err(|error| failed("the build server can not be started", error))?;
    Ok((child, log_start))
}

/// Adds the last lines of the log, as far as they are from this start.
fn with_log(problem: Problem, path: &Path, start: u64) -> Problem {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = File::open(path)?;
        log.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        log.take(64 << 10).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) => return problem.note(format!("its log `{}` can not be read: {error}", path.display())),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let problem = tail
        .iter()
        .fold(problem, |problem, line| problem.note(ui::escape::line(line.as_bytes())));
    problem.note(format!("its log is `{}`", path.display()))
}

/// Connects and asks who is there; nothing if nobody listens.
async fn dial(socket: &Path) -> Result<Option<(Channel, v1::InfoReply)>, Problem> {
    // The first connection is made here, where its error is still an error of the system.
    if !listens(socket).await? {
        return Ok(None);
    }
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let address = short(&path).map_err(|problem| std::io::Error::other(problem.message))?;
            UnixStream::connect(address.path()).await.map(TokioIo::new)
        }
    });
    // The address is never resolved; HTTP/2 wants one for its authority.
    let endpoint = Endpoint::from_static("http://rbuild.invalid").max_frame_size(FRAME_BYTES);
    let channel = endpoint.connect_with_connector_lazy(connector);
    let mut admin = AdminClient::new(channel.clone());
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, admin.info(v1::InfoRequest::default())).await;
    let answer = answer.map_err(|_| {
        Problem::environment(format!(
            "`{}`: somebody listens, but did not answer within {} seconds",
            socket.display(),
            ANSWER_TIMEOUT.as_secs()
        ))
    })?;
    match answer {
        Ok(info) => Ok(Some((channel, info.into_inner()))),
        // It ended between the two connections, or does not let us in any more.
        Err(status) if status.code() == tonic::Code::Unavailable => listens(socket).await.map(|_| None),
        Err(status) => Err(status.into()),
    }
}

/// Whether anybody listens on `socket`.
async fn listens(socket: &Path) -> Result<bool, Problem> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};

    match UnixStream::connect(short(socket)?.path()).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(false),
        Err(error) => Err(Problem::environment(format!("`{}`: {error}", socket.display()))),
    }
}

fn check_version(info: &v1::InfoReply) -> Result<(), Problem> {
    if info.version == crate::VERSION {
        return Ok(());
    }
    Err(Problem::environment(format!(
        "the build server has version {}, this is version {}",
        info.version,
        crate::VERSION
    ))
    .help("end that server; `rbuild` replaces only servers that it started itself"))
}

/// Whether that server is the one that a command wants, and not one to be replaced.
fn is_wanted(config: &Config, info: &v1::InfoReply) -> bool {
    info.version == crate::VERSION && check_sandbox(config, info).is_ok()
}

fn check_sandbox(config: &Config, info: &v1::InfoReply) -> Result<(), Problem> {
    match config.sandbox {
        Some(tier) if info.sandbox != tier.name() => Err(Problem::environment(format!(
            "the build server runs steps in the sandbox `{}`, not in `{tier}`",
            info.sandbox
        ))
        .help("leave out `--sandbox` and RBUILD_SANDBOX, or end that server")),
        _ => Ok(()),
    }
}

/// Longest path that a socket address takes, on Linux.
const MAX_SOCKET_PATH: usize = 107;

/// The path of a socket, through a descriptor of its directory if it is too long for an address.
#[derive(Debug)]
pub(crate) struct SocketAddress {
    path: PathBuf,
    /// Open as long as the path is used.
    _directory: Option<File>,
}

impl SocketAddress {
    /// What to bind or connect to.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An address for `socket` of any length.
pub(crate) fn short(socket: &Path) -> Result<SocketAddress, Problem> {
    use std::os::fd::AsRawFd;

    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(Problem::usage(format!("`{}` is no path of a socket", socket.display())));
    };
    if socket.as_os_str().len() <= MAX_SOCKET_PATH || !directory.exists() {
        let path = socket.to_owned();
        return Ok(SocketAddress { path, _directory: None });
    }
    let directory =
        File::open(directory).map_err(|error| Problem::environment(format!("`{}`: {error}", directory.display())))?;
    let path = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok(SocketAddress {
        path,
        _directory: Some(directory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_served_by_one_process() {
        let root = tempfile::tempdir().unwrap();
        let held = take_server_lock(root.path()).unwrap();
        let refused = take_server_lock(root.path()).unwrap_err();
        assert!(
            refused
                .message
                .contains(&format!("the process {} serves", std::process::id()))
        );
        drop(held);
        take_server_lock(root.path()).unwrap();
    }

    #[test]
    fn a_store_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("a/store");
        make_root(&root).unwrap();
        assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn nobody_answers_on_a_missing_or_stale_socket() {
        let root = tempfile::tempdir().unwrap();
        let socket = socket_path(root.path());
        assert!(dial(&socket).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(dial(&socket).await.unwrap().is_none());
    }

    #[test]
    fn sockets_may_have_long_paths() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let address = short(&socket_path(&deep)).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(address.path()).unwrap();
        assert!(socket_path(&deep).exists());
    }

    #[test]
    fn the_log_of_a_failed_start_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("server.log");
        std::fs::write(&log, "old\nnew \u{1b}[31m1\nnew 2\n").unwrap();
        let problem = with_log(Problem::environment("x"), &log, 4);
        assert_eq!(problem.notes[..2], ["new 1", "new 2"]);
        assert!(problem.notes[2].contains("server.log"));
    }
}
