//! Instructions → stages: what stands before the first `FROM`, and from each `FROM` to the next; and how stages are found.

use crate::diagnostic::Diagnostic;
use crate::instruction::{Arg, From as FromInstruction, Instruction, Kind};
use crate::source::Span;

/// One stage.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Its `FROM`.
    pub from: &'a FromInstruction,
    /// The instruction around it.
    pub instruction: &'a Instruction,
    /// Its name in lower case.
    pub name: Option<String>,
    /// Everything up to the next `FROM`.
    pub body: &'a [Instruction],
}

/// A whole Dockerfile.
#[derive(Debug)]
pub struct Stages<'a> {
    /// `ARG`s before the first `FROM`.
    pub globals: Vec<&'a Arg>,
    /// The stages, in order.
    pub list: Vec<Stage<'a>>,
}

/// What a name in `COPY --from` or a mount leads to, seen from one stage.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A stage above.
    Earlier(usize),
    /// The stage that asks.
    Itself,
    /// A stage below.
    Later(usize),
    /// No stage of this file.
    Unknown,
    /// A number that no stage has.
    OutOfRange,
}

impl<'a> Stages<'a> {
    /// Splits a file. What stands before the first `FROM` and is no `ARG` was reported by the parser.
    #[must_use]
    pub fn split(instructions: &'a [Instruction]) -> Self {
        let mut globals = Vec::new();
        let mut list: Vec<Stage<'a>> = Vec::new();
        let mut body_start = 0;
        for (at, instruction) in instructions.iter().enumerate() {
            match &instruction.kind {
                Kind::From(from) => {
                    if let Some(last) = list.last_mut() {
                        last.body = &instructions[body_start..at];
                    }
                    body_start = at + 1;
                    list.push(Stage {
                        from,
                        instruction,
                        name: from.name.as_ref().map(|name| name.value.to_ascii_lowercase()),
                        body: &[],
                    });
                }
                Kind::Arg(args) if list.is_empty() => globals.extend(args),
                _ => {}
            }
        }
        if let Some(last) = list.last_mut() {
            last.body = &instructions[body_start..];
        }
        Self { globals, list }
    }

    /// The stage to build: the last one, or the last one of that name. Numbers are no names here.
    pub(crate) fn target(&self, target: Option<&str>) -> Result<usize, Diagnostic> {
        let Some(target) = target.filter(|target| !target.is_empty()) else {
            let none = || Diagnostic::error("no-stages", Span::default(), "dockerfile contains no stages to build");
            return self.list.len().checked_sub(1).ok_or_else(none);
        };
        let wanted = target.to_ascii_lowercase();
        let found = self.list.iter().rposition(|stage| stage.name.as_ref() == Some(&wanted));
        found.ok_or_else(|| {
            let message = format!("target stage \"{target}\" could not be found");
            let error = Diagnostic::error("unknown-target", Span::default(), message);
            self.suggest(error, &wanted, self.list.len())
        })
    }

    /// The stage above `current` that `FROM base` means. The word is compared as written, names are lower case.
    pub(crate) fn base(&self, current: usize, base: &str) -> Option<usize> {
        self.list[..current]
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(base))
    }

    /// What `--from=text` means in the stage `current`: a number, or a name in any case.
    pub(crate) fn find(&self, current: usize, text: &str) -> Found {
        let Ok(number) = text.parse::<i64>() else {
            return self.find_named(current, text);
        };
        match usize::try_from(number) {
            Ok(index) if index < current => Found::Earlier(index),
            Ok(index) if index == current => Found::Itself,
            Ok(index) if index < self.list.len() => Found::Later(index),
            _ => Found::OutOfRange,
        }
    }

    /// What a mount's `from=text` means in the stage `current`: a name in any case, that of the last stage if several have
    /// it. Numbers are names of images here.
    pub(crate) fn find_named(&self, current: usize, text: &str) -> Found {
        let wanted = text.to_ascii_lowercase();
        match self.list.iter().rposition(|stage| stage.name.as_ref() == Some(&wanted)) {
            Some(index) if index < current => Found::Earlier(index),
            Some(index) if index == current => Found::Itself,
            Some(index) => Found::Later(index),
            None => Found::Unknown,
        }
    }

    /// How messages call a stage: its name, or its number.
    pub(crate) fn called(&self, index: usize) -> String {
        let name = self.list.get(index).and_then(|stage| stage.name.clone());
        name.unwrap_or_else(|| index.to_string())
    }

    /// Adds the nearest name among the first `limit` stages, if one is near.
    pub(crate) fn suggest(&self, error: Diagnostic, name: &str, limit: usize) -> Diagnostic {
        match self.nearest(name, limit) {
            Some(near) => error.help(format!("did you mean the stage `{near}`?")),
            None => error,
        }
    }

    /// The name among the first `limit` stages that `name` may be meant to be.
    pub(crate) fn nearest(&self, name: &str, limit: usize) -> Option<String> {
        let names = || self.list[..limit].iter().filter_map(|stage| stage.name.as_deref());
        let same = names().find(|known| known.eq_ignore_ascii_case(name));
        same.or_else(|| crate::suggest::nearest(name, names()))
            .map(str::to_owned)
    }
}
