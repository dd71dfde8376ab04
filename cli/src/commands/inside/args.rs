//! Flags of `debug BUILD`, `run` and `cp`; doc comments are the help text.

use clap::Args;

use crate::commands::debug::args::DebugCommand;

/// The `debug` command.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct DebugArgs {
    /// What is looked at instead
    #[command(subcommand)]
    pub(crate) command: Option<DebugCommand>,
    /// First digits of the id of a build, or `latest`; a single word that begins no id is a step of the last one
    pub(crate) build: Option<String>,
    /// Number of a step as progress shows it, or words of its name [default: the one that failed, else the last one]
    pub(crate) step: Option<String>,
    /// Program and arguments [default: a shell]
    #[arg(last = true, value_name = "CMD")]
    pub(crate) args: Vec<String>,
    /// Shell to run instead of bash or /bin/sh
    #[arg(long, value_name = "PATH")]
    pub(crate) shell: Option<String>,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// SSH agent or keys for the step's own mounts, as for `rbuild build`
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET|KEY[,KEY…]]")]
    pub(crate) ssh: Vec<String>,
    /// Secret for the step's own mounts: id=ID[,src=PATH|,env=VAR]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,
    /// Network: default, none or host [default: that of the step]
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
}

/// What a process gets.
#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    /// Variable; without a value it is taken from the environment
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// User, and group [default: that of the step or image]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Working directory [default: that of the step or image]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Grant what it needs: network.host, security.insecure, device[=NAME]
    #[arg(long = "allow", value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
}

/// The `run` command.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name or ID of an image of the store
    pub(crate) image: String,
    /// Program and arguments instead of those of the image
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) args: Vec<String>,
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) manner: MannerArgs,
    /// Nothing is ever left; other programs' scripts say so
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Entry point instead of that of the image; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Secret as a file in /run/secrets: id=ID[,src=PATH|,env=VAR]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,
    /// Network: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: String,
    /// Which image, if the name stands for several [default: the server's own platform]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Refused: nothing of this machine is mounted
    #[arg(short, long = "volume", value_name = "SPEC", hide = true)]
    pub(crate) volumes: Vec<String>,
}

/// How it runs.
#[derive(Debug, Args)]
pub(crate) struct MannerArgs {
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Let writes to its root filesystem fail
    #[arg(long)]
    pub(crate) read_only: bool,
}

/// The `cp` command.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// BUILD[/STEP]:PATH or IMAGE:PATH; what begins the id of a build, or is `latest`, is a build
    #[arg(value_name = "FROM:PATH")]
    pub(crate) source: String,
    /// File or directory; `-` writes a tar to stdout
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
    /// Follow a link at the end of the path
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Keep owners; only root may
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Which image, if the name stands for several [default: the server's own platform]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
}
