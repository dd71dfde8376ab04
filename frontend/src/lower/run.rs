//! `RUN` → a vertex that runs a process.
//!
//! `--device` belongs to the labs channel of the language in the reference; here it needs no channel, only its entitlement.

use proto::definition::{DeviceRequest, ExecOp, InlineFile, MountKind, Network, Op, Security};
use proto::entitlement::Entitlement;

use super::mount_options::MountOptions;
use super::stage::{Lowering, StageState};
use crate::args;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Command, Device, Heredoc, Instruction, Run, Word};
use crate::source::Span;

/// Where scripts of heredocs appear in a step.
const SCRIPT_DIR: &str = "/dev/pipes";

/// What a `RUN` starts.
struct Started {
    args: Vec<String>,
    script: Option<InlineFile>,
}

/// An empty array is no program; the shell form may be empty, since the shell is one.
fn refuse_nothing(instruction: &Instruction, run: &Run) -> Result<(), Diagnostic> {
    match &run.command {
        Command::Exec(words) if words.is_empty() => {
            let message = "RUN has nothing to run: the array is empty";
            let error = Diagnostic::error("nothing-to-run", instruction.span, message);
            Err(error.help("write `RUN [\"program\", \"argument\"]`"))
        }
        _ => Ok(()),
    }
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
        refuse_nothing(instruction, run)?;
        let network = self.network(run.network.as_ref())?;
        let security = self.security(run.security.as_ref())?;
        let devices = self.devices(run)?;
        let mounts = self.mounts(state, instruction, run)?;
        let started = start(state, run);
        let secrets: Vec<&str> = mounts.iter().filter_map(|mount| secret_variable(&mount.kind)).collect();
        let mut text = format!("{prefix}{}", self.step_text(state, instruction, &secrets)?);
        if let Some(heredoc) = only_heredoc(run) {
            text = format!("{text} ({})", summary(&heredoc.data));
        }
        self.budget
            .spend(state.scope.size_bytes() + state.cwd().len(), instruction.span)?;
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
            build_args: state.scope.arguments(),
            proxy_env: args::proxies(build_args, &state.scope),
            cwd: state.cwd().to_owned(),
            user: state.config.user.clone(),
            network,
            security,
            devices,
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
        if let (Network::Host, Some(word)) = (network, flag) {
            self.allowed(&Entitlement::NetworkHost, word.span)?;
        }
        Ok(network)
    }

    fn security(&self, flag: Option<&Word>) -> Result<Security, Diagnostic> {
        let Some(word) = flag else {
            return Ok(self.input.options.default_security);
        };
        match word.value.as_str() {
            "sandbox" => Ok(self.input.options.default_security),
            "insecure" => {
                self.allowed(&Entitlement::SecurityInsecure, word.span)?;
                Ok(Security::Insecure)
            }
            other => {
                let message = format!("security \"{other}\" is not valid");
                Err(Diagnostic::error("invalid-security", word.span, message)
                    .help("the modes are `sandbox` and `insecure`"))
            }
        }
    }

    fn devices(&self, run: &Run) -> Result<Vec<DeviceRequest>, Diagnostic> {
        let lower = |device: &Device| {
            let span = device.raw.span;
            if device.name.is_empty() {
                let error = Diagnostic::error("invalid-device", span, "the device has no name");
                return Err(error.help("write `--device=vendor/class=name`"));
            }
            self.allowed(&Entitlement::Device(Some(device.name.clone())), span)?;
            Ok(DeviceRequest {
                name: device.name.clone(),
                required: device.required,
            })
        };
        run.devices.iter().map(lower).collect()
    }

    fn allowed(&self, wanted: &Entitlement, span: Span) -> Result<(), Diagnostic> {
        if self.input.options.entitlements.allow(wanted) {
            return Ok(());
        }
        Err(
            Diagnostic::error("not-allowed", span, format!("{wanted} is not allowed"))
                .help(format!("allow it for this build with `--allow {wanted}`")),
        )
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
            let options = self.words(&state.scope, |words| {
                MountOptions::read(written, |word| words.expand(word))
            })?;
            let lowered = self.mount(state, instruction, written, (options, sockets))?;
            sockets += usize::from(matches!(lowered.kind, MountKind::Ssh { .. }));
            mounts.push(lowered);
        }
        Ok(mounts)
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

/// The command as it stood in the file, for a shell that reads heredocs itself and takes tabs off itself.
fn with_bodies(text: &str, heredocs: &[Heredoc]) -> String {
    let bodies = heredocs
        .iter()
        .map(|heredoc| format!("\n{}{}", heredoc.written, heredoc.name.value));
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
