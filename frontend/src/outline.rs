//! What a file offers to those who build it: its targets, and what one of them can be given.

use std::collections::{BTreeMap, BTreeSet};

use proto::definition::{MountKind, Op};

use crate::check::stubbed;
use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Instruction, Kind};
use crate::lower::expand::Words;
use crate::lower::reach::Origin;
use crate::lower::{Done, LowerOptions, Made, Selection};
use crate::parse::Parsed;
use crate::source::SourceFile;
use crate::stages::Stages;

/// What a build of one target can be given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// The target's name in lower case; empty without one.
    pub name: String,
    /// From the comment above its `FROM`.
    pub description: String,
    /// Build arguments that mean something for it.
    pub args: Vec<OutlineArg>,
    /// Secrets that its steps mount.
    pub secrets: Vec<Lent>,
    /// SSH agents that its steps mount.
    pub ssh: Vec<Lent>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its value in this build; empty without one.
    pub value: String,
    /// From the comment above.
    pub description: String,
    /// First and last line of the `ARG`.
    pub lines: (u32, u32),
}

/// Something that the client of a build lends to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    /// The name it is asked for by.
    pub id: String,
    /// Whether there is no build without it.
    pub required: bool,
    /// First and last line of the instruction that asks first.
    pub lines: (u32, u32),
}

/// A stage, as something to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name in lower case; empty without one.
    pub name: String,
    /// From the comment above.
    pub description: String,
    /// What is built if nothing is asked for.
    pub is_default: bool,
    /// The base as written.
    pub base: String,
    /// `--platform` as written; empty without one.
    pub platform: String,
    /// First and last line of the `FROM`.
    pub lines: (u32, u32),
}

/// Lists the stages of a file, in order.
///
/// # Errors
/// All errors of the parser.
pub fn targets(parsed: &Parsed) -> Result<Vec<Target>, Vec<Diagnostic>> {
    let errors: Vec<Diagnostic> = errors(&parsed.diagnostics);
    if !errors.is_empty() {
        return Err(errors);
    }
    let stages = Stages::split(&parsed.instructions).list;
    let last = stages.len().saturating_sub(1);
    let list = stages.into_iter().enumerate().map(|(at, stage)| {
        let name = stage.name.unwrap_or_default();
        Target {
            description: description(&stage.instruction.comments, &name),
            name,
            is_default: at == last,
            base: stage.from.base.value.clone(),
            platform: stage
                .from
                .platform
                .as_ref()
                .map(|word| word.value.clone())
                .unwrap_or_default(),
            lines: stage.instruction.lines,
        }
    });
    Ok(list.collect())
}

/// Describes the target of `options`. Every image is taken for a [`crate::stub`].
///
/// # Errors
/// Why it would not build: all errors.
pub fn outline(source: &SourceFile, parsed: &Parsed, options: &LowerOptions) -> Result<Outline, Vec<Diagnostic>> {
    let attempt = stubbed((source, parsed), options, Selection::Target);
    let Some(Made::Done(done)) = attempt.made else {
        return Err(errors(&attempt.diagnostics));
    };
    let stages = Stages::split(&parsed.instructions);
    let stage = &stages.list[done.target];
    let name = stage.name.clone().unwrap_or_default();
    let (secrets, ssh) = lent(&stages, &done);
    Ok(Outline {
        description: description(&stage.instruction.comments, &name),
        name,
        args: args((source, parsed), &stages, &done),
        secrets,
        ssh,
    })
}

fn errors(diagnostics: &[Diagnostic]) -> Vec<Diagnostic> {
    let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
    errors.cloned().collect()
}

/// What the comment says behind a name that begins a line of it.
fn description(comments: &[String], name: &str) -> String {
    let text = |comment: &String| comment.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    let found = comments.iter().filter(|_| !name.is_empty()).find_map(text);
    found.unwrap_or_default()
}

/// An argument with the arguments that its default is made of.
struct Known {
    arg: OutlineArg,
    needs: BTreeSet<String>,
}

/// Arguments that the target's stages declare, and global ones that their `FROM`s use, directly or through a default.
fn args((source, parsed): (&SourceFile, &Parsed), stages: &Stages<'_>, done: &Done) -> Vec<OutlineArg> {
    let globals = global_args((source, parsed), done);
    let mut listed: BTreeMap<String, OutlineArg> = BTreeMap::new();
    for index in stage_order(done) {
        let own: BTreeMap<&str, OutlineArg> = own_args(done, index);
        let mut open = used(Words::global((source, parsed.escape), &done.globals), stages, index);
        open.extend(
            done.declared
                .iter()
                .filter(|found| found.stage == index)
                .map(|found| found.name.clone()),
        );
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop_first() {
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some(arg) = own.get(name.as_str()) {
                listed.entry(name).or_insert_with(|| arg.clone());
            } else if let Some(known) = globals.get(name.as_str()) {
                open.extend(known.needs.iter().cloned());
                listed.entry(name).or_insert_with(|| known.arg.clone());
            }
        }
    }
    let mut args: Vec<OutlineArg> = listed.into_values().collect();
    args.sort_by_key(|arg| arg.lines);
    args
}

/// The target, what it is based on, then whatever else it needs.
fn stage_order(done: &Done) -> Vec<usize> {
    let mut order = vec![done.target];
    let mut at = done.target;
    while let Some(Origin::Stage(parent)) = done.bases.get(&at).map(|base| &base.origin) {
        order.push(*parent);
        at = *parent;
    }
    let rest: Vec<usize> = done
        .bases
        .keys()
        .filter(|index| !order.contains(index))
        .copied()
        .collect();
    order.extend(rest);
    order
}

/// Names in the `FROM` of a stage that have a value.
fn used(words: Words<'_>, stages: &Stages<'_>, index: usize) -> BTreeSet<String> {
    let from = stages.list[index].from;
    let parts = std::iter::once(&from.base).chain(&from.platform);
    parts
        .filter_map(|word| words.lookups(word))
        .flat_map(|lookups| lookups.set)
        .collect()
}

fn own_args(done: &Done, index: usize) -> BTreeMap<&str, OutlineArg> {
    let own = done
        .declared
        .iter()
        .filter(|found| found.stage == index && !found.inherited);
    let arg = |found: &'_ crate::lower::DeclaredArg| OutlineArg {
        name: found.name.clone(),
        value: found.value.clone().unwrap_or_default(),
        description: description(&found.comments, &found.name),
        lines: found.lines,
    };
    own.map(|found| (found.name.as_str(), arg(found))).collect()
}

fn global_args<'a>((source, parsed): (&SourceFile, &'a Parsed), done: &Done) -> BTreeMap<&'a str, Known> {
    let words = Words::global((source, parsed.escape), &done.globals);
    let before_stages = |instruction: &&Instruction| !matches!(instruction.kind, Kind::From(_));
    let mut known: BTreeMap<&str, Known> = BTreeMap::new();
    for instruction in parsed.instructions.iter().take_while(before_stages) {
        let Kind::Arg(args) = &instruction.kind else { continue };
        for arg in args {
            let name = arg.name.value.as_str();
            let lookups = arg.default.as_ref().and_then(|default| words.lookups(default));
            let mut needs = lookups.map(|lookups| lookups.set).unwrap_or_default();
            // `ARG A=$A-x` goes on with what the first `A` was made of.
            if needs.remove(name) {
                needs.extend(known.get(name).into_iter().flat_map(|old| old.needs.iter().cloned()));
            }
            let arg = OutlineArg {
                name: name.to_owned(),
                value: done.globals.values.get(name).cloned().unwrap_or_default(),
                description: description(&instruction.comments, name),
                lines: instruction.lines,
            };
            known.insert(name, Known { arg, needs });
        }
    }
    known
}

/// Secrets and agents of all steps, each once, in order of the instructions. The target's own wish for one counts first.
fn lent(stages: &Stages<'_>, done: &Done) -> (Vec<Lent>, Vec<Lent>) {
    let (mut secrets, mut ssh): (Vec<Lent>, Vec<Lent>) = (Vec::new(), Vec::new());
    let order: Vec<String> = stage_order(done)
        .into_iter()
        .map(|index| stages.called(index))
        .collect();
    let mut vertices: Vec<_> = done.plan.definition.vertices.iter().collect();
    vertices.sort_by_key(|vertex| order.iter().position(|stage| *stage == vertex.stage));
    for vertex in vertices {
        let Op::Exec(exec) = &vertex.op else { continue };
        for mount in &exec.mounts {
            let (list, id, required) = match &mount.kind {
                MountKind::Secret { id, required, .. } => (&mut secrets, id, *required),
                MountKind::Ssh { id, required, .. } => (&mut ssh, id, *required),
                _ => continue,
            };
            if list.iter().all(|known| known.id != *id) {
                list.push(Lent {
                    id: id.clone(),
                    required,
                    lines: vertex.lines.unwrap_or_default(),
                });
            }
        }
    }
    for list in [&mut secrets, &mut ssh] {
        list.sort_by(|a, b| (a.lines, &a.id).cmp(&(b.lines, &b.id)));
    }
    (secrets, ssh)
}
