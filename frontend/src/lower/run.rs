//! `RUN` → a vertex that runs a process.

use proto::definition::{ExecOp, InlineFile, MountKind, Network, Op};

use super::mount;
use super::stage::{Lowering, StageState};
use crate::args;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Command, Heredoc, Instruction, Run, Word};

/// Where scripts of heredocs appear in a step.
const SCRIPT_DIR: &str = "/dev/pipes";

/// What a `RUN` starts.
struct Started {
    args: Vec<String>,
    script: Option<InlineFile>,
}

impl Lowering<'_> {
    /// Lowers a `RUN`.
    pub(crate) fn run(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        run: &Run,
        prefix: &str,
    ) -> Result<(), Diagnostic> {
        refuse_privileges(run)?;
        if matches!(&run.command, Command::Exec(words) if words.is_empty()) {
            return Err(
                Diagnostic::error("missing-argument", instruction.keyword.span, "arguments are required")
                    .help("write `RUN [\"program\", \"argument\"]`"),
            );
        }
        let network = self.network(run.network.as_ref())?;
        let mounts = self.mounts(state, instruction, run)?;
        let started = start(state, run);
        let secrets: Vec<&str> = mounts.iter().filter_map(|mount| secret_variable(&mount.kind)).collect();
        let mut text = format!("{prefix}{}", self.step_text(state, instruction, &secrets));
        if let Some(heredoc) = only_heredoc(run) {
            text = format!("{text} ({})", summary(&heredoc.data));
        }
        let created_by = format!(
            "RUN {}{} # buildkit",
            state.scope.history_prefix(),
            started.args.join(" ")
        );
        let build_args = &self.input.options.build_args;
        let exec = ExecOp {
            root: state.root,
            args: started.args,
            env: state.scope.environment(),
            proxy_env: args::proxies(build_args, &state.scope),
            cwd: state.cwd().to_owned(),
            user: state.config.user.clone(),
            network,
            hostname: build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .cloned(),
            extra_hosts: self.input.options.extra_hosts.clone(),
            shm_size_bytes: self.input.options.shm_size_bytes,
            script: started.script,
            mounts,
        };
        let vertex = self.step(state, instruction, &text, Op::Exec(Box::new(exec)));
        state.root = Some(vertex);
        state.record(created_by, Some(vertex));
        Ok(())
    }

    fn network(&self, flag: Option<&Word>) -> Result<Network, Diagnostic> {
        let options = self.input.options;
        let network = match flag {
            None => options.default_network,
            Some(word) => match word.value.as_str() {
                "default" => Network::Default,
                "none" => Network::None,
                "host" => Network::Host,
                other => {
                    let message = format!("invalid network mode \"{other}\"");
                    return Err(Diagnostic::error("invalid-network", word.span, message)
                        .help("the modes are `default`, `none` and `host`"));
                }
            },
        };
        match (network, flag) {
            (Network::Host, Some(word)) if !options.allow_network_host => {
                Err(
                    Diagnostic::error("not-allowed", word.span, "network.host is not allowed")
                        .help("allow it for this build with `--allow network.host`"),
                )
            }
            _ => Ok(network),
        }
    }

    fn mounts(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<Vec<proto::definition::Mount>, Diagnostic> {
        let mut mounts = Vec::new();
        let mut sockets = 0;
        for written in &run.mounts {
            let settings = self.words(&state.scope, |words| mount::Settings::read(written, words, sockets))?;
            let lowered = self.mount(state, instruction, written, settings)?;
            sockets += usize::from(matches!(lowered.kind, MountKind::Ssh { .. }));
            mounts.push(lowered);
        }
        Ok(mounts)
    }
}

fn refuse_privileges(run: &Run) -> Result<(), Diagnostic> {
    if let Some(security) = &run.security {
        match security.value.as_str() {
            "sandbox" => {}
            "insecure" => {
                return Err(Diagnostic::error(
                    "not-allowed",
                    security.span,
                    "security.insecure is not allowed",
                ));
            }
            other => {
                let message = format!("security \"{other}\" is not valid");
                return Err(Diagnostic::error("invalid-security", security.span, message)
                    .help("the modes are `sandbox` and `insecure`"));
            }
        }
    }
    match run.devices.first() {
        Some(device) => {
            let message = "`--device` belongs to the labs channel of the language and is not supported";
            Err(Diagnostic::error("device-unsupported", device.span, message))
        }
        None => Ok(()),
    }
}

/// The command with its shell; heredocs become its text, or a script of their own.
fn start(state: &StageState, run: &Run) -> Started {
    let text = match &run.command {
        Command::Exec(words) => {
            return Started {
                args: words.iter().map(|word| word.value.clone()).collect(),
                script: None,
            };
        }
        Command::Shell(text) => text,
    };
    let mut script = None;
    let text = match only_heredoc(run) {
        Some(heredoc) if heredoc.data.starts_with("#!") => {
            let name = heredoc.name.value.clone();
            let path = format!("{SCRIPT_DIR}/{name}");
            script = Some(InlineFile {
                name,
                data: heredoc.data.clone().into_bytes(),
            });
            path
        }
        Some(heredoc) => heredoc.data.clone(),
        None => with_bodies(&text.value, &run.heredocs),
    };
    let mut args = state.shell();
    args.push(text);
    Started { args, script }
}

/// The heredoc that is the whole command.
fn only_heredoc(run: &Run) -> Option<&Heredoc> {
    match (&run.command, run.heredocs.as_slice()) {
        (Command::Shell(text), [heredoc]) if text.value.trim() == heredoc.opener => Some(heredoc),
        _ => None,
    }
}

/// The command as it stood in the file, for a shell that reads heredocs itself.
fn with_bodies(text: &str, heredocs: &[Heredoc]) -> String {
    let bodies = heredocs
        .iter()
        .map(|heredoc| format!("\n{}{}", heredoc.data, heredoc.name.value));
    std::iter::once(text.to_owned()).chain(bodies).collect()
}

/// First line of a script, for a step's name.
fn summary(data: &str) -> String {
    let mut lines = data.trim().lines();
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        Some(_) => format!("{first}..."),
        None => first.to_owned(),
    }
}

fn secret_variable(kind: &MountKind) -> Option<&str> {
    match kind {
        MountKind::Secret { env, .. } => env.as_deref(),
        _ => None,
    }
}
