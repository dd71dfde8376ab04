//! Instructions that only change the image config, and `WORKDIR`, which makes a directory as well.

use proto::definition::{FileAction, FileOp, MakeDirAction, Op};
use proto::oci;
use proto::oci::config::Empty;

use super::expand::Words;
use super::expose::Ports;
use super::stage::{Lowering, StageState};
use super::{gofmt, owner, path};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Arg, Command, Healthcheck, Instruction, KeyValues, Kind, Word};

/// Signals by name, without `SIG`. Source: signal(7).
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

impl Lowering<'_> {
    /// Lowers an instruction that makes no layer.
    pub(crate) fn configure(&mut self, state: &mut StageState, instruction: &Instruction) -> Result<(), Diagnostic> {
        match &instruction.kind {
            Kind::Arg(args) => self.arg(state, instruction, args)?,
            Kind::Env(pairs) => self.env(state, pairs)?,
            Kind::Label(pairs) => self.label_image(state, pairs)?,
            Kind::Cmd(command) => cmd(state, command),
            Kind::Entrypoint(command) => entrypoint(state, command),
            Kind::Shell(words) => {
                state.config.shell = values(words);
                state.record(format!("SHELL {}", gofmt::list(&values(words))), None);
            }
            Kind::User(user) => {
                let user = self.words(&state.scope, |words| words.expand(user))?;
                state.record(format!("USER {user}"), None);
                state.config.user = user;
            }
            Kind::Expose(ports) => self.expose(state, ports)?,
            Kind::Volume(paths) => self.volume(state, paths)?,
            Kind::StopSignal(signal) => self.stop_signal(state, signal)?,
            Kind::Healthcheck(check) => healthcheck(state, check),
            Kind::Onbuild { text, .. } => state.config.on_build.push(text.value.clone()),
            Kind::Maintainer(author) => {
                state.record(format!("MAINTAINER {}", author.value), None);
                state.author.clone_from(&author.value);
            }
            Kind::From(_) | Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => {}
        }
        Ok(())
    }

    /// Lowers a `WORKDIR`.
    pub(crate) fn workdir(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        word: &Word,
        prefix: &str,
    ) -> Result<(), Diagnostic> {
        let text = self.words(&state.scope, |words| words.expand(word))?;
        self.check_workdir(state, word, &text);
        // An absolute path is recorded as it is written: other builders do so, and tools compare configs.
        let recorded = if text.starts_with('/') {
            text
        } else {
            path::join(state.cwd(), &text)
        };
        let path = path::clean(&recorded);
        if path::of_the_kernel(&path) == Some("/proc") {
            // A process that starts there starts in whatever the kernel makes of it, a directory of the machine included.
            let message = format!("`WORKDIR {recorded}` is in the file system of the kernel's processes");
            return Err(Diagnostic::error("invalid-workdir", word.span, message)
                .help("`RUN cd …` enters a directory of `/proc` for one step"));
        }
        let created_by = format!("WORKDIR {recorded}");
        state.config.working_dir = recorded;
        if state.config.working_dir == "/" {
            state.record(created_by, None);
            return Ok(());
        }
        let owner = match state.config.user.as_str() {
            "" => None,
            user => Some(owner::parse_owner(user).map_err(|error| {
                Diagnostic::error("invalid-user", word.span, error.to_string())
                    .note(format!("`USER {user}` owns the directories that this makes"))
            })?),
        };
        let action = FileAction::MakeDir(MakeDirAction { path, owner });
        let root = state.root;
        let text = format!("{prefix}{}", self.step_text(state, instruction, &[])?);
        let vertex = self.step(state, instruction, &text, Op::File(FileOp { root, action }));
        state.root = Some(vertex);
        state.record(created_by, Some(vertex));
        Ok(())
    }

    /// Each default sees the arguments before it.
    fn arg(&mut self, state: &mut StageState, instruction: &Instruction, args: &[Arg]) -> Result<(), Diagnostic> {
        let input = self.input;
        let mut shown = String::from("ARG");
        for arg in args {
            let name = &arg.name.value;
            let value = match (input.options.build_args.get(name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.words(&state.scope, |words| words.expand(default))?),
                (None, None) => input.globals.values.get(name).cloned(),
            };
            self.note_declared(state, instruction, arg, value.as_deref());
            state.scope.declare(name, value.as_deref());
            shown = match &value {
                Some(value) => format!("{shown} {name}={value}"),
                None => format!("{shown} {name}"),
            };
        }
        state.record(shown, None);
        Ok(())
    }

    fn env(&mut self, state: &mut StageState, pairs: &KeyValues) -> Result<(), Diagnostic> {
        let expanded = self.words(&state.scope, |words| expand_pairs("ENV", pairs, words))?;
        for ((written, _), (name, value)) in pairs.pairs.iter().zip(&expanded) {
            self.check_secret("ENV", name, written.span);
            state.scope.set(name, value);
            let entry = format!("{name}={value}");
            let same = |known: &&mut String| known.split_once('=').is_some_and(|(known, _)| known == name);
            match state.config.env.iter_mut().find(same) {
                Some(known) => *known = entry,
                None => state.config.env.push(entry),
            }
        }
        state.record(format!("ENV {}", shown(&expanded)), None);
        Ok(())
    }

    fn label_image(&mut self, state: &mut StageState, pairs: &KeyValues) -> Result<(), Diagnostic> {
        let expanded = self.words(&state.scope, |words| expand_pairs("LABEL", pairs, words))?;
        state.record(format!("LABEL {}", shown(&expanded)), None);
        state.config.labels.extend(expanded);
        Ok(())
    }

    fn expose(&mut self, state: &mut StageState, written: &[Word]) -> Result<(), Diagnostic> {
        let mut texts = Vec::new();
        for word in written {
            let words = Words::stage((self.input.source, self.input.escape), &state.scope, &self.budget);
            let expanded = words.expand_words(word)?;
            texts.extend(expanded.into_iter().map(|text| (text, word.span)));
        }
        // Other builders sort the words before they are expanded to ports; history shows that order.
        texts.sort();
        let mut ports = Vec::new();
        for (text, span) in texts {
            let parsed = Ports::parse(&text);
            let parsed = parsed.map_err(|error| Diagnostic::error("invalid-port", span, error.to_string()))?;
            if parsed.odd_case {
                let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
                let warning = Diagnostic::warning("ExposeProtoCasing", span, message);
                self.report(warning.help(format!("write `{}`", text.to_ascii_lowercase())));
            }
            if parsed.mapping {
                let message =
                    format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
                let container = text.rsplit(':').next().unwrap_or(&text);
                self.report(Diagnostic::warning("ExposeInvalidFormat", span, message).help(format!(
                    "write `{container}`; ports of the host are chosen when a container is run"
                )));
            }
            let single: Vec<String> = parsed.single().collect();
            self.budget.spend(single.len() * size_of::<String>(), span)?;
            ports.extend(single);
        }
        state.record(format!("EXPOSE {}", gofmt::list(&ports)), None);
        state
            .config
            .exposed_ports
            .extend(ports.into_iter().map(|port| (port, Empty {})));
        Ok(())
    }

    fn volume(&mut self, state: &mut StageState, written: &[Word]) -> Result<(), Diagnostic> {
        let mut paths = Vec::new();
        for word in written {
            let path = self.words(&state.scope, |words| words.expand(word))?;
            if path.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return Err(Diagnostic::error("empty-volume", word.span, message));
            }
            paths.push(path);
        }
        state.record(format!("VOLUME {}", gofmt::list(&paths)), None);
        state
            .config
            .volumes
            .extend(paths.into_iter().map(|path| (path, Empty {})));
        Ok(())
    }

    fn stop_signal(&mut self, state: &mut StageState, word: &Word) -> Result<(), Diagnostic> {
        let signal = self.words(&state.scope, |words| words.expand(word))?;
        if !is_signal(&signal) {
            return Err(
                Diagnostic::error("invalid-signal", word.span, format!("invalid signal: {signal}"))
                    .help("give a name like `SIGTERM` or a number"),
            );
        }
        state.record(format!("STOPSIGNAL {signal}"), None);
        state.config.stop_signal = signal;
        Ok(())
    }
}

fn expand_pairs(keyword: &str, pairs: &KeyValues, words: &Words<'_>) -> Result<Vec<(String, String)>, Diagnostic> {
    let expand = |(key, value): &(Word, Word)| {
        let name = words.expand(key)?;
        if name.is_empty() && keyword == "ENV" {
            return Err(Diagnostic::error(
                "blank-name",
                key.span,
                format!("{keyword} names can not be blank"),
            ));
        }
        Ok((name, words.expand(value)?))
    };
    pairs.pairs.iter().map(expand).collect()
}

fn shown(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

fn values(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.value.clone()).collect()
}

fn with_shell(state: &StageState, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => values(words),
        Command::Shell(text) => {
            let mut args = state.shell();
            args.push(text.value.clone());
            args
        }
    }
}

fn cmd(state: &mut StageState, command: &Command) {
    let args = with_shell(state, command);
    state.record(format!("CMD {}", gofmt::quoted_list(&args)), None);
    state.config.cmd = Some(args).filter(|args| !args.is_empty());
    state.config.args_escaped = true;
    state.cmd_here = true;
}

fn entrypoint(state: &mut StageState, command: &Command) {
    let args = with_shell(state, command);
    state.record(format!("ENTRYPOINT {}", gofmt::quoted_list(&args)), None);
    state.config.entrypoint = Some(args).filter(|args| !args.is_empty());
    // Arguments of the base image were meant for its own entry point.
    if !state.cmd_here {
        state.config.cmd = None;
    }
}

fn healthcheck(state: &mut StageState, check: &Healthcheck) {
    let test = match &check.command {
        None => vec!["NONE".to_owned()],
        Some(Command::Exec(words)) => std::iter::once("CMD".to_owned()).chain(values(words)).collect(),
        Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.value.clone()],
    };
    let check = oci::Healthcheck {
        test,
        interval: check.interval_ns,
        timeout: check.timeout_ns,
        start_period: check.start_period_ns,
        start_interval: check.start_interval_ns,
        retries: check.retries,
    };
    state.record(format!("HEALTHCHECK {}", gofmt::healthcheck(&check)), None);
    state.config.healthcheck = Some(check);
}

/// Any number but 0, as other builders take it, or a name in any case, with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, limit: u32| {
        let number = name.strip_prefix(prefix).and_then(|number| number.parse::<u32>().ok());
        number.is_some_and(|number| (1..=limit).contains(&number))
    };
    SIGNALS.contains(&name) || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_or_numbers() {
        for good in ["SIGTERM", "term", "9", "-1", "SIGRTMIN+3", "RTMAX-14"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "FOO", "0", "SIG", "SIGRTMIN+16", "RTMAX-15"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
