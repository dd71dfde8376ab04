//! Lowers Dockerfiles against images that exist only here, and prints plans so that they can be compared line by line.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use frontend::lower::Images;
use frontend::source::SourceFile;
use frontend::{ImageFacts, LowerOptions, Lowered, Plan};
use proto::definition::{CopySource, FileAction, FileOp, InputMode, MountKind, Op, Unpack, Vertex};
use proto::digest::{DiffId, Digest};
use proto::oci::{History, ImageConfig};
use proto::platform::Platform;

/// What a test hands in beside the Dockerfile.
pub(crate) struct Setup {
    pub(crate) options: LowerOptions,
    /// Configs of images by full reference; others look like `busybox`.
    pub(crate) images: BTreeMap<String, ImageConfig>,
}

pub(crate) fn setup() -> Setup {
    Setup {
        options: LowerOptions::new(Platform::new("linux", "amd64", "")),
        images: BTreeMap::new(),
    }
}

impl Setup {
    pub(crate) fn arg(mut self, name: &str, value: &str) -> Self {
        self.options.build_args.insert(name.into(), value.into());
        self
    }

    pub(crate) fn target(mut self, target: &str) -> Self {
        self.options.target = Some(target.into());
        self
    }

    pub(crate) fn context(mut self, name: &str, context: frontend::NamedContext) -> Self {
        self.options.contexts.insert(name.into(), context);
        self
    }

    pub(crate) fn image(mut self, reference: &str, change: impl FnOnce(&mut ImageConfig)) -> Self {
        let mut config = base_config(&Platform::new("linux", "amd64", ""));
        change(&mut config);
        self.images.insert(reference.into(), config);
        self
    }

    /// Answers every request, and keeps what was asked in each round.
    pub(crate) fn lower(&self, text: &str) -> (Result<Plan, String>, Vec<Vec<String>>) {
        let source = SourceFile::new("Dockerfile", text);
        let parsed = frontend::parse(&source);
        let mut images = Images::new();
        let mut rounds = Vec::new();
        loop {
            match frontend::lower(&source, &parsed, &self.options, &images) {
                Ok(Lowered::Done(plan)) => return (Ok(*plan), rounds),
                Ok(Lowered::Need(requests)) => {
                    assert!(!requests.is_empty(), "asked for nothing");
                    let asked = requests
                        .iter()
                        .map(|request| format!("{} {}", request.reference, request.platform));
                    rounds.push(asked.collect());
                    for request in requests {
                        let config = self.images.get(&request.reference).cloned();
                        let facts = ImageFacts {
                            manifest: Digest::of(request.reference.as_bytes()),
                            config: config.unwrap_or_else(|| base_config(&request.platform)),
                        };
                        let old = images.insert((request.reference, request.platform), facts);
                        assert!(old.is_none(), "asked twice");
                    }
                }
                Err(errors) => return (Err(diagnostics(&source, &errors)), rounds),
            }
        }
    }

    pub(crate) fn plan(&self, text: &str) -> Plan {
        let plan = self.lower(text).0.unwrap_or_else(|errors| panic!("{text}\n{errors}"));
        for (at, vertex) in plan.definition.vertices.iter().enumerate() {
            let before = |input: &(proto::definition::VertexId, InputMode)| (input.0.0 as usize) < at;
            assert!(vertex.inputs().iter().all(before), "vertex {at} reads a later one");
        }
        plan
    }

    pub(crate) fn errors(&self, text: &str) -> String {
        self.lower(text)
            .0
            .map(|plan| vertices(&plan))
            .expect_err("a mistake was not found")
    }

    /// Environment of the last step that runs.
    pub(crate) fn last_env(&self, text: &str) -> BTreeMap<String, String> {
        let plan = self.plan(text);
        let exec = plan
            .definition
            .vertices
            .iter()
            .rev()
            .find_map(|vertex| match &vertex.op {
                Op::Exec(exec) => Some(exec.env.clone()),
                _ => None,
            });
        exec.expect("a RUN").into_iter().collect()
    }

    pub(crate) fn warnings(&self, text: &str) -> String {
        diagnostics(&SourceFile::new("Dockerfile", text), &self.plan(text).diagnostics)
    }
}

/// One layer, one entry of history, no environment.
fn base_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"layer"))];
    config.history = vec![History {
        created_by: "mkoci".into(),
        ..History::default()
    }];
    config.config.cmd = Some(vec!["sh".into()]);
    config
}

/// `line:column..column severity[code]: message`, notes and helps below.
pub(crate) fn diagnostics(source: &SourceFile, diagnostics: &[frontend::diagnostic::Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let at = source.slice(diagnostic.span).replace('\n', "⏎");
        let line = source.line(diagnostic.span.start);
        let severity = format!("{:?}", diagnostic.severity).to_lowercase();
        writeln!(
            out,
            "{line} `{at}` {severity}[{}]: {}",
            diagnostic.code, diagnostic.message
        )
        .unwrap();
        for note in &diagnostic.notes {
            writeln!(out, "  note: {note}").unwrap();
        }
        for help in &diagnostic.helps {
            writeln!(out, "  help: {help}").unwrap();
        }
    }
    out
}

/// One vertex a line: number, name, lines, then what differs from the defaults.
pub(crate) fn vertices(plan: &Plan) -> String {
    let mut out = String::new();
    for (at, vertex) in plan.definition.vertices.iter().enumerate() {
        let lines = vertex
            .lines
            .map_or_else(String::new, |(first, last)| format!(" @{first}-{last}"));
        let name = shorten_digests(&vertex.name);
        writeln!(out, "{at} {name}{lines}\n    {}", op(vertex)).unwrap();
    }
    let target = plan.target.map_or("empty".to_owned(), |target| target.0.to_string());
    writeln!(out, "target {target}").unwrap();
    out
}

fn op(vertex: &Vertex) -> String {
    match &vertex.op {
        Op::Image(image) => format!(
            "image {} ({} layers) {}",
            image.reference,
            image.diff_ids.len(),
            vertex.platform
        ),
        Op::Local(local) => format!("local {}", local.name),
        Op::Http(http) => format!("http {} as {}", http.url, http.file_name),
        Op::Git(git) => format!("git {:?} {:?}", git.remote, git.files),
        Op::Exec(exec) => {
            let mut out = format!("exec on {} {:?} in {}", root(exec.root), exec.args, exec.cwd);
            let env: Vec<String> = exec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let env: Vec<String> = env
                .into_iter()
                .filter(|entry| !entry.starts_with("PATH=/usr/local"))
                .collect();
            let mut add = |name: &str, text: String| out.push_str(&format!(" {name}={text}"));
            if !env.is_empty() {
                add("env", format!("{env:?}"));
            }
            if !exec.proxy_env.is_empty() {
                add("proxy", format!("{:?}", exec.proxy_env));
            }
            if !exec.user.is_empty() {
                add("user", exec.user.clone());
            }
            if exec.network != proto::definition::Network::Default {
                add("network", format!("{:?}", exec.network));
            }
            if let Some(hostname) = &exec.hostname {
                add("hostname", hostname.clone());
            }
            if let Some(script) = &exec.script {
                add(
                    "script",
                    format!("{}:{:?}", script.name, String::from_utf8_lossy(&script.data)),
                );
            }
            for mount in &exec.mounts {
                out.push_str(&format!("\n    mount {} {}", mount.target, mount_kind(&mount.kind)));
            }
            out
        }
        Op::File(file) => file_op(file),
    }
}

fn mount_kind(kind: &MountKind) -> String {
    // Debug output of this crate's own types: stable, and complete.
    format!("{kind:?}").replace("VertexId", "")
}

fn file_op(file: &FileOp) -> String {
    match &file.action {
        FileAction::MakeDir(dir) => {
            let owner = dir
                .owner
                .as_ref()
                .map_or_else(String::new, |owner| format!(" {owner:?}"));
            format!("mkdir on {} {}{owner}", root(file.root), dir.path)
        }
        FileAction::Copy(copy) => {
            let source = |source: &CopySource| match source {
                CopySource::Path { from, pattern } => format!("{}:{pattern}", from.0),
                CopySource::Inline(file) => format!("<<{}:{:?}", file.name, String::from_utf8_lossy(&file.data)),
            };
            let sources: Vec<String> = copy.sources.iter().map(source).collect();
            let mut out = format!("copy on {} {} → {}", root(file.root), sources.join(" "), copy.dest);
            for (set, text) in [
                (copy.dest_is_dir, " dir".to_owned()),
                (copy.owner.is_some(), format!(" {:?}", copy.owner)),
                (copy.mode.is_some(), format!(" {:?}", copy.mode)),
                (copy.link, " link".to_owned()),
                (copy.parents, " parents".to_owned()),
                (!copy.exclude.is_empty(), format!(" exclude={:?}", copy.exclude)),
                (copy.unpack == Unpack::Context, " unpack".to_owned()),
                (copy.unpack == Unpack::Everything, " unpack-everything".to_owned()),
            ] {
                out.push_str(if set { &text } else { "" });
            }
            out
        }
    }
}

fn root(root: Option<proto::definition::VertexId>) -> String {
    root.map_or_else(|| "-".to_owned(), |root| root.0.to_string())
}

/// The digest of a stub image says nothing to a reader.
fn shorten_digests(text: &str) -> String {
    match text.split_once("@sha256:") {
        Some((before, after)) => format!("{before}@sha256:…{}", after.get(64..).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The image config and history: `L3` is an entry with the layer of vertex 3, `e` one without.
pub(crate) fn image(plan: &Plan) -> String {
    let image = &plan.image;
    let mut out = format!("{} author={:?}\n", image.platform, image.author);
    writeln!(
        out,
        "{}",
        String::from_utf8(proto::oci::json::compact(&image.config)).unwrap()
    )
    .unwrap();
    for entry in image.base.iter().flat_map(|base| &base.history) {
        writeln!(out, "base {}", entry.created_by).unwrap();
    }
    for entry in &image.history {
        let layer = entry
            .layer
            .map_or_else(|| "e".to_owned(), |layer| format!("L{}", layer.0));
        writeln!(out, "{layer} {}", entry.created_by.replace('\n', "⏎")).unwrap();
        assert_eq!(entry.comment, "buildkit.dockerfile.v0");
    }
    out
}
