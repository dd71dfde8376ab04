//! Flags over environment over defaults: one typed value each. No other file reads the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::args::{ProgressArg, ServerArgs, ShowArgs};
use crate::engine::{self, Marks, Tier};
use crate::exit::Problem;
use crate::values;

/// Variables that a server started on demand keeps: how to find programs, files, proxies and certificates. Everything else
/// of the first client's environment, such as tokens of its CI job, is not for a process that serves later ones.
const SERVER_VARIABLES: [&str; 24] = [
    "RBUILD_KEEP_STORAGE",
    "RBUILD_MIN_FREE",
    "RBUILD_RESERVED",
    "RBUILD_MAX_AGE",
    "RBUILD_MAX_STORAGE",
    "RBUILD_CDI_DIRS",
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "ALL_PROXY",
];

/// The environment as it was when the process started.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// A variable; an empty one counts as not set.
    pub(crate) fn var_os(&self, name: &str) -> Option<&OsStr> {
        self.0
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable that must be text.
    pub(crate) fn var(&self, name: &str) -> Result<Option<&str>, Problem> {
        let Some(value) = self.var_os(name) else {
            return Ok(None);
        };
        let text = value.to_str();
        text.map(Some)
            .ok_or_else(|| Problem::usage(format!("the environment variable `{name}` is not UTF-8")))
    }

    /// Bytes of a variable, even if it is empty.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.get(OsStr::new(name)).map(|value| value.as_encoded_bytes())
    }

    /// What a server started on demand gets.
    pub(crate) fn for_server(&self) -> Vec<(&'static str, OsString)> {
        let kept = SERVER_VARIABLES.iter();
        kept.filter_map(|name| Some((*name, self.var_os(name)?.to_owned())))
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl std::fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Who serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerChoice {
    /// The server of the store, started if there is none.
    OnDemand,
    /// This process.
    InProcess,
    /// A server that somebody else runs, by its socket.
    Socket(PathBuf),
}

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Directory of the store, absolute.
    pub(crate) root: PathBuf,
    /// Who serves.
    pub(crate) server: ServerChoice,
    /// Directory of docker's `config.json`.
    pub(crate) docker_config: PathBuf,
    /// Directory for what may be lost at any time; nothing without a home.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Directories with specifications of devices, in ascending precedence: RBUILD_CDI_DIRS, or those of every machine.
    pub(crate) device_specs: Vec<PathBuf>,
    /// The kind of sandbox that was asked for; nothing: the best one that is possible.
    pub(crate) sandbox: Option<Tier>,
    /// When a server that this process starts collects by itself.
    pub(crate) marks: Marks,
    /// The rest of the environment.
    pub(crate) environment: Environment,
}

impl Config {
    /// Flags over environment over defaults.
    pub(crate) fn new(flags: &ServerArgs, environment: Environment) -> Result<Self, Problem> {
        let root = match (&flags.root, environment.var_os("RBUILD_ROOT")) {
            (Some(root), _) => root.clone(),
            (None, Some(root)) => PathBuf::from(root),
            (None, None) => default_root(rustix::process::geteuid().is_root(), &environment)?,
        };
        let root = std::path::absolute(&root)
            .map_err(|error| Problem::usage(format!("the root directory `{}`: {error}", root.display())))?;
        let server = match (&flags.builder, environment.var("RBUILD_BUILDER")?) {
            _ if flags.in_process => ServerChoice::InProcess,
            (Some(address), _) => socket_of(address, "`--builder`")?,
            (None, Some(address)) => socket_of(address, "RBUILD_BUILDER")?,
            (None, None) => ServerChoice::OnDemand,
        };
        let docker_config = match environment.var_os("DOCKER_CONFIG") {
            Some(directory) => PathBuf::from(directory),
            None => Path::new(environment.var_os("HOME").unwrap_or(OsStr::new("/"))).join(".docker"),
        };
        Ok(Self {
            root,
            server,
            docker_config,
            cache_dir: cache_dir(&environment),
            device_specs: device_specs(&environment),
            marks: marks(&environment)?,
            sandbox: sandbox(flags.sandbox.as_deref(), &environment)?,
            environment,
        })
    }
}

fn marks(environment: &Environment) -> Result<Marks, Problem> {
    let amount = |name: &str| {
        environment
            .var(name)?
            .map(|text| values::amount(name, text))
            .transpose()
    };
    let max_age = environment.var("RBUILD_MAX_AGE")?;
    Ok(Marks {
        keep: amount("RBUILD_KEEP_STORAGE")?,
        min_free: amount("RBUILD_MIN_FREE")?,
        reserved: amount("RBUILD_RESERVED")?,
        max_age: max_age
            .map(|text| values::duration("RBUILD_MAX_AGE", text))
            .transpose()?,
        limit: amount("RBUILD_MAX_STORAGE")?,
    })
}

fn sandbox(flag: Option<&str>, environment: &Environment) -> Result<Option<Tier>, Problem> {
    let (text, origin) = match (flag, environment.var("RBUILD_SANDBOX")?) {
        (Some(text), _) => (text, "`--sandbox`"),
        (None, Some(text)) => (text, "RBUILD_SANDBOX"),
        (None, None) => return Ok(None),
    };
    let tier = text.parse();
    tier.map(Some)
        .map_err(|message: String| Problem::usage(format!("{origin}: {message}")))
}

fn device_specs(environment: &Environment) -> Vec<PathBuf> {
    match environment.var_os("RBUILD_CDI_DIRS") {
        Some(directories) => std::env::split_paths(directories).collect(),
        None => engine::DEVICE_SPECS.iter().map(PathBuf::from).collect(),
    }
}

fn cache_dir(environment: &Environment) -> Option<PathBuf> {
    let cache = environment
        .var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|cache| cache.is_absolute());
    let cache = cache.or_else(|| Some(Path::new(environment.var_os("HOME")?).join(".cache")))?;
    Some(cache.join("rbuild"))
}

fn default_root(is_root: bool, environment: &Environment) -> Result<PathBuf, Problem> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    let data = environment.var_os("XDG_DATA_HOME").map(PathBuf::from);
    // The XDG base directory specification: relative paths in its variables are to be ignored.
    if let Some(data) = data.filter(|data| data.is_absolute()) {
        return Ok(data.join("rbuild"));
    }
    match environment.var_os("HOME") {
        Some(home) => Ok(Path::new(home).join(".local/share/rbuild")),
        None => Err(
            Problem::usage("there is no place for the store: neither XDG_DATA_HOME nor HOME is set")
                .help("name a directory with `--root` or RBUILD_ROOT"),
        ),
    }
}

fn socket_of(address: &str, origin: &str) -> Result<ServerChoice, Problem> {
    if let Some(path) = address.strip_prefix("unix://") {
        if path.starts_with('/') {
            return Ok(ServerChoice::Socket(PathBuf::from(path)));
        }
        return Err(Problem::usage(format!(
            "{origin}: the path in `{address}` is not absolute"
        )));
    }
    let problem = match address.split_once("://") {
        Some(("tcp", _)) => Problem::usage(format!("{origin}: this version does not speak TCP yet: `{address}`")),
        _ => Problem::usage(format!("{origin}: `{address}` is not an address of a build server")),
    };
    Err(problem.help("use `unix:///path/of/server.sock`"))
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Lines.
    Plain,
    /// A live view.
    Tty,
    /// Problems only.
    Quiet,
    /// Our events as JSON.
    Json,
    /// BuildKit's updates as JSON.
    RawJson,
}

/// How to write to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Display {
    /// How progress is shown.
    pub(crate) progress: Progress,
    /// Whether stderr is a terminal: text of strangers is escaped there.
    pub(crate) terminal: bool,
    /// Whether to use colours.
    pub(crate) colour: bool,
}

impl Display {
    /// Flags over environment over what stderr is.
    pub(crate) fn new(flags: &ShowArgs, environment: &Environment) -> Result<Self, Problem> {
        Self::resolve(flags, environment, std::io::stderr().is_terminal())
    }

    fn resolve(flags: &ShowArgs, environment: &Environment, terminal: bool) -> Result<Self, Problem> {
        let wanted = match (flags.progress, flags.quiet) {
            (None | Some(ProgressArg::Quiet | ProgressArg::Auto), true) => ProgressArg::Quiet,
            (Some(other), true) => {
                let name = format!("{other:?}").to_lowercase();
                return Err(Problem::usage(format!(
                    "progress={name} and quiet cannot be used together"
                )));
            }
            (Some(progress), false) => progress,
            (None, false) => progress_of(environment)?,
        };
        let progress = match wanted {
            ProgressArg::Auto if terminal => Progress::Tty,
            ProgressArg::Auto | ProgressArg::Plain => Progress::Plain,
            ProgressArg::Tty => Progress::Tty,
            ProgressArg::Quiet => Progress::Quiet,
            ProgressArg::Json => Progress::Json,
            ProgressArg::Rawjson => Progress::RawJson,
        };
        if progress == Progress::Tty && !terminal {
            return Err(Problem::usage("stderr is not a terminal: there is no live view")
                .help("use `--progress plain`, or `auto` for both cases"));
        }
        let colour = terminal && environment.var_os("NO_COLOR").is_none();
        Ok(Self {
            progress,
            terminal,
            colour,
        })
    }
}

fn progress_of(environment: &Environment) -> Result<ProgressArg, Problem> {
    for name in ["RBUILD_PROGRESS", "BUILDKIT_PROGRESS"] {
        if let Some(value) = environment.var(name)? {
            return <ProgressArg as clap::ValueEnum>::from_str(value, true).map_err(|_| {
                Problem::usage(format!("{name}: `{value}` is no kind of progress"))
                    .help("use auto, plain, tty, quiet, json or rawjson")
            });
        }
    }
    Ok(ProgressArg::Auto)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &ServerArgs, pairs: &[(&str, &str)]) -> Result<Config, Problem> {
        Config::new(flags, Environment::of(pairs))
    }

    fn flags(root: Option<&str>, builder: Option<&str>) -> ServerArgs {
        ServerArgs {
            root: root.map(PathBuf::from),
            builder: builder.map(str::to_owned),
            in_process: false,
            sandbox: None,
        }
    }

    #[test]
    fn flags_win_over_the_environment() {
        let both = [
            ("RBUILD_ROOT", "/env"),
            ("RBUILD_BUILDER", "unix:///env.sock"),
            ("HOME", "/h"),
        ];
        let config = config(&flags(Some("/flag"), Some("unix:///flag.sock")), &both).unwrap();
        assert_eq!(config.root, Path::new("/flag"));
        assert_eq!(config.server, ServerChoice::Socket("/flag.sock".into()));
        assert_eq!(config.docker_config, Path::new("/h/.docker"));
    }

    #[test]
    fn the_environment_wins_over_defaults() {
        let set = [
            ("RBUILD_ROOT", "/env"),
            ("RBUILD_BUILDER", "unix:///env.sock"),
            ("DOCKER_CONFIG", "/d"),
        ];
        let config = config(&flags(None, None), &set).unwrap();
        assert_eq!(config.root, Path::new("/env"));
        assert_eq!(config.server, ServerChoice::Socket("/env.sock".into()));
        assert_eq!(config.docker_config, Path::new("/d"));
    }

    #[test]
    fn in_process_wins_over_an_address_in_the_environment() {
        let in_process = ServerArgs {
            in_process: true,
            ..flags(Some("/r"), None)
        };
        let config = config(&in_process, &[("RBUILD_BUILDER", "tcp://elsewhere:1")]).unwrap();
        assert_eq!(config.server, ServerChoice::InProcess);
    }

    #[test]
    fn the_default_store_is_the_users_own() {
        let root = |is_root, pairs: &[(&str, &str)]| default_root(is_root, &Environment::of(pairs));
        assert_eq!(root(true, &[]).unwrap(), Path::new("/var/lib/rbuild"));
        assert_eq!(
            root(false, &[("HOME", "/home/me")]).unwrap(),
            Path::new("/home/me/.local/share/rbuild")
        );
        let xdg = [("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")];
        assert_eq!(root(false, &xdg).unwrap(), Path::new("/data/rbuild"));
        let relative = [("HOME", "/home/me"), ("XDG_DATA_HOME", "data")];
        assert_eq!(
            root(false, &relative).unwrap(),
            Path::new("/home/me/.local/share/rbuild")
        );
        assert!(root(false, &[]).unwrap_err().message.contains("neither"));
    }

    #[test]
    fn addresses_that_nobody_can_use_are_refused() {
        let refused = |address| config(&flags(Some("/r"), Some(address)), &[]).unwrap_err().message;
        assert!(refused("tcp://farm:1234").contains("does not speak TCP yet"));
        assert!(refused("unix://relative").contains("not absolute"));
        assert!(refused("farm").contains("not an address"));
    }

    #[test]
    fn progress_comes_from_flag_then_variable_then_terminal() {
        let resolve = |progress, quiet, pairs: &[(&str, &str)], terminal| {
            Display::resolve(&ShowArgs { progress, quiet }, &Environment::of(pairs), terminal).map(|d| d.progress)
        };
        let plain = [("BUILDKIT_PROGRESS", "plain")];
        assert_eq!(resolve(None, false, &[], true), Ok(Progress::Tty));
        assert_eq!(resolve(None, false, &[], false), Ok(Progress::Plain));
        assert_eq!(resolve(None, false, &plain, true), Ok(Progress::Plain));
        assert_eq!(
            resolve(Some(ProgressArg::Rawjson), false, &plain, true),
            Ok(Progress::RawJson)
        );
        let ours = [("BUILDKIT_PROGRESS", "plain"), ("RBUILD_PROGRESS", "json")];
        assert_eq!(resolve(None, false, &ours, true), Ok(Progress::Json));
        assert_eq!(resolve(None, true, &plain, true), Ok(Progress::Quiet));
        assert_eq!(
            resolve(Some(ProgressArg::Plain), true, &[], true).unwrap_err().message,
            "progress=plain and quiet cannot be used together"
        );
        assert!(resolve(None, false, &[("RBUILD_PROGRESS", "loud")], true).is_err());
        assert!(resolve(Some(ProgressArg::Tty), false, &[], false).is_err());
    }

    #[test]
    fn marks_of_the_store_come_from_the_environment() {
        let set = [("RBUILD_KEEP_STORAGE", "60%"), ("RBUILD_MAX_AGE", "7d")];
        let marks = config(&flags(Some("/r"), None), &set).unwrap().marks;
        assert_eq!(marks.keep, Some(engine::Amount::Percent(60)));
        assert_eq!(marks.max_age, Some(std::time::Duration::from_secs(7 * 86400)));
        assert_eq!(marks.limit, None);
        let wrong = config(&flags(Some("/r"), None), &[("RBUILD_MAX_STORAGE", "lots")]);
        assert!(wrong.unwrap_err().message.contains("RBUILD_MAX_STORAGE"));
    }

    #[test]
    fn a_server_does_not_inherit_the_tokens_of_its_first_client() {
        let environment = Environment::of(&[("PATH", "/bin"), ("CI_JOB_TOKEN", "secret")]);
        assert_eq!(environment.for_server(), [("PATH", OsString::from("/bin"))]);
        assert!(!format!("{environment:?}").contains("/bin"));
    }
}
