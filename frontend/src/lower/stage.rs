//! One stage: the filesystem and config it starts with, then its instructions, one after the other.

use std::collections::BTreeMap;

use proto::address::redacted;
use proto::definition::{
    CopyAction, CopySource, Definition, FileAction, FileOp, ImageOp, LocalOp, MakeDirAction, Op, Unpack, Vertex,
    VertexId,
};
use proto::oci::{Config, ImageConfig};
use proto::platform::Platform;

use super::Input;
use super::checks::{DeclaredArg, Latest};
use super::expand::{Budget, Words, display};
use super::reach::{Base, Origin, Reach, relocate};
use crate::args::{DEFAULT_PATH, Scope};
use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Instruction, Kind};
use crate::plan::{HISTORY_COMMENT, HistoryEntry, ImageRequest};

/// The main build context.
pub(crate) const MAIN_CONTEXT: &str = "context";

/// All that lowering found out.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) definition: Definition,
    /// The target stage at its end.
    pub(crate) target: StageState,
    pub(crate) declared: Vec<DeclaredArg>,
    /// Warnings and errors.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// The work on all stages.
#[derive(Debug)]
pub(crate) struct Lowering<'a> {
    pub(crate) input: Input<'a>,
    reach: &'a Reach<'a>,
    definition: Definition,
    states: BTreeMap<usize, StageState>,
    /// What the stages declare, for descriptions.
    pub(crate) declared: Vec<DeclaredArg>,
    diagnostics: Vec<Diagnostic>,
    pub(crate) budget: Budget,
}

/// A stage at one moment.
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    pub(crate) index: usize,
    /// The filesystem; nothing is an empty one.
    pub(crate) root: Option<VertexId>,
    pub(crate) platform: Platform,
    pub(crate) config: Config,
    pub(crate) author: String,
    /// Config of the image at the bottom.
    pub(crate) base: Option<ImageConfig>,
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) scope: Scope,
    /// Whether a `CMD` of this stage set the command.
    pub(crate) cmd_here: bool,
    /// Whether a `WORKDIR` of this file came before.
    pub(crate) workdir_set: bool,
    /// The instructions of this stage of which only the last counts, so far.
    pub(crate) latest: Latest,
    /// How steps are told from those of other stages: a name, `stage-1`, or nothing.
    label: String,
    /// Number of the last step, and how many there are.
    step: (usize, usize),
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(input: Input<'a>, reach: &'a Reach<'a>) -> Self {
        Self {
            input,
            reach,
            definition: Definition::default(),
            states: BTreeMap::new(),
            declared: Vec::new(),
            diagnostics: Vec::new(),
            budget: Budget::default(),
        }
    }

    /// Lowers one stage. Those it refers to were lowered before.
    pub(crate) fn lower_stage(&mut self, index: usize) {
        let reach = self.reach;
        let base = &reach.bases[&index];
        let triggers = reach.triggers.get(&index).map_or(&[][..], Vec::as_slice);
        let body = if base.replaced {
            &[]
        } else {
            self.input.stages.list[index].body
        };
        let counted = triggers
            .iter()
            .map(|trigger| &*trigger.instruction)
            .chain(body)
            .filter(|instruction| is_step(instruction));
        let total = counted.count() + usize::from(matches!(base.origin, Origin::Image(..)));
        let mut state = self.start(index, base, total);
        for trigger in triggers {
            let place = trigger.foreign.as_deref();
            let mut instruction = trigger.instruction.clone().into_owned();
            if place.is_some() {
                instruction.lines = self.input.stages.list[index].instruction.lines;
            }
            let at = self.diagnostics.len();
            self.lower_instruction(&mut state, &instruction, "ONBUILD ");
            state.latest.move_to(self.input.stages.list[index].from.base.span);
            let found = self.diagnostics.split_off(at);
            let moved = found.into_iter().map(|found| match (place, found.severity) {
                // The stage that has the trigger is not wrong: it says nothing about where it will run.
                (None, Severity::Warning) => relocate(found, self.input, index, Some(&trigger.text())),
                _ => relocate(found, self.input, index, place),
            });
            self.diagnostics.extend(moved);
        }
        for instruction in body {
            self.lower_instruction(&mut state, instruction, "");
        }
        self.states.insert(index, state);
    }

    /// Hands over the result; it is worth nothing if some diagnostic is an error.
    pub(crate) fn finish(mut self, target: usize) -> Finished {
        let target = self.states.remove(&target);
        Finished {
            definition: self.definition,
            target: target.expect("the target is among the stages that reach.rs visits"),
            declared: self.declared,
            diagnostics: self.diagnostics,
        }
    }

    fn start(&mut self, index: usize, base: &Base, total: usize) -> StageState {
        let mut state = StageState {
            index,
            root: None,
            platform: base.platform.clone(),
            config: Config::default(),
            author: String::new(),
            base: None,
            history: Vec::new(),
            scope: Scope::default(),
            cmd_here: false,
            workdir_set: false,
            latest: Latest::default(),
            label: String::new(),
            step: (0, total),
        };
        match &base.origin {
            Origin::Empty => state.config.working_dir = "/".to_owned(),
            Origin::Stage(parent) => {
                let size = self.states[parent].size_bytes();
                let told = self.budget.is_refused();
                let spent = self.budget.spend(size, self.input.stages.list[index].instruction.span);
                if let Err(error) = spent {
                    self.diagnostics.extend(Some(error).filter(|_| !told));
                } else {
                    state = StageState {
                        index,
                        cmd_here: false,
                        latest: Latest::default(),
                        step: (0, total),
                        ..self.states[parent].clone()
                    };
                }
            }
            Origin::Image(request, _) => {
                if let Some(facts) = self
                    .input
                    .images
                    .get(&(request.reference.clone(), request.platform.clone()))
                {
                    state.config = facts.config.config.clone();
                    state.author.clone_from(&facts.config.author);
                    state.base = Some(facts.config.clone());
                    state.platform = self.adopted(index, request, &facts.config);
                    self.check_platform(index, (request, &state.platform), &facts.config);
                }
            }
            Origin::Local(_) => state.config.working_dir = "/".to_owned(),
        }
        state.config.on_build.clear();
        state.label = self.label(index);
        state.root = match &base.origin {
            Origin::Image(request, context) => {
                state.step.0 = usize::from(context.is_none());
                Some(self.image(request, context.as_deref(), Some(&state)))
            }
            Origin::Local(name) => Some(self.local_root(name, &state)),
            Origin::Empty | Origin::Stage(_) => state.root,
        };
        inherit_environment(&mut state);
        state
    }

    fn label(&self, index: usize) -> String {
        match self.input.stages.list[index].name.clone() {
            Some(name) => name,
            None if self.reach.several => format!("stage-{index}"),
            None => String::new(),
        }
    }

    /// `[linux/amd64->arm64 build 2/7]`: platform, stage, number. The second platform is that of the image, for steps that were
    /// told of it; steps that were not are the same for images of all platforms.
    fn numbered(&self, state: &StageState) -> String {
        let (step, total) = state.step;
        // Numbers of one width keep lists of steps in columns.
        let width = total.to_string().len();
        let number = format!("{step:>width$}/{total}");
        let platform = match self.input.options.multi_platform {
            true => format!("{}{}", state.platform, self.arrow(state)),
            false => String::new(),
        };
        let parts = [platform.as_str(), state.label.as_str(), number.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(" ").trim_start().to_owned()
    }

    fn arrow(&self, state: &StageState) -> String {
        const TOLD_BY: [&str; 4] = ["TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT"];
        let target = &self.input.options.platform;
        if *target == state.platform || !TOLD_BY.iter().any(|name| state.scope.is_declared(name)) {
            return String::new();
        }
        let whole = target.to_string();
        let same_os = whole.strip_prefix(&format!("{}/", state.platform.os));
        format!("->{}", same_os.unwrap_or(&whole))
    }

    /// What a stage on this image runs on: the image's own platform instead of the one that was asked for, where nobody chose one.
    fn adopted(&self, stage: usize, request: &ImageRequest, config: &ImageConfig) -> Platform {
        let explicit = self.input.stages.list[stage].from.platform.is_some();
        let found = Platform::new(&config.os, &config.architecture, &config.variant);
        match &self.input.options.adoptable {
            Some(known) if !explicit && !same_machine(&found, &request.platform) => {
                let adopted = known.iter().find(|known| same_machine(known, &found));
                adopted.unwrap_or(&request.platform).clone()
            }
            _ => request.platform.clone(),
        }
    }

    fn lower_instruction(&mut self, state: &mut StageState, instruction: &Instruction, prefix: &str) {
        if self.budget.is_refused() {
            return;
        }
        self.check_instruction(state, instruction);
        let recorded = state.history.len();
        let lowered = match &instruction.kind {
            Kind::Run(run) => self.run(state, instruction, run, prefix),
            Kind::Copy(copy) | Kind::Add(copy) => self.copy(state, instruction, copy, prefix),
            Kind::Workdir(path) => self.workdir(state, instruction, path, prefix),
            // The next stage starts elsewhere; the parser refuses it as a trigger.
            Kind::From(_) => Ok(()),
            _ => self.configure(state, instruction),
        };
        let recorded = state.history[recorded..]
            .iter()
            .map(|entry| entry.created_by.len())
            .sum();
        if let Err(error) = lowered.and_then(|()| self.budget.spend(recorded, instruction.span)) {
            self.report(error);
        }
    }

    /// Keeps a problem.
    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Lets `read` expand words as `scope` has them, and keeps the warnings.
    pub(crate) fn words<T>(
        &mut self,
        scope: &Scope,
        read: impl FnOnce(&Words<'_>) -> Result<T, Diagnostic>,
    ) -> Result<T, Diagnostic> {
        let words = Words::stage((self.input.source, self.input.escape), scope, &self.budget);
        let result = read(&words);
        let warnings = words.into_warnings();
        self.diagnostics.extend(warnings);
        result
    }

    /// Adds a vertex that is a step of the stage, or finds the equal one that is there.
    pub(crate) fn step(&mut self, state: &mut StageState, instruction: &Instruction, text: &str, op: Op) -> VertexId {
        state.step.0 += 1;
        let vertex = Vertex {
            op,
            platform: state.platform.clone(),
            name: format!("[{}] {text}", self.numbered(state)),
            lines: Some(instruction.lines),
            stage: self.input.stages.called(state.index),
        };
        self.intern(vertex)
    }

    /// Text of an instruction in a step's name.
    ///
    /// # Errors
    /// If the file has no budget left for it.
    pub(crate) fn step_text(
        &self,
        state: &StageState,
        instruction: &Instruction,
        masked: &[&str],
    ) -> Result<String, Diagnostic> {
        let keyword = instruction.keyword.value.to_ascii_uppercase();
        let (text, cost) = display(&instruction.text, self.input.escape, &state.scope, masked);
        self.budget.spend(cost, instruction.span)?;
        Ok(format!("{keyword} {text}").trim_end().to_owned())
    }

    fn intern(&mut self, vertex: Vertex) -> VertexId {
        let equal = |known: &Vertex| known.op == vertex.op && known.platform == vertex.platform;
        match self.definition.vertices.iter().position(equal) {
            Some(at) => VertexId(u32::try_from(at).expect("a Dockerfile has fewer lines than 2^32")),
            None => self.definition.push(vertex),
        }
    }

    /// The files of what `--from` and mounts name. Reading from nothing needs a vertex too: an empty root.
    pub(crate) fn files_of(&mut self, origin: &Origin, state: &StageState) -> VertexId {
        match origin {
            Origin::Local(name) => self.local(name, &state.platform),
            Origin::Image(request, context) => self.image(request, context.as_deref(), None),
            Origin::Stage(index) => match self.states[index].root {
                Some(root) => root,
                None => self.empty(&self.states[index].platform.clone()),
            },
            Origin::Empty => self.empty(&state.platform),
        }
    }

    fn empty(&mut self, platform: &Platform) -> VertexId {
        let action = FileAction::MakeDir(MakeDirAction {
            path: "/".to_owned(),
            owner: None,
        });
        self.intern(Vertex {
            op: Op::File(FileOp { root: None, action }),
            platform: platform.clone(),
            name: "[internal] empty filesystem".to_owned(),
            lines: None,
            stage: String::new(),
        })
    }

    /// A build context.
    pub(crate) fn local(&mut self, name: &str, platform: &Platform) -> VertexId {
        let step = match name {
            MAIN_CONTEXT => "[internal] load build context".to_owned(),
            other => format!("[context {other}] load from client"),
        };
        let known = self
            .definition
            .vertices
            .iter()
            .position(|known| matches!(&known.op, Op::Local(local) if local.name == name));
        match known {
            Some(at) => VertexId(u32::try_from(at).expect("a Dockerfile has fewer lines than 2^32")),
            None => self.definition.push(Vertex {
                op: Op::Local(LocalOp { name: name.to_owned() }),
                platform: platform.clone(),
                name: step,
                lines: None,
                stage: String::new(),
            }),
        }
    }

    /// What is behind an address, or the equal vertex that is there.
    pub(crate) fn remote(&mut self, op: Op, lines: (u32, u32), platform: &Platform) -> VertexId {
        let address = match &op {
            Op::Git(git) => redacted(&git.remote.address),
            Op::Http(http) => redacted(&http.url),
            _ => String::new(),
        };
        self.intern(Vertex {
            op,
            platform: platform.clone(),
            name: format!("[internal] load {address}"),
            lines: Some(lines),
            stage: String::new(),
        })
    }

    /// A build context as a root filesystem: copied onto an empty one.
    fn local_root(&mut self, name: &str, state: &StageState) -> VertexId {
        let from = self.local(name, &state.platform);
        let action = FileAction::Copy(CopyAction {
            sources: vec![CopySource::Path {
                from,
                pattern: "/".to_owned(),
            }],
            dest: "/".to_owned(),
            dest_is_dir: true,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Nothing,
        });
        self.intern(Vertex {
            op: Op::File(FileOp { root: None, action }),
            platform: state.platform.clone(),
            name: format!("[context {name}] as root filesystem"),
            lines: Some(self.input.stages.list[state.index].instruction.lines),
            stage: self.input.stages.called(state.index),
        })
    }

    fn image(&mut self, request: &ImageRequest, context: Option<&str>, stage: Option<&StageState>) -> VertexId {
        let facts = self
            .input
            .images
            .get(&(request.reference.clone(), request.platform.clone()));
        let facts = facts.expect("lowering starts when reach.rs misses no image");
        let pinned = match request.reference.contains('@') {
            true => request.reference.clone(),
            false => format!("{}@{}", request.reference, facts.manifest),
        };
        let name = match (context, stage) {
            (Some(context), _) => format!("[context {context}] {}", request.reference),
            (None, Some(stage)) => format!("[{}] FROM {pinned}", self.numbered(stage)),
            (None, None) => format!("FROM {pinned}"),
        };
        self.intern(Vertex {
            op: Op::Image(ImageOp {
                reference: request.reference.clone(),
                manifest: facts.manifest,
                diff_ids: facts.config.rootfs.diff_ids.clone(),
            }),
            platform: stage.map_or(&request.platform, |stage| &stage.platform).clone(),
            name,
            lines: Some(request.lines),
            stage: stage.map_or_else(String::new, |stage| self.input.stages.called(stage.index)),
        })
    }
}

impl StageState {
    /// Adds an entry of history.
    pub(crate) fn record(&mut self, created_by: impl Into<String>, layer: Option<VertexId>) {
        self.history.push(HistoryEntry {
            created_by: created_by.into(),
            comment: HISTORY_COMMENT.to_owned(),
            layer,
        });
    }

    /// The absolute working directory.
    pub(crate) fn cwd(&self) -> &str {
        match self.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    /// Roughly what a copy of this costs.
    fn size_bytes(&self) -> usize {
        let history: usize = self.history.iter().map(|entry| entry.created_by.len() + 64).sum();
        history + 2 * self.scope.size_bytes()
    }

    /// What runs shell forms.
    pub(crate) fn shell(&self) -> Vec<String> {
        match self.config.shell.as_slice() {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell.to_vec(),
        }
    }
}

/// Whether programs for one run on the other, variants apart.
pub(super) fn same_machine(a: &Platform, b: &Platform) -> bool {
    (&a.os, &a.architecture) == (&b.os, &b.architecture)
}

/// What counts as a step: what may make a layer.
fn is_step(instruction: &Instruction) -> bool {
    matches!(
        instruction.kind,
        Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_)
    )
}

/// The image's environment is assigned anew at the start of every stage, so that it beats an inherited `ARG`; a missing
/// search path is added.
fn inherit_environment(state: &mut StageState) {
    let has_path = state.config.env.iter().any(|entry| entry.starts_with("PATH="));
    if !has_path {
        state.config.env.push(format!("PATH={DEFAULT_PATH}"));
    }
    for entry in &state.config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        state.scope.set(name, value);
    }
}
