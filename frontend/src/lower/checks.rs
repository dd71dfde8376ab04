//! Checks of single instructions, made when they are lowered: what is legal there, and likely not meant.

use proto::definition::CopySource;
use proto::oci::ImageConfig;
use proto::platform::Platform;

use super::expand::Words;
use super::path;
use super::stage::{Lowering, StageState, same_machine};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Arg, Command, Copy, Instruction, KeyValues, Kind, Word};
use crate::lint::settings::MULTIPLE;
use crate::lint::{fix, settings};
use crate::plan::ImageRequest;
use crate::source::Span;

/// Words that tell a secret, in names split at `_`.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that tell that it is none after all.
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// Whether a variable of that name likely holds a secret, so that its value is better not shown.
#[must_use]
pub fn tells_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET_WORDS) && !has(&PUBLIC_WORDS)
}

/// An `ARG` of a stage, as it was lowered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeclaredArg {
    /// The stage.
    pub(crate) stage: usize,
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    /// Whether the value is that of the global argument.
    pub(crate) inherited: bool,
    /// First and last line of the instruction.
    pub(crate) lines: (u32, u32),
    /// The comment above it.
    pub(crate) comments: Vec<String>,
}

/// Where the instructions of a stage stand of which only the last counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latest([Option<Earlier>; 3]);

/// One of them.
#[derive(Debug, Clone, Copy)]
struct Earlier {
    place: Span,
    /// It stands in a trigger of the base.
    inherited: bool,
}

impl Latest {
    fn replace(&mut self, kind: &Kind, place: Span) -> Option<Earlier> {
        let at = match kind {
            Kind::Cmd(_) => 0,
            Kind::Entrypoint(_) => 1,
            Kind::Healthcheck(_) => 2,
            _ => return None,
        };
        let inherited = false;
        self.0[at].replace(Earlier { place, inherited })
    }

    /// What came with the base stands there, for messages.
    pub(crate) fn move_to(&mut self, place: Span) {
        let inherited = true;
        for found in self.0.iter_mut().flatten() {
            *found = Earlier { place, inherited };
        }
    }
}

impl Lowering<'_> {
    /// Checks one instruction before it is lowered.
    pub(crate) fn check_instruction(&mut self, state: &mut StageState, instruction: &Instruction) {
        if let Some(earlier) = state.latest.replace(&instruction.kind, instruction.keyword.span) {
            self.report_repeated(instruction, earlier);
        }
        match &instruction.kind {
            Kind::Cmd(Command::Shell(text)) | Kind::Entrypoint(Command::Shell(text))
                if state.config.shell.is_empty() =>
            {
                self.report(json_recommended(text, instruction));
            }
            Kind::Env(pairs) | Kind::Label(pairs) if pairs.legacy => {
                self.report(legacy(pairs, instruction, self.input.escape));
            }
            Kind::Arg(args) => {
                for arg in args {
                    self.check_secret("ARG", &arg.name.value, arg.name.span);
                }
            }
            _ => {}
        }
    }

    /// What is useless is the earlier one; the comment that silences the warning stands above the later.
    fn report_repeated(&mut self, instruction: &Instruction, earlier: Earlier) {
        if settings::skipped_above(instruction, MULTIPLE) {
            return;
        }
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            instruction.keyword.value
        );
        let warning = Diagnostic::warning(MULTIPLE, earlier.place, message);
        let warning = warning.note(format!("line {} replaces it", instruction.lines.0));
        self.report(match earlier.inherited {
            true => warning.note("it comes with a trigger of the base"),
            false => warning.help("remove this one"),
        });
    }

    /// Warns of a name that tells a secret.
    pub(crate) fn check_secret(&mut self, keyword: &str, name: &str, place: Span) {
        if tells_secret(name) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
            let warning = Diagnostic::warning("SecretsUsedInArgOrEnv", place, message);
            self.report(warning.help("give it to the step that needs it with `RUN --mount=type=secret`"));
        }
    }

    /// Warns of a relative path that depends on the base image. Only the first of a stage and its bases can.
    pub(crate) fn check_workdir(&mut self, state: &mut StageState, word: &Word, text: &str) {
        let first = !std::mem::replace(&mut state.workdir_set, true);
        if first && !text.starts_with('/') {
            let message = format!("Relative workdir {text:?} can have unexpected results if the base image changes");
            let absolute = path::join(state.cwd(), text);
            let warning = Diagnostic::warning("WorkdirRelativePath", word.span, message);
            self.report(warning.help(format!("write `WORKDIR {absolute}`")));
        }
    }

    /// Keeps what an `ARG` declares, for descriptions.
    pub(crate) fn note_declared(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        arg: &Arg,
        value: Option<&str>,
    ) {
        let given = self.input.options.build_args.contains_key(&arg.name.value);
        self.declared.push(DeclaredArg {
            stage: state.index,
            name: arg.name.value.clone(),
            value: value.map(str::to_owned),
            inherited: !given && arg.default.is_none() && value.is_some(),
            lines: instruction.lines,
            comments: instruction.comments.clone(),
        });
    }

    /// Warns of a base image that is for another platform than `wanted`.
    pub(crate) fn check_platform(
        &mut self,
        index: usize,
        (request, wanted): (&ImageRequest, &Platform),
        config: &ImageConfig,
    ) {
        let found = Platform::new(&config.os, &config.architecture, &config.variant);
        let unknown = config.os.is_empty() || config.architecture.is_empty();
        if unknown || same_machine(&found, wanted) {
            return;
        }
        let base = &self.input.stages.list[index].from.base;
        let words = Words::global((self.input.source, self.input.escape), self.input.globals);
        // It was expanded before, or there would be no image.
        let name = words.expand(base).unwrap_or_else(|_| base.value.clone());
        let message =
            format!("Base image {name} was pulled with platform \"{found}\", expected \"{wanted}\" for current build");
        let warning = Diagnostic::warning("InvalidBaseImagePlatform", request.span, message);
        self.report(warning.help(format!(
            "name an image for {wanted}, or build for it with `--platform {found}`"
        )));
    }

    /// Warns of sources that the ignore file excludes. With exceptions in it, nobody can tell before the files are there.
    pub(crate) fn check_ignored(&mut self, instruction: &Instruction, copy: &Copy, sources: &[CopySource]) {
        let Some(ignore) = self
            .input
            .options
            .ignore
            .as_ref()
            .filter(|ignore| !ignore.has_exceptions())
        else {
            return;
        };
        let what = if matches!(instruction.kind, Kind::Add(_)) {
            "Add"
        } else {
            "Copy"
        };
        for (word, source) in copy.sources.iter().zip(sources) {
            let CopySource::Path { pattern, .. } = source else {
                continue;
            };
            let name = clean(pattern);
            let excluded = match name.as_str() {
                // The context itself is no path that a pattern could name.
                "." | "/" => ignore.takes_all(),
                name => ignore.deciding(name.as_bytes()),
            };
            let Some((rule, line)) = excluded else { continue };
            let message = format!("Attempting to {what} file {name:?} that is excluded by .dockerignore");
            let wanted = match name.as_str() {
                "." | "/" => "what is needed, as in `!src`,".to_owned(),
                name => format!("`!{name}`"),
            };
            self.report(
                Diagnostic::warning("CopyIgnoredFile", word.span, message)
                    .note(format!("excluded by `{rule}`, line {line} of the ignore file"))
                    .help(format!("remove that pattern, or add {wanted} below it")),
            );
        }
    }
}

/// A path without doubled slashes, `.` and inner `..`; it stays relative or absolute.
fn clean(written: &str) -> String {
    let absolute = path::clean(&format!("/{written}"));
    match (written.starts_with('/'), absolute.trim_start_matches('/')) {
        (true, _) => absolute,
        (false, "") => ".".to_owned(),
        (false, relative) => relative.to_owned(),
    }
}

fn json_recommended(text: &Word, instruction: &Instruction) -> Diagnostic {
    let keyword = &instruction.keyword;
    let message = format!(
        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
        keyword.value
    );
    let span = if text.value.is_empty() { keyword.span } else { text.span };
    let warning = Diagnostic::warning("JSONArgsRecommended", span, message);
    if text.value.is_empty() {
        return warning;
    }
    let (words, with_shell) = fix::exec_form(&text.value);
    let reason = if with_shell { "if the shell is meant, " } else { "" };
    warning.help(format!("{reason}write `{} {words}`", keyword.value))
}

fn legacy(pairs: &KeyValues, instruction: &Instruction, escape: char) -> Diagnostic {
    let keyword = &instruction.keyword.value;
    let message = format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
    let written = pairs.pairs.iter();
    let better: Vec<String> = written
        .map(|(key, value)| format!("{}={}", key.value, fix::value(&value.value, escape)))
        .collect();
    Diagnostic::warning("LegacyKeyValueFormat", instruction.span, message)
        .help(format!("write `{keyword} {}`", better.join(" ")))
}
