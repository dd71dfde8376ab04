//! Instructions as the parser understood them: typed, nothing expanded yet, a span on every part that can be wrong.

use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// A piece of text with its place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands. For text that was joined from continued lines: from the first to the last of its bytes.
    pub span: Span,
}

/// Text with its place. Quotes, escapes and variables are as written unless the field says otherwise.
pub type Word = Spanned<String>;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The keyword as written.
    pub keyword: Word,
    /// From the keyword to the last byte, heredocs counted in.
    pub span: Span,
    /// First and last physical line, from 1, heredocs counted in.
    pub lines: (u32, u32),
    /// The logical line after the keyword, continuations joined, trimmed; flags included. What history and step names show.
    pub text: String,
    /// The comment block directly above, one string a line, without `#` and the blanks around the text.
    pub comments: Vec<String>,
    /// What it says.
    pub kind: Kind,
}

impl Instruction {
    /// Its heredocs, in order.
    #[must_use]
    pub fn heredocs(&self) -> &[Heredoc] {
        match &self.kind {
            Kind::Run(run) => &run.heredocs,
            Kind::Copy(copy) | Kind::Add(copy) => &copy.heredocs,
            _ => &[],
        }
    }
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `FROM`
    From(From),
    /// `ARG`
    Arg(Vec<Arg>),
    /// `ENV`
    Env(KeyValues),
    /// `LABEL`
    Label(KeyValues),
    /// `RUN`
    Run(Box<Run>),
    /// `COPY`
    Copy(Box<Copy>),
    /// `ADD`
    Add(Box<Copy>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `SHELL`
    Shell(Vec<Word>),
    /// `USER`
    User(Word),
    /// `WORKDIR`
    Workdir(Word),
    /// `EXPOSE`
    Expose(Vec<Word>),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `STOPSIGNAL`
    StopSignal(Word),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD`: the inner instruction, and its text for the image config.
    Onbuild {
        /// Text of the inner instruction, verbatim.
        text: Word,
        /// The inner instruction, or the mistake that will end every build that runs it.
        inner: Result<Box<Instruction>, Box<Diagnostic>>,
    },
    /// `MAINTAINER`
    Maintainer(Word),
}

/// `FROM [--platform=P] base [AS name]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `--platform`, unexpanded.
    pub platform: Option<Word>,
    /// The base as written, unexpanded.
    pub base: Word,
    /// `AS` keyword as written.
    pub as_keyword: Option<Word>,
    /// Stage name as written (stages compare it in lower case).
    pub name: Option<Word>,
}

/// One `NAME[=default]` of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Name as written: quotes are part of it.
    pub name: Word,
    /// Default, unexpanded.
    pub default: Option<Word>,
}

/// `ENV` and `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValues {
    /// Keys and values, both unexpanded, quotes as written.
    pub pairs: Vec<(Word, Word)>,
    /// Written as `NAME text` instead of `NAME=value`.
    pub legacy: bool,
}

/// Shell form or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Text for the shell.
    Shell(Word),
    /// Decoded JSON array.
    Exec(Vec<Word>),
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, quotes removed: also the file's name.
    pub name: Word,
    /// The opener as written (`<<-"EOF"`, `3<<EOF`), for command lines that are rebuilt.
    pub opener: String,
    /// The body with its line ends; with `<<-` leading tabs are already taken off.
    pub data: String,
    /// The body as written, leading tabs and all.
    pub written: String,
    /// Where the body stands, end mark not counted in.
    pub data_span: Span,
    /// Whether variables expand in the body: the delimiter had no quotes.
    pub expand: bool,
    /// Whether it was `<<-`.
    pub chomp: bool,
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What runs. In the shell form the text is as written, with heredoc openers but without bodies.
    pub command: Command,
    /// Heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<Word>,
    /// `--security`
    pub security: Option<Word>,
    /// `--device`
    pub devices: Vec<Device>,
}

/// One `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The whole value.
    pub raw: Word,
    /// Name of the device or of its class.
    pub name: String,
    /// Whether a build without it fails.
    pub required: bool,
}

/// One `--mount`, split at commas, nothing expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The whole value.
    pub raw: Word,
    /// `key=value` or bare `key`, in order.
    pub options: Vec<(Word, Option<Word>)>,
}

/// `COPY` and `ADD`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// Sources in order, heredocs not counted in, unexpanded.
    pub sources: Vec<Word>,
    /// Heredoc sources.
    pub heredocs: Vec<Heredoc>,
    /// Destination, unexpanded.
    pub dest: Word,
    /// `--from`
    pub from: Option<Word>,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<Word>,
    /// `ADD --checksum`
    pub checksum: Option<Word>,
    /// `ADD --keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `ADD --unpack`
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`. Durations in nanoseconds; 0 is the engine's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    /// `NONE` is nothing.
    pub command: Option<Command>,
    /// `--interval`
    pub interval_ns: i64,
    /// `--timeout`
    pub timeout_ns: i64,
    /// `--start-period`
    pub start_period_ns: i64,
    /// `--start-interval`
    pub start_interval_ns: i64,
    /// `--retries`
    pub retries: i64,
}
