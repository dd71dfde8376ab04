//! Flags exactly as typed; doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::inside::args::{CpArgs, DebugArgs, RunArgs};
use crate::limits::LimitArgs;

/// Builds container images from Dockerfiles.
#[derive(Debug, Parser)]
#[command(name = "rbuild", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which store, and who serves it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// Directory of the store [env: RBUILD_ROOT] [default: /var/lib/rbuild for root, else $XDG_DATA_HOME/rbuild]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Address of a running build server, unix://PATH [env: RBUILD_BUILDER] [default: started when needed]
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with = "in_process")]
    pub(crate) builder: Option<String>,
    /// Kind of sandbox for RUN steps: root, rootless, single-id or plain [env: RBUILD_SANDBOX] [default: the best possible, see `rbuild doctor`]
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) sandbox: Option<String>,
    /// Run the build server inside this command: nothing outlives it
    #[arg(long, global = true)]
    pub(crate) in_process: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Check a Dockerfile without building it
    Check(CheckArgs),
    /// Look at a build context
    #[command(subcommand)]
    Context(ContextCommand),
    /// Serve builds on a unix socket
    Serve(Box<ServeArgs>),
    /// List the images of the store
    Images(ImagesArgs),
    /// Push an image of the store to its registry
    Push(PushArgs),
    /// Pull an image from its registry into the store
    Pull(PullArgs),
    /// Give an image of the store a further name
    Tag(TagArgs),
    /// Remove names of images; what no name and no recent build needs is freed later
    Rmi(RmiArgs),
    /// Show the config and the layers of images as JSON
    Inspect(ReferencesArgs),
    /// Show how an image came about
    History(ReferenceArgs),
    /// Remember the login for a registry
    Login(LoginArgs),
    /// Forget the login for a registry
    Logout(LogoutArgs),
    /// Show what the store holds
    Du(DuArgs),
    /// Free space in the store
    Prune(PruneArgs),
    /// Look after the store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show what a build did, and all that differed for the steps that ran
    Explain(ExplainArgs),
    /// Show the versions of client and server
    Version(FormatArgs),
    /// Look into what a step of a build left, or, with a subcommand, at what rbuild makes of a Dockerfile
    Debug(Box<DebugArgs>),
    /// Run an image of the store, on files that are thrown away
    Run(Box<RunArgs>),
    /// Copy files out of what a step left, or out of an image
    Cp(CpArgs),
    /// Show what this machine can do for builds, and what would help
    Doctor(FormatArgs),
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProgressArg {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// Lines that are never rewritten
    Plain,
    /// A live view
    Tty,
    /// Nothing but problems; the digest on stdout
    #[value(alias = "none")]
    Quiet,
    /// One event of our protocol per line
    Json,
    /// One update per line in the form that BuildKit's tools read
    Rawjson,
}

/// The `build` command.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Build context: a directory, a git repository (URL[#REF[:DIR]]) or the URL of an archive; `-` reads a tar archive or a Dockerfile from stdin
    pub(crate) context: String,
    /// Dockerfile, or its URL; `-` reads it from stdin [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Name of the image; may be given several times
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(crate) tags: Vec<String>,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) steps: StepArgs,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
    #[command(flatten)]
    pub(crate) call: CallArgs,
    #[command(flatten, next_help_heading = "Limits of each RUN step")]
    pub(crate) limits: LimitArgs,
}

/// Questions about the Dockerfile, instead of a build.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Answer a question instead of building: check, outline, targets or subrequests.describe[,format=json]
    #[arg(long, value_name = "METHOD[,KEY=VALUE…]")]
    pub(crate) call: Option<String>,
    /// Check the Dockerfile instead of building, same as --call check
    #[arg(long, conflicts_with = "call")]
    pub(crate) check: bool,
}

/// What is built.
#[derive(Debug, Args)]
pub(crate) struct WhatArgs {
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true)]
    pub(crate) target: String,
    /// Build argument; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(crate) build_args: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Platform to build for, os/arch[/variant]; comma-separated or several times [default: the server's own]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Further context: NAME=DIR, NAME=docker-image://REF, NAME=oci-layout://PATH[:TAG][@DIGEST] or NAME=URL of a git repository or file
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(crate) build_contexts: Vec<String>,
    /// Modes of files of the context: `disk`, as they are, or `git`, 0755 and 0644 whatever the umask of a checkout was
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        default_value = "disk",
        hide_possible_values = true
    )]
    pub(crate) context_modes: ContextModesArg,
}

impl From<ContextModesArg> for proto::v1::ContextModes {
    fn from(argument: ContextModesArg) -> Self {
        match argument {
            ContextModesArg::Disk => Self::Disk,
            ContextModesArg::Git => Self::Git,
        }
    }
}

/// The values of `--context-modes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ContextModesArg {
    /// As they are.
    #[default]
    Disk,
    /// As git keeps them.
    Git,
}

/// What may be reused.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Run every step
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Run every step of these stages; comma-separated or several times
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Ask registries for the current digest of base images
    #[arg(long)]
    pub(crate) pull: bool,
}

/// What RUN steps get.
#[derive(Debug, Args)]
pub(crate) struct StepArgs {
    /// Secret for RUN --mount=type=secret: id=ID[,src=PATH|,env=VAR]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,
    /// SSH agent or keys for RUN --mount=type=ssh; with neither the agent of SSH_AUTH_SOCK
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET|KEY[,KEY…]]")]
    pub(crate) ssh: Vec<String>,
    /// Network of RUN steps: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: String,
    /// Grant what a Dockerfile asks for: network.host, security.insecure, device[=NAME]
    #[arg(long = "allow", value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// Give steps less than usual: no new privileges, fewer capabilities, no debuggers; and nothing of --allow
    #[arg(long)]
    pub(crate) hardened: bool,
    /// Line in /etc/hosts of RUN steps, NAME:ADDRESS
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    pub(crate) add_hosts: Vec<String>,
    /// Size of /dev/shm in RUN steps, as in 128m
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// Certificates, as PEM, that RUN steps trust beside those of their image, and that leave no trace in it; the server itself does not use them
    #[arg(long, value_name = "PATH")]
    pub(crate) ca_bundle: Option<PathBuf>,
}

/// Where the result goes.
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// Result: type=image|oci|local|tar|registry|cacheonly[,dest=PATH][,KEY=VALUE…]; a path means local, `-` tar on stdout
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(crate) outputs: Vec<String>,
    /// Push to the registries of the names
    #[arg(long)]
    pub(crate) push: bool,
    /// Keep in the store, same as --output type=image
    #[arg(long)]
    pub(crate) load: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "PATH")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "PATH")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Registry that speaks HTTP, or whose certificate nobody signed
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub(crate) insecure_registries: Vec<String>,
}

/// What is shown meanwhile.
#[derive(Debug, Default, Args)]
pub(crate) struct ShowArgs {
    /// How progress is shown [env: RBUILD_PROGRESS, BUILDKIT_PROGRESS] [default: auto]
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = false)]
    pub(crate) progress: Option<ProgressArg>,
    /// Show problems only, print the digest; same as --progress quiet
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// The `serve` command.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// End after this long without builds, as in 15m [default: never]
    #[arg(long, value_name = "DURATION")]
    pub(crate) idle: Option<String>,
    /// Let clients of other users grant their steps network.host, security.insecure or device[=NAME]
    #[arg(
        long = "allow-insecure-entitlement",
        value_name = "ENTITLEMENT",
        value_delimiter = ','
    )]
    pub(crate) allow_insecure_entitlement: Vec<String>,
    /// Harden the steps of every build, as `rbuild build --hardened` does; nobody can allow them more
    #[arg(long, conflicts_with = "allow_insecure_entitlement")]
    pub(crate) hardened: bool,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
    #[command(flatten, next_help_heading = "Limits of each RUN step, which no build exceeds")]
    pub(crate) limits: LimitArgs,
    /// Leave the session of the terminal: how clients start a server
    #[arg(long, hide = true)]
    pub(crate) own_session: bool,
}

/// When the server collects by itself. A size is as in 10g, or a part of the store's disk as in 60%.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StorageArgs {
    /// After a build, drop what no image needs until the store is this small [env: RBUILD_KEEP_STORAGE] [default: 60% of its disk, at most 100g]
    #[arg(long, value_name = "SIZE")]
    pub(crate) keep_storage: Option<String>,
    /// The same, until this much is free on the disk [env: RBUILD_MIN_FREE] [default: 10% of the disk, at most 20g]
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_free: Option<String>,
    /// But never make the store smaller than this [env: RBUILD_RESERVED] [default: 10% of its disk, at most 10g]
    #[arg(long, value_name = "SIZE")]
    pub(crate) reserved: Option<String>,
    /// Once a day, drop what was not used for so long, as in 7d [env: RBUILD_MAX_AGE] [default: 60d]
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_age: Option<String>,
    /// Fail builds that would make the store larger than this [env: RBUILD_MAX_STORAGE] [default: none but the disk]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_storage: Option<String>,
}

/// The `du` command.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// List everything one by one, the largest first
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// List only what meets this; see `rbuild prune --help`
    #[arg(long = "filter", value_name = "KEY=VALUE", requires = "verbose")]
    pub(crate) filters: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything that the store holds, and say what is damaged, missing or left over; exits with 3 if something is wrong
    Verify(VerifyArgs),
}

/// The `store verify` command.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Set aside what is damaged, remove what is left over or leads nowhere, make the index anew
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print one JSON object a line: each finding, then the sum
    #[arg(long)]
    pub(crate) json: bool,
}

/// The `images` command.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print image IDs only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Text or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How answers are printed.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// How the answer is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Format,
}

/// The `push` command.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Name of the image
    pub(crate) reference: String,
    /// Compression of layers: gzip, zstd or uncompressed
    #[arg(long, value_name = "KIND")]
    pub(crate) compression: Option<String>,
    /// Registry that speaks HTTP, or whose certificate nobody signed
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub(crate) insecure_registries: Vec<String>,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// The `pull` command.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name of the image
    pub(crate) reference: String,
    /// Platform to pull, os/arch[/variant] [default: the server's own]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Registry that speaks HTTP, or whose certificate nobody signed
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub(crate) insecure_registries: Vec<String>,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// The `tag` command.
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or ID of an image
    pub(crate) source: String,
    /// The further name
    pub(crate) target: String,
}

/// The `rmi` command.
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Names of images
    #[arg(required = true)]
    pub(crate) references: Vec<String>,
}

/// One image.
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Name or ID of an image
    pub(crate) reference: String,
    /// Which image, if the name stands for several [default: the server's own platform]
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Some images.
#[derive(Debug, Args)]
pub(crate) struct ReferencesArgs {
    /// Names or IDs of images
    #[arg(required = true)]
    pub(crate) references: Vec<String>,
    /// Only this platform's image, where a name stands for several
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
}

/// The `login` command.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Registry, as in registry.example:5000 [default: docker.io]
    pub(crate) registry: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: String,
    /// Read the password from stdin
    #[arg(long, required = true)]
    pub(crate) password_stdin: bool,
}

/// The `logout` command.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Registry [default: docker.io]
    pub(crate) registry: Option<String>,
}

/// The `prune` command.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also drop what recent builds used; named images stay
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Stop once the store is this small, as in 10g
    #[arg(long, value_name = "BYTES")]
    pub(crate) keep_storage: Option<String>,
    /// Never make the store smaller than this, however old things are
    #[arg(long, value_name = "BYTES")]
    pub(crate) reserved: Option<String>,
    /// Drop what was not used for so long, as in 24h or 7d; with --keep-storage this first, then more
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_age: Option<String>,
    /// Do not ask: nothing is ever asked, other builders' scripts say so
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Drop only what meets all of these: until=24h (not used for so long), type=TYPE, id=START, inuse=BOOL, description=WORDS; `!=` for the opposite.
    /// Types: record, blob, snapshot, tree, cache-mount, git-mirror, failed-step, damaged, and BuildKit's regular, exec.cachemount, source.git.checkout
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filters: Vec<String>,
}

/// The `explain` command.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// First digits of the id of a build; a single word that begins no id is a step of the last one [default: the last one]
    pub(crate) build: Option<String>,
    /// Number of a step as progress shows it, or words of its name [default: all steps]
    pub(crate) step: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The `check` command.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Dockerfile, or a directory with one and its ignore file; `-` reads stdin
    #[arg(default_value = ".")]
    pub(crate) file: PathBuf,
    /// How the answer is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: CheckFormat,
    /// Fail if there is a warning
    #[arg(long)]
    pub(crate) error: bool,
}

/// Forms of what `check` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CheckFormat {
    /// For people
    Text,
    /// For programs
    Json,
    /// SARIF 2.1.0, for tools that collect findings
    Sarif,
    /// Workflow commands that mark lines on GitHub
    Github,
}

/// The `context` commands.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List what a build would read, largest first, and why it would not read the rest
    Ls(ContextArgs),
}

/// The `context ls` command.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    /// Directory of the build context
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) context: PathBuf,
    /// Print sizes
    #[arg(long)]
    pub(crate) size: bool,
    /// Dockerfile that says what is copied [default: DIR/Dockerfile; without it, everything]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_help_text() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{}: {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn platforms_may_be_given_with_commas_or_one_by_one() {
        let cli = Cli::try_parse_from([
            "rbuild",
            "build",
            "--platform",
            "linux/amd64,linux/arm64",
            "--platform",
            "linux/386",
            ".",
        ]);
        let Command::Build(build) = cli.unwrap().command else {
            panic!("not a build")
        };
        assert_eq!(build.what.platform, ["linux/amd64", "linux/arm64", "linux/386"]);
    }
}
