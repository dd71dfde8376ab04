//! The JSON of one instruction. Members that say nothing are left out.

use frontend::instruction::{Command, Copy, Healthcheck, Instruction, KeyValues, Kind, Run, Word};
use frontend::lower::{MountOptions, MountType};
use proto::definition::Sharing;
use serde::Serialize;

use super::is_empty;

/// One instruction.
#[derive(Debug, Serialize)]
pub(super) struct InstructionJson<'a> {
    name: String,
    lines: (u32, u32),
    #[serde(flatten)]
    says: Says<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Says<'a> {
    Pairs(Vec<(&'a str, &'a str)>),
    Args(Vec<Arg<'a>>),
    Maintainer(&'a str),
    Expression(&'a str),
    Ports(Vec<&'a str>),
    User(&'a str),
    Path(&'a str),
    Volumes(Vec<&'a str>),
    Signal(&'a str),
    Shell(Vec<&'a str>),
    #[serde(untagged)]
    Files(Box<Files<'a>>),
    #[serde(untagged)]
    Runs(Box<Runs<'a>>),
    #[serde(untagged)]
    Health(Health<'a>),
}

#[derive(Debug, Serialize)]
struct Arg<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

/// `COPY` and `ADD`
#[derive(Debug, Serialize)]
struct Files<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<&'a str>,
    dest: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    heredocs: Vec<File<'a>>,
    #[serde(skip_serializing_if = "is_empty")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    chown: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    chmod: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    link: bool,
    #[serde(skip_serializing_if = "is_empty")]
    parents: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    checksum: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    keep_git_dir: Option<bool>,
    #[serde(skip_serializing_if = "is_empty")]
    unpack: Option<bool>,
}

#[derive(Debug, Serialize)]
struct File<'a> {
    name: &'a str,
    data: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    expand: bool,
}

/// `RUN`, `CMD` and `ENTRYPOINT`
#[derive(Debug, Default, Serialize)]
struct Runs<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    shell_form: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    heredocs: Vec<Script<'a>>,
    #[serde(skip_serializing_if = "is_empty")]
    network: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    security: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<Device<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "is_empty")]
    mount_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Script<'a> {
    name: &'a str,
    data: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    chomp: bool,
}

#[derive(Debug, Serialize)]
struct Device<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    required: bool,
}

#[derive(Debug, Serialize)]
struct Mount {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    readonly: bool,
    #[serde(skip_serializing_if = "is_empty")]
    from: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    source: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    target: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    id: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    sharing: Option<&'static str>,
    #[serde(skip_serializing_if = "is_empty")]
    required: bool,
    #[serde(skip_serializing_if = "is_zero")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "is_empty")]
    env: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "is_empty")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "is_empty")]
    gid: Option<u32>,
}

/// `HEALTHCHECK`
#[derive(Debug, Serialize)]
struct Health<'a> {
    test: Vec<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    interval_ns: i64,
    #[serde(skip_serializing_if = "is_empty")]
    timeout_ns: i64,
    #[serde(skip_serializing_if = "is_empty")]
    start_period_ns: i64,
    #[serde(skip_serializing_if = "is_empty")]
    start_interval_ns: i64,
    #[serde(skip_serializing_if = "is_empty")]
    retries: i64,
}

impl<'a> From<&'a Instruction> for InstructionJson<'a> {
    fn from(instruction: &'a Instruction) -> Self {
        Self {
            name: instruction.keyword.value.to_ascii_lowercase(),
            lines: instruction.lines,
            says: says(&instruction.kind),
        }
    }
}

fn says(kind: &Kind) -> Says<'_> {
    match kind {
        // Stages are told apart from their instructions.
        Kind::From(from) => Says::Path(&from.base.value),
        Kind::Arg(args) => Says::Args(args.iter().map(arg).collect()),
        Kind::Env(pairs) | Kind::Label(pairs) => Says::Pairs(key_values(pairs)),
        Kind::Run(run) => Says::Runs(Box::new(runs(run))),
        Kind::Copy(copy) | Kind::Add(copy) => Says::Files(Box::new(files(copy))),
        Kind::Cmd(command) | Kind::Entrypoint(command) => Says::Runs(Box::new(command_line(command))),
        Kind::Shell(shell) => Says::Shell(values(shell)),
        Kind::User(user) => Says::User(&user.value),
        Kind::Workdir(path) => Says::Path(&path.value),
        Kind::Expose(ports) => {
            let mut ports = values(ports);
            // The order in which images keep them.
            ports.sort_unstable();
            Says::Ports(ports)
        }
        Kind::Volume(volumes) => Says::Volumes(values(volumes)),
        Kind::StopSignal(signal) => Says::Signal(&signal.value),
        Kind::Healthcheck(check) => Says::Health(health(check)),
        Kind::Onbuild { text, .. } => Says::Expression(&text.value),
        Kind::Maintainer(maintainer) => Says::Maintainer(&maintainer.value),
    }
}

fn values(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.value.as_str()).collect()
}

fn value(word: Option<&Word>) -> Option<&str> {
    word.map(|word| word.value.as_str())
}

fn arg(arg: &frontend::instruction::Arg) -> Arg<'_> {
    Arg {
        name: &arg.name.value,
        value: value(arg.default.as_ref()),
    }
}

fn key_values(pairs: &KeyValues) -> Vec<(&str, &str)> {
    let values = pairs.pairs.iter().map(|(key, value)| (&key.value, &value.value));
    values.map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn files(copy: &Copy) -> Files<'_> {
    let heredocs = copy.heredocs.iter().map(|heredoc| File {
        name: &heredoc.name.value,
        data: &heredoc.data,
        expand: heredoc.expand,
    });
    Files {
        sources: values(&copy.sources),
        dest: &copy.dest.value,
        heredocs: heredocs.collect(),
        from: value(copy.from.as_ref()),
        chown: value(copy.chown.as_ref()),
        chmod: value(copy.chmod.as_ref()),
        link: copy.link,
        parents: copy.parents,
        exclude: values(&copy.exclude),
        checksum: value(copy.checksum.as_ref()),
        keep_git_dir: copy.keep_git_dir,
        unpack: copy.unpack,
    }
}

fn command_line(command: &Command) -> Runs<'_> {
    match command {
        Command::Exec(words) => Runs {
            cmd: values(words),
            ..Runs::default()
        },
        Command::Shell(text) => Runs {
            cmd: Some(text.value.as_str())
                .filter(|text| !text.is_empty())
                .into_iter()
                .collect(),
            shell_form: true,
            ..Runs::default()
        },
    }
}

fn runs(run: &Run) -> Runs<'_> {
    let scripts = run.heredocs.iter().map(|heredoc| Script {
        name: &heredoc.name.value,
        data: &heredoc.data,
        chomp: heredoc.chomp,
    });
    let devices = run.devices.iter().map(|device| Device {
        name: &device.name,
        required: device.required,
    });
    let mut runs = Runs {
        heredocs: scripts.collect(),
        network: value(run.network.as_ref()).filter(|mode| *mode != "default"),
        security: value(run.security.as_ref()).filter(|mode| *mode != "sandbox"),
        devices: devices.collect(),
        ..command_line(&run.command)
    };
    // With a variable in one of them it is not known yet what they say.
    if !run.mounts.iter().any(|mount| mount.raw.value.contains('$')) {
        match run.mounts.iter().map(MountOptions::as_written).collect() {
            Ok(options) => runs.mounts = Vec::into_iter(options).map(mount).collect(),
            Err(error) => runs.mount_error = Some(error.message),
        }
    }
    runs
}

fn mount(options: MountOptions) -> Mount {
    let writable = matches!(options.kind, MountType::Cache | MountType::Tmpfs);
    Mount {
        kind: options.kind.name(),
        readonly: !options.writable.unwrap_or(writable),
        from: options.from,
        source: options.source,
        target: options.target,
        id: options.id,
        sharing: options.sharing.map(|sharing| match sharing {
            Sharing::Shared => "shared",
            Sharing::Private => "private",
            Sharing::Locked => "locked",
        }),
        required: options.required,
        size: options.size_bytes,
        env: options.env,
        mode: options.mode,
        uid: options.uid,
        gid: options.gid,
    }
}

fn is_zero(size: &Option<u64>) -> bool {
    size.is_none_or(|size| size == 0)
}

fn health(check: &Healthcheck) -> Health<'_> {
    Health {
        test: match &check.command {
            None => vec!["NONE"],
            Some(Command::Exec(words)) => std::iter::once("CMD").chain(values(words)).collect(),
            Some(Command::Shell(text)) => vec!["CMD-SHELL", &text.value],
        },
        interval_ns: check.interval_ns,
        timeout_ns: check.timeout_ns,
        start_period_ns: check.start_period_ns,
        start_interval_ns: check.start_interval_ns,
        retries: check.retries,
    }
}
