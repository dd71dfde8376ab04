//! The dependency graph as a frontend hands it over: vertices, the ops they stand for, and what each op reads.
//!
//! A definition is complete: whoever holds it can compute every key without the Dockerfile. It holds no path of this machine
//! and no secret value.

use crate::digest::{DiffId, Digest};
use crate::platform::Platform;

/// Index of a vertex in [`Definition::vertices`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

/// Vertices in topological order: an input always stands before the vertex that reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    /// The vertices; [`VertexId`] counts from 0.
    pub vertices: Vec<Vertex>,
}

/// One operation of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// What the result runs on.
    pub platform: Platform,
    /// How the user sees the step: `[build 3/7] RUN make`. Not part of any key.
    pub name: String,
    /// First and last line in the Dockerfile, from 1; nothing for what no line asked for. Not part of any key.
    pub lines: Option<(u32, u32)>,
    /// The stage the step belongs to, by name or number: `build`, `2`. Not part of any key.
    pub stage: String,
}

/// The kinds of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The filesystem of an image.
    Image(ImageOp),
    /// The files of a build context. Has no layers; only copies and bind mounts read it.
    Local(LocalOp),
    /// `ADD` of a URL: the one file behind it.
    Http(HttpOp),
    /// `ADD` of a git repository: the files of one commit.
    Git(GitOp),
    /// `RUN`: a process on a root filesystem.
    Exec(Box<ExecOp>),
    /// `COPY`, `ADD`, `WORKDIR`: changes to a root filesystem, without a process.
    File(FileOp),
}

/// How an input enters the key of the vertex that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputMode {
    /// By the key of the vertex that produces it.
    Definition,
    /// By the content of the files that are selected from it.
    Content,
}

/// A pinned image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOp {
    /// The full reference, for the reader. Not part of any key.
    pub reference: String,
    /// The platform manifest this build uses. Not part of any key: a re-pushed identical image hits.
    pub manifest: Digest,
    /// The layer chain, from the base upwards. This is the identity of the filesystem.
    pub diff_ids: Vec<DiffId>,
}

/// A build context that the client offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalOp {
    /// `context`, or the name given with `--build-context`.
    pub name: String,
}

/// The file behind an HTTP(S) URL, as a filesystem of that one file: mode 0600, owner 0:0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOp {
    /// Where it is. Not part of any key.
    pub url: String,
    /// Its name in the filesystem.
    pub file_name: String,
    /// What its bytes must be.
    pub checksum: Option<Digest>,
    /// What the URL led to in this build; set by whoever fetches it, before keys are computed.
    pub pin: Option<HttpPin>,
}

/// What a URL led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HttpPin {
    /// The bytes.
    pub digest: Digest,
    /// `Last-Modified` in seconds since 1970; 0 if the server did not say.
    pub modified: i64,
}

/// The files of one commit of a git repository: modes 0644 and 0755, owner 0:0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitOp {
    /// Which commit of which repository.
    pub remote: GitRemote,
    /// What of it.
    pub files: GitFiles,
    /// The commit in hex; set by whoever fetches it, before keys are computed.
    pub pin: Option<String>,
}

/// A commit as users name it. Not part of any key, unless the repository itself is among the files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitRemote {
    /// Address of the repository as git takes it, credentials included.
    pub address: String,
    /// Branch, tag, full reference or commit; empty for what `HEAD` of the repository names.
    pub reference: String,
    /// The commit, or the tag that names it, in hex, or the first digits of it.
    pub checksum: Option<String>,
    /// The checksum is fetched itself, whatever the reference names.
    pub by_commit: bool,
}

/// What is taken of a commit, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitFiles {
    /// Directory that becomes the root, relative and clean; empty for all.
    pub subdir: String,
    /// Whether the repository itself is there too, as `.git`.
    pub keep_git_dir: bool,
    /// Whether submodules are filled.
    pub submodules: bool,
    /// Times of the files.
    pub times: GitTimes,
}

/// Times of files that come from git.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GitTimes {
    /// When the commit was made: the same on every machine.
    #[default]
    Commit,
    /// When the files were checked out.
    Checkout,
}

/// A process on a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOp {
    /// The root filesystem; nothing means an empty one.
    pub root: Option<VertexId>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment in the order the process sees it.
    pub env: Vec<(String, String)>,
    /// Names of those variables that are build arguments, sorted. Not part of any key: they tell the reader why one changed.
    pub build_args: Vec<String>,
    /// Proxy variables: given to the process, never part of the key, of history or of the image.
    pub proxy_env: Vec<(String, String)>,
    /// Absolute working directory.
    pub cwd: String,
    /// `user[:group]` as in the image config; empty means root.
    pub user: String,
    /// Which network the process sees.
    pub network: Network,
    /// What the process may do.
    pub security: Security,
    /// `--device`, in order.
    pub devices: Vec<DeviceRequest>,
    /// Host name, if not the default.
    pub hostname: Option<String>,
    /// `--add-host`: names and addresses; only names are part of the key.
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm` in bytes, if not the default.
    pub shm_size_bytes: Option<u64>,
    /// A heredoc that starts with `#!`: made executable and mounted read-only at `/dev/pipes/<name>`.
    pub script: Option<InlineFile>,
    /// `--mount` options, in order.
    pub mounts: Vec<Mount>,
}

/// Network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// A namespace of its own with a way out.
    #[default]
    Default,
    /// A namespace of its own with loopback only.
    None,
    /// The network of the build server.
    Host,
}

/// What a step may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// What containers usually may.
    #[default]
    Sandbox,
    /// Less than that, for Dockerfiles of strangers.
    Hardened,
    /// All that the build server may itself.
    Insecure,
}

/// A device that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceRequest {
    /// `vendor/class=name`, `vendor/class=*`, `vendor/class`, or the name of a class.
    pub name: String,
    /// Whether the step fails where there is no such device.
    pub required: bool,
}

/// A file whose bytes stand in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// File name: the heredoc's delimiter.
    pub name: String,
    /// The bytes.
    pub data: Vec<u8>,
}

/// One `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the step.
    pub target: String,
    /// What appears there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of a stage, image or context; writes are thrown away.
    Bind {
        /// Whose files.
        from: VertexId,
        /// Path inside, absolute.
        source: String,
        /// Whether the step may write to its throw-away copy.
        writable: bool,
    },
    /// A directory that survives builds.
    Cache {
        /// Its identity, namespace included.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// What it holds when it is first made, with the path inside.
        from: Option<(VertexId, String)>,
        /// Whether the step may write.
        writable: bool,
        /// Mode and owner of the directory when it is first made.
        access: MountAccess,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Limit in bytes.
        size_bytes: Option<u64>,
    },
    /// A secret as a file, and perhaps in the environment.
    Secret {
        /// Name that the client knows it by.
        id: String,
        /// Whether a file is made at the target.
        file: bool,
        /// Variable that holds the value.
        env: Option<String>,
        /// Mode and owner of the file.
        access: MountAccess,
        /// Whether the build fails without it.
        required: bool,
    },
    /// The client's SSH agent.
    Ssh {
        /// Name that the client knows it by.
        id: String,
        /// Mode and owner of the socket.
        access: MountAccess,
        /// Whether the build fails without it.
        required: bool,
    },
}

/// Mode and owner of something a mount makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountAccess {
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One; others get a directory of their own.
    Private,
    /// One; others wait.
    Locked,
}

/// Changes to a root filesystem, without a process. The result is one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOp {
    /// The root filesystem; nothing means an empty one.
    pub root: Option<VertexId>,
    /// What is done to it.
    pub action: FileAction,
}

/// The kinds of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileAction {
    /// `COPY` and `ADD`.
    Copy(CopyAction),
    /// `WORKDIR`.
    MakeDir(MakeDirAction),
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of one instruction, each on its own")]
pub struct CopyAction {
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Absolute, cleaned destination without trailing `/`; `/` for the root.
    pub dest: String,
    /// Whether the destination was written with a trailing `/` (or `/.`), so that it names a directory.
    pub dest_is_dir: bool,
    /// `--chown`; nothing means 0:0 for contexts and the source's own ids for stages.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<ModeChange>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns, in order, in the language of `.dockerignore`.
    pub exclude: Vec<String>,
    /// Which archives among the files that sources name are unpacked.
    pub unpack: Unpack,
}

/// Which archives `ADD` unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unpack {
    /// None: `COPY`, and `ADD --unpack=false`.
    #[default]
    Nothing,
    /// Those of the build context: `ADD`.
    Context,
    /// Those behind URLs too: `ADD --unpack=true`.
    Everything,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// Files of a stage, image or context.
    Path {
        /// Whose files.
        from: VertexId,
        /// Path or wildcard pattern inside, as written after expansion, `/` and `..` not yet clipped.
        pattern: String,
    },
    /// A heredoc: mode 0644, owner 0:0.
    Inline(InlineFile),
}

/// `WORKDIR`: makes the directory and missing parents, 0755.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeDirAction {
    /// Absolute, cleaned path.
    pub path: String,
    /// Owner of what is made; nothing means 0:0.
    pub owner: Option<Owner>,
}

/// An owner as written: names are looked up in the root filesystem's own `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user; nothing (`:group`) leaves uid 0.
    pub user: Option<Id>,
    /// The group. Nothing: the same number as the user, or a named user's primary group.
    pub group: Option<Id>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// 0 to 2^31 - 2.
    Number(u32),
    /// To be looked up.
    Name(String),
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// Replaces the permission bits: 0 to 0o7777.
    Octal(u32),
    /// Clauses like `u+rwX,go=r`, already checked.
    Symbolic(String),
}

impl Op {
    /// Whether it reads no other vertex and is settled before the first step runs: an image, a context, a remote file.
    #[must_use]
    pub const fn is_source(&self) -> bool {
        matches!(self, Self::Image(_) | Self::Local(_) | Self::Http(_) | Self::Git(_))
    }
}

impl Vertex {
    /// The vertices this one reads, each with the way it enters the key; a vertex may stand here twice.
    #[must_use]
    pub fn inputs(&self) -> Vec<(VertexId, InputMode)> {
        let mut inputs = Vec::new();
        match &self.op {
            Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => {}
            Op::Exec(exec) => {
                inputs.extend(exec.root.map(|root| (root, InputMode::Definition)));
                for mount in &exec.mounts {
                    match &mount.kind {
                        MountKind::Bind { from, .. } => inputs.push((*from, InputMode::Content)),
                        MountKind::Cache {
                            from: Some((from, _)), ..
                        } => inputs.push((*from, InputMode::Content)),
                        _ => {}
                    }
                }
            }
            Op::File(file) => {
                inputs.extend(file.root.map(|root| (root, InputMode::Definition)));
                if let FileAction::Copy(copy) = &file.action {
                    for source in &copy.sources {
                        if let CopySource::Path { from, .. } = source {
                            inputs.push((*from, InputMode::Content));
                        }
                    }
                }
            }
        }
        inputs
    }
}

impl Op {
    /// Renames the inputs: what [`Vertex::inputs`] names as `id` becomes `to(id)`.
    fn rename_inputs(&mut self, to: &dyn Fn(VertexId) -> VertexId) {
        let rename = |id: &mut VertexId| *id = to(*id);
        match self {
            Self::Image(_) | Self::Local(_) | Self::Http(_) | Self::Git(_) => {}
            Self::Exec(exec) => {
                exec.root.iter_mut().for_each(rename);
                for mount in &mut exec.mounts {
                    match &mut mount.kind {
                        MountKind::Bind { from, .. } => rename(from),
                        MountKind::Cache { from, .. } => from.iter_mut().for_each(|(from, _)| rename(from)),
                        MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => {}
                    }
                }
            }
            Self::File(file) => {
                file.root.iter_mut().for_each(rename);
                if let FileAction::Copy(copy) = &mut file.action {
                    for source in &mut copy.sources {
                        if let CopySource::Path { from, .. } = source {
                            rename(from);
                        }
                    }
                }
            }
        }
    }
}

impl Definition {
    /// Takes over the vertices of `other`, except those that are here already: equal ops on equal inputs for one platform. A
    /// build context is the same for all platforms. Returns what each vertex of `other` is called here.
    pub fn merge(&mut self, other: Self) -> Vec<VertexId> {
        let mut names: Vec<VertexId> = Vec::with_capacity(other.vertices.len());
        for mut vertex in other.vertices {
            vertex.op.rename_inputs(&|id| names[id.0 as usize]);
            let equal = |known: &Vertex| {
                known.op == vertex.op && (known.platform == vertex.platform || matches!(vertex.op, Op::Local(_)))
            };
            let name = match (0_u32..).zip(&self.vertices).find(|(_, known)| equal(known)) {
                Some((at, _)) => VertexId(at),
                None => self.push(vertex),
            };
            names.push(name);
        }
        names
    }

    /// The vertex behind `id`.
    ///
    /// # Panics
    /// If `id` is of another definition.
    #[must_use]
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0 as usize]
    }

    /// Appends `vertex` and returns its id.
    ///
    /// # Panics
    /// Past 2^32 vertices.
    pub fn push(&mut self, vertex: Vertex) -> VertexId {
        let id = VertexId(u32::try_from(self.vertices.len()).expect("a Dockerfile has fewer lines than 2^32"));
        self.vertices.push(vertex);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(platform: &str, op: Op) -> Vertex {
        Vertex {
            op,
            platform: platform.parse().unwrap(),
            name: String::new(),
            lines: None,
            stage: String::new(),
        }
    }

    fn context() -> Op {
        Op::Local(LocalOp { name: "context".into() })
    }

    fn copy(root: Option<VertexId>, from: VertexId) -> Op {
        let action = CopyAction {
            sources: vec![CopySource::Path {
                from,
                pattern: "/a".into(),
            }],
            dest: "/a".into(),
            dest_is_dir: false,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Nothing,
        };
        Op::File(FileOp {
            root,
            action: FileAction::Copy(action),
        })
    }

    /// A build stage on amd64, and an image for `platform` that copies from it.
    fn cross(platform: &str) -> Definition {
        let mut definition = Definition::default();
        let files = definition.push(vertex(platform, context()));
        let built = definition.push(vertex("linux/amd64", copy(None, files)));
        definition.push(vertex(platform, copy(None, built)));
        definition
    }

    #[test]
    fn what_platforms_share_is_there_once() {
        let mut merged = Definition::default();
        assert_eq!(merged.merge(cross("linux/amd64")), [0, 1, 2].map(VertexId));
        assert_eq!(merged.merge(cross("linux/arm64")), [0, 1, 3].map(VertexId));
        assert_eq!(merged.merge(cross("linux/arm64")), [0, 1, 3].map(VertexId));
        let inputs: Vec<_> = merged.vertices.iter().map(Vertex::inputs).collect();
        assert_eq!(inputs[2], inputs[3]);
        assert_eq!(inputs[3], [(VertexId(1), InputMode::Content)]);
    }

    #[test]
    fn every_input_is_renamed() {
        let mount = |kind| Mount {
            target: "/m".into(),
            kind,
        };
        let mut op = Op::Exec(Box::new(ExecOp {
            root: Some(VertexId(0)),
            args: Vec::new(),
            env: Vec::new(),
            build_args: Vec::new(),
            proxy_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            network: Network::Default,
            security: Security::Sandbox,
            devices: Vec::new(),
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            script: None,
            mounts: vec![
                mount(MountKind::Bind {
                    from: VertexId(1),
                    source: "/".into(),
                    writable: false,
                }),
                mount(MountKind::Cache {
                    id: "c".into(),
                    sharing: Sharing::Shared,
                    from: Some((VertexId(2), "/".into())),
                    writable: true,
                    access: MountAccess {
                        mode: 0o755,
                        uid: 0,
                        gid: 0,
                    },
                }),
            ],
        }));
        op.rename_inputs(&|id| VertexId(id.0 + 10));
        let inputs = vertex("linux/amd64", op).inputs();
        assert_eq!(inputs.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [10, 11, 12]);
    }
}
