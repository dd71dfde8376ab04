//! Flags of `rbuild debug`; doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What is looked at.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Show the instructions of a Dockerfile as they were understood
    Parse(ParseArgs),
    /// Show what the stages of a Dockerfile need, and the image that each would give
    Graph(GraphArgs),
    /// Expand words: one JSON case a line on stdin, one answer a line on stdout
    Shell(LinesArgs),
    /// Match and walk with ignore patterns: one JSON case a line on stdin, one answer a line on stdout
    Ignore(LinesArgs),
}

/// The `debug parse` command.
#[derive(Debug, Args)]
pub(crate) struct ParseArgs {
    /// Dockerfile; `-` reads it from stdin
    pub(crate) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The `debug graph` command.
#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Dockerfile; `-` reads it from stdin
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) form: GraphForm,
    /// Take every image for the same small one instead of asking registries
    #[arg(long)]
    pub(crate) stub_images: bool,
    /// Stage to look at [default: the last one, then every one that has a name]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Build argument
    #[arg(long = "build-arg", value_name = "KEY=VALUE")]
    pub(crate) build_args: Vec<String>,
}

/// How a graph is printed.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct GraphForm {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the graph for Graphviz
    #[arg(long)]
    pub(crate) dot: bool,
}

/// The commands that answer line by line.
#[derive(Debug, Args)]
pub(crate) struct LinesArgs {
    /// One JSON object a line, in and out
    #[arg(long, required = true)]
    pub(crate) jsonl: bool,
}
