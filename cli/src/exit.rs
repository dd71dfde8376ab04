//! Whose fault a failure was: the exit code, and the words of it.

use std::fmt::Write as _;
use std::process::ExitCode;

use proto::v1;

/// Whose fault: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The build failed: Dockerfile, context, a step.
    User,
    /// Flags or configuration.
    Usage,
    /// This machine: disk, permissions, kernel.
    Environment,
    /// Someone else's machine: a registry, the network.
    Remote,
    /// Ours.
    Bug,
    /// The user asked for it.
    Canceled,
    /// Nobody: a program that ran inside ended with this code, or could not be run.
    Program(u8),
}

impl Blame {
    /// The exit code: 1, 2, 3, 4, 70 (`EX_SOFTWARE`) or 130 (as if ended by `SIGINT`).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Usage => 2,
            Self::Environment => 3,
            Self::Remote => 4,
            Self::Bug => 70,
            Self::Canceled => 130,
            Self::Program(code) => code,
        }
    }
}

impl From<v1::failure::Blame> for Blame {
    fn from(blame: v1::failure::Blame) -> Self {
        match blame {
            v1::failure::Blame::User => Self::User,
            v1::failure::Blame::Usage => Self::Usage,
            v1::failure::Blame::Environment => Self::Environment,
            v1::failure::Blame::Remote => Self::Remote,
            v1::failure::Blame::Canceled => Self::Canceled,
            // A failure that nobody took the blame for is a bug of the server.
            v1::failure::Blame::Bug | v1::failure::Blame::Unspecified => Self::Bug,
        }
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Whose fault.
    pub(crate) blame: Blame,
    /// What happened, to what; lower case, no full stop. Empty if the user has been told already.
    pub(crate) message: String,
    /// Causes found.
    pub(crate) notes: Vec<String>,
    /// Ways out.
    pub(crate) helps: Vec<String>,
}

impl Problem {
    /// A problem without notes.
    pub(crate) fn new(blame: Blame, message: impl Into<String>) -> Self {
        Self {
            blame,
            message: message.into(),
            notes: Vec::new(),
            helps: Vec::new(),
        }
    }

    /// Bad flags.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Blame::Usage, message)
    }

    /// This machine says no.
    pub(crate) fn environment(message: impl Into<String>) -> Self {
        Self::new(Blame::Environment, message)
    }

    /// The messages were printed already; only the exit code is left.
    pub(crate) fn told(blame: Blame) -> Self {
        Self::new(blame, "")
    }

    /// Adds a cause.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a way out.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.helps.push(help.into());
        self
    }

    /// The text for the user, with a final newline; empty if there is nothing to say.
    pub(crate) fn text(&self) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let mut text = format!("error: {}\n", self.message);
        append_notes(&mut text, &self.notes, &self.helps);
        text
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.blame.code())
    }
}

/// `note:` and `help:` lines.
pub(crate) fn append_notes(text: &mut String, notes: &[String], helps: &[String]) {
    let mut line = |word: &str, line: &String| writeln!(text, "{word}: {line}").expect("strings take all text");
    notes.iter().for_each(|note| line("note", note));
    helps.iter().for_each(|help| line("help", help));
}

/// Whether nobody sent this status: the transport made it up, because the connection broke.
pub(crate) fn connection_broke(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

impl From<tonic::Status> for Problem {
    /// The words are the server's; the code says whose fault.
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        if connection_broke(&status) {
            return Self::environment("the connection to the build server broke").note(status.message());
        }
        let blame = match status.code() {
            Code::InvalidArgument | Code::Unimplemented => Blame::Usage,
            Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange => Blame::User,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => Blame::Environment,
            Code::Unauthenticated | Code::PermissionDenied => Blame::Remote,
            Code::Cancelled => Blame::Canceled,
            Code::Ok | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss => Blame::Bug,
        };
        let message = match status.message() {
            "" => format!("the build server answered: {}", status.code()),
            message => message.to_owned(),
        };
        Self::new(blame, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_whose_fault_it_was() {
        let code = |blame: v1::failure::Blame| Blame::from(blame).code();
        assert_eq!(code(v1::failure::Blame::User), 1);
        assert_eq!(code(v1::failure::Blame::Usage), 2);
        assert_eq!(code(v1::failure::Blame::Environment), 3);
        assert_eq!(code(v1::failure::Blame::Remote), 4);
        assert_eq!(code(v1::failure::Blame::Bug), 70);
        assert_eq!(code(v1::failure::Blame::Unspecified), 70);
        assert_eq!(code(v1::failure::Blame::Canceled), 130);
    }

    #[test]
    fn a_problem_names_causes_and_ways_out_one_per_line() {
        let problem = Problem::usage("no").note("because").help("try this").help("or that");
        assert_eq!(
            problem.text(),
            "error: no\nnote: because\nhelp: try this\nhelp: or that\n"
        );
        assert_eq!(Problem::told(Blame::User).text(), "");
    }

    #[test]
    fn a_status_keeps_the_words_of_the_server() {
        let problem = Problem::from(tonic::Status::not_found("no image `a`"));
        assert_eq!((problem.blame, problem.message.as_str()), (Blame::User, "no image `a`"));
        assert!(!Problem::from(tonic::Status::internal("")).message.is_empty());
    }
}
