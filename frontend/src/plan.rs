//! What lowering hands over: the definition, a template of the image config, and what there is to say.

use std::collections::BTreeMap;

use proto::definition::{CopySource, Definition, FileAction, MountKind, Op, VertexId};
use proto::digest::Digest;
use proto::oci::{Config, ImageConfig};
use proto::platform::Platform;

use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// What stands in the `comment` of history entries that we write. Tools compare it, so it is the one they know.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// An image that must be known before lowering can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Full reference, or the opaque name of a named context.
    pub reference: String,
    /// Which of its images.
    pub platform: Platform,
    /// Where it is asked for first.
    pub span: Span,
    /// First and last line of that instruction, from 1.
    pub lines: (u32, u32),
    /// A stage with nearly that name, which may be meant.
    pub near_stage: Option<String>,
    /// The word, if it was looked for as a stage first and looks like one: it has no tag, digest or registry.
    pub no_stage: Option<String>,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFacts {
    /// Digest of the platform manifest.
    pub manifest: Digest,
    /// Its config; the layer chain is `rootfs`.
    pub config: ImageConfig,
}

/// The answer of [`crate::lower`].
#[derive(Debug, Clone, PartialEq)]
pub enum Lowered {
    /// Ask again with these images known. All that can be named now are named.
    Need(Vec<ImageRequest>),
    /// Everything is settled.
    Done(Box<Plan>),
}

/// A Dockerfile, made into work.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The graph of all reachable stages.
    pub definition: Definition,
    /// The vertex whose filesystem is the image; nothing for an empty one.
    pub target: Option<VertexId>,
    /// The stages that the target needs, itself counted in, by their position in the file.
    pub stages: Vec<usize>,
    /// The image config, short of times and diff IDs.
    pub image: ImageTemplate,
    /// Warnings, in order of their place.
    pub diagnostics: Vec<Diagnostic>,
    /// Build arguments that nothing declares, by name.
    pub ignored_build_args: Vec<String>,
    /// Upper limit of times: seconds since 1970, from the options, a build argument, or a global `ARG`.
    pub source_date_epoch: Option<i64>,
}

/// The image config, short of times and diff IDs.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTemplate {
    /// What the image runs on.
    pub platform: Platform,
    /// `MAINTAINER`, or the base image's author.
    pub author: String,
    /// The `config` member, complete.
    pub config: Config,
    /// Config of the image at the bottom: its history, layers and unknown members are carried over. Nothing for `scratch`.
    pub base: Option<ImageConfig>,
    /// Entries after those of the base, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// One entry of history that this build adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Text of the instruction.
    pub created_by: String,
    /// [`HISTORY_COMMENT`].
    pub comment: String,
    /// The vertex whose layer it describes; nothing: `empty_layer`.
    pub layer: Option<VertexId>,
}

impl Plan {
    /// What the plan reads of contexts: see [`selections`].
    #[must_use]
    pub fn selections(&self) -> BTreeMap<String, Vec<String>> {
        selections(&self.definition)
    }
}

/// Which paths of which context are read: context name → patterns, sorted, without doubles. `.` means everything.
/// Contexts that nothing reads are left out.
#[must_use]
pub fn selections(definition: &Definition) -> BTreeMap<String, Vec<String>> {
    let mut selections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for vertex in &definition.vertices {
        for (from, pattern) in reads(&vertex.op) {
            if let Op::Local(local) = &definition.vertex(from).op {
                selections.entry(local.name.clone()).or_default().push(pattern);
            }
        }
    }
    for patterns in selections.values_mut() {
        patterns.sort();
        patterns.dedup();
    }
    selections
}

/// What an op reads by content, as clean relative patterns.
fn reads(op: &Op) -> Vec<(VertexId, String)> {
    let relative = |path: &str| match crate::lower::path::clean(&format!("/{path}")).trim_start_matches('/') {
        "" => ".".to_owned(),
        inside => inside.to_owned(),
    };
    match op {
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => Vec::new(),
        Op::Exec(exec) => {
            let mounted = exec.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, source, .. } => Some((*from, relative(source))),
                MountKind::Cache {
                    from: Some((from, source)),
                    ..
                } => Some((*from, relative(source))),
                _ => None,
            });
            mounted.collect()
        }
        Op::File(file) => match &file.action {
            FileAction::MakeDir(_) => Vec::new(),
            FileAction::Copy(copy) => {
                let copied = copy.sources.iter().filter_map(|source| match source {
                    CopySource::Path { from, pattern } => Some((*from, relative(pattern))),
                    CopySource::Inline(_) => None,
                });
                copied.collect()
            }
        },
    }
}
