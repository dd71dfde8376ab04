//! What enters the key of a vertex, and why.
//!
//! | part | enters | because |
//! |---|---|---|
//! | kind of op, platform | yes | other work |
//! | base image | its layer chain | a re-tagged or re-pushed identical image is the same file system |
//! | base image's name, digest of its manifest | no | names change, bytes do not |
//! | `RUN`: arguments, environment, directory, user, network, security mode, names of devices, host name, names of extra hosts, `/dev/shm`, script, mounts | yes | the process sees them |
//! | `RUN`: the root filesystem | key of the vertex that made it | tools look at times, so equal content is not enough |
//! | `RUN`: files of bind mounts | as those of a `COPY` | the process reads them |
//! | `ADD` of a URL | content, file name, time of the file | they are the file |
//! | `ADD` of a git repository | commit, directory, submodules, how times are set; and the address, if `.git` is kept | they decide the files |
//! | addresses, tags and branches, credentials | no | the same bytes may be anywhere |
//! | `COPY`: destination, owner, mode, excludes, options, base name of each source | yes | they decide the result |
//! | `COPY`: the selected files | one digest a root over content, names below it, modes, owners, link targets, attributes: [`crate::tree::digest`] | they are the result |
//! | `COPY`: directory part of sources, the ignore file, the name of the stage | no | the result does not depend on them |
//! | `COPY`: times of files, which files are names of one | no | they change without being meant to; the layer has those of whoever came first |
//! | secret values, SSH agents, cache mount contents, proxy variables, addresses of extra hosts | no | they may change without changing the meaning of the step |
//! | secret ids, cache mount ids and targets | yes | the step sees other things at other places |
//! | which variables are build arguments, compression, parallelism, limits, tags, labels, names of steps, line numbers | no | the layer does not depend on them |
//! | clock, host name, user of the caller, umask, paths of this machine | no | a key means the same everywhere |
//!
//! Fields are named for people: [`super::compare`] compares them to say why a step ran.

use proto::canonical;
use proto::definition::{
    CopyAction, CopySource, ExecOp, FileAction, Id, MakeDirAction, ModeChange, Mount, MountAccess, MountKind, Network,
    Op, Owner, Security, Sharing, Unpack, Vertex, VertexId,
};
use proto::digest::{ChainId, DiffId};
use proto::record::{CacheKey, Field, Preimage};

use super::source_key;

/// What the key of a vertex is computed from, its content inputs left out. `key_of` knows the keys of all inputs.
#[must_use]
pub fn fields(vertex: &Vertex, key_of: &dyn Fn(VertexId) -> CacheKey) -> Preimage {
    let mut out = Preimage::default();
    match &vertex.op {
        // What is behind an address is the same for every platform.
        Op::Http(_) | Op::Git(_) => {}
        _ => out.push("platform", vertex.platform.to_string()),
    }
    match &vertex.op {
        Op::Image(image) => {
            out.push("op", "image");
            out.push("layers", chain_text(&image.diff_ids));
        }
        Op::Local(local) => {
            // Never looked up: whoever reads a context adds the content of what it selects.
            out.push("op", "context");
            out.push("name", local.name.as_str());
        }
        Op::Http(http) => out = source_key::http(http),
        Op::Git(git) => out = source_key::git(git),
        Op::Exec(exec) => exec_fields(&mut out, exec, key_of),
        Op::File(file) => {
            push_root(&mut out, file.root, key_of);
            match &file.action {
                FileAction::Copy(copy) => copy_fields(&mut out, copy),
                FileAction::MakeDir(make) => make_dir_fields(&mut out, make),
            }
        }
    }
    out
}

/// The whole preimage: `fields` and what the selected files of content inputs add.
#[must_use]
pub fn with_content(mut fields: Preimage, content: Vec<Field>) -> Preimage {
    fields.fields.extend(content);
    fields
}

/// The key under which the content key of a vertex is remembered: what can be known before its inputs are at hand. The keys of
/// the content inputs stand in for their content.
#[must_use]
pub fn alias(vertex: &Vertex, key_of: &dyn Fn(VertexId) -> CacheKey) -> CacheKey {
    let mut preimage = fields(vertex, key_of);
    preimage.push("alias", "");
    for (input, _) in vertex.inputs() {
        preimage.push("input", key_of(input).0.as_bytes().as_slice());
    }
    canonical::key(&preimage)
}

/// The chain of an image, as a field shows it.
#[must_use]
pub fn chain_text(diff_ids: &[DiffId]) -> String {
    ChainId::of(diff_ids).map_or_else(|| "none".to_owned(), |chain| chain.to_string())
}

fn push_root(out: &mut Preimage, root: Option<VertexId>, key_of: &dyn Fn(VertexId) -> CacheKey) {
    let root = root.map_or_else(|| "none".to_owned(), |root| key_of(root).to_string());
    out.push("root", root);
}

fn exec_fields(out: &mut Preimage, exec: &ExecOp, key_of: &dyn Fn(VertexId) -> CacheKey) {
    out.push("op", "exec");
    push_root(out, exec.root, key_of);
    for (index, arg) in exec.args.iter().enumerate() {
        out.push(format!("argument {index}"), arg.as_str());
    }
    for (name, value) in &exec.env {
        out.push(format!("variable {name}"), value.as_str());
    }
    out.push("directory", exec.cwd.as_str());
    out.push("user", exec.user.as_str());
    let network = match exec.network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    };
    out.push("network", network);
    match exec.security {
        Security::Sandbox => {}
        Security::Hardened => out.push("security", "hardened"),
        Security::Insecure => out.push("security", "insecure"),
    }
    for (index, device) in exec.devices.iter().enumerate() {
        out.push(
            format!("device {index}"),
            format!("{:?} {}", device.name, device.required),
        );
    }
    if let Some(hostname) = &exec.hostname {
        out.push("host name", hostname.as_str());
    }
    for (name, _) in &exec.extra_hosts {
        out.push(format!("host {name}"), "");
    }
    if let Some(size) = exec.shm_size_bytes {
        out.push("shm size", size.to_string());
    }
    if let Some(script) = &exec.script {
        out.push(format!("script {}", script.name), script.data.as_slice());
    }
    for (index, mount) in exec.mounts.iter().enumerate() {
        out.push(format!("mount {index}"), mount_text(mount));
    }
}

fn mount_text(mount: &Mount) -> String {
    let target = &mount.target;
    match &mount.kind {
        MountKind::Bind { source, writable, .. } => format!("bind {target:?} {source:?} {writable}"),
        MountKind::Cache {
            id,
            sharing,
            from,
            writable,
            access,
        } => {
            let sharing = match sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            };
            let source = from.as_ref().map(|(_, source)| source);
            format!(
                "cache {target:?} {id:?} {sharing} {source:?} {writable} {}",
                access_text(access)
            )
        }
        MountKind::Tmpfs { size_bytes } => format!("tmpfs {target:?} {size_bytes:?}"),
        MountKind::Secret {
            id,
            file,
            env,
            access,
            required,
        } => {
            format!(
                "secret {target:?} {id:?} {file} {env:?} {required} {}",
                access_text(access)
            )
        }
        MountKind::Ssh { id, access, required } => format!("ssh {target:?} {id:?} {required} {}", access_text(access)),
    }
}

fn access_text(access: &MountAccess) -> String {
    format!("{:o} {}:{}", access.mode, access.uid, access.gid)
}

fn copy_fields(out: &mut Preimage, copy: &CopyAction) {
    out.push("op", "copy");
    out.push("destination", copy.dest.as_str());
    let options = [
        ("destination is a directory", copy.dest_is_dir),
        ("--link", copy.link),
        ("--parents", copy.parents),
    ];
    for (name, set) in options {
        out.push(name, if set { "yes" } else { "no" });
    }
    let unpack = match copy.unpack {
        Unpack::Nothing => "no",
        Unpack::Context => "yes",
        Unpack::Everything => "everything",
    };
    out.push("unpack", unpack);
    out.push("--chown", owner_text(copy.owner.as_ref()));
    let mode = match &copy.mode {
        None => String::new(),
        Some(ModeChange::Octal(mode)) => format!("{mode:o}"),
        Some(ModeChange::Symbolic(clauses)) => clauses.clone(),
    };
    out.push("--chmod", mode);
    for (index, pattern) in copy.exclude.iter().enumerate() {
        out.push(format!("--exclude {index}"), pattern.as_str());
    }
    for (index, source) in copy.sources.iter().enumerate() {
        match source {
            CopySource::Path { pattern, .. } => {
                // With --parents the whole path decides where files land, otherwise only the last component may.
                let shown = if copy.parents { pattern } else { base_name(pattern) };
                out.push(format!("source {index}"), shown);
            }
            CopySource::Inline(file) => out.push(format!("heredoc {index} {}", file.name), file.data.as_slice()),
        }
    }
}

/// The last part of a path or pattern.
pub(super) fn base_name(pattern: &str) -> &str {
    pattern.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn make_dir_fields(out: &mut Preimage, make: &MakeDirAction) {
    out.push("op", "directory");
    out.push("path", make.path.as_str());
    out.push("owner", owner_text(make.owner.as_ref()));
}

fn owner_text(owner: Option<&Owner>) -> String {
    let id = |id: &Option<Id>| match id {
        None => String::new(),
        Some(Id::Number(number)) => number.to_string(),
        Some(Id::Name(name)) => format!("{name:?}"),
    };
    owner
        .map(|owner| format!("{}:{}", id(&owner.user), id(&owner.group)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proto::definition::{DeviceRequest, FileOp, InlineFile};
    use proto::digest::{ContentDigest, Digest};
    use proto::platform::Platform;

    use super::*;

    fn run(change: impl FnOnce(&mut ExecOp)) -> CacheKey {
        let mut exec = ExecOp {
            root: Some(VertexId(0)),
            args: vec!["/bin/sh".into(), "-c".into(), "true".into()],
            env: vec![("PATH".into(), "/bin".into())],
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
            mounts: Vec::new(),
        };
        change(&mut exec);
        key(Op::Exec(Box::new(exec)))
    }

    fn copy(change: impl FnOnce(&mut CopyAction)) -> CacheKey {
        let mut action = CopyAction {
            sources: vec![CopySource::Path {
                from: VertexId(0),
                pattern: "a/f".into(),
            }],
            dest: "/f".into(),
            dest_is_dir: false,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Nothing,
        };
        change(&mut action);
        key(Op::File(FileOp {
            root: None,
            action: FileAction::Copy(action),
        }))
    }

    fn key(op: Op) -> CacheKey {
        let platform = Platform::new("linux", "amd64", "");
        let vertex = Vertex {
            op,
            platform,
            name: "x".into(),
            lines: Some((1, 1)),
            stage: "s".into(),
        };
        canonical::key(&fields(&vertex, &|id| CacheKey(ContentDigest::of(&id.0.to_le_bytes()))))
    }

    #[test]
    fn each_thing_a_process_sees_changes_the_key() {
        fn device(exec: &mut ExecOp, required: bool) {
            let name = "v.com/c=x".into();
            exec.devices.push(DeviceRequest { name, required });
        }
        let changes: [fn(&mut ExecOp); 13] = [
            |exec| exec.args[2] = "false".into(),
            |exec| exec.env[0].1 = "/sbin".into(),
            |exec| exec.cwd = "/tmp".into(),
            |exec| exec.user = "1".into(),
            |exec| exec.network = Network::None,
            |exec| exec.security = Security::Insecure,
            |exec| exec.security = Security::Hardened,
            |exec| device(exec, true),
            |exec| device(exec, false),
            |exec| exec.hostname = Some("h".into()),
            |exec| exec.extra_hosts.push(("h".into(), "::1".into())),
            |exec| exec.root = Some(VertexId(1)),
            |exec| {
                exec.script = Some(InlineFile {
                    name: "E".into(),
                    data: b"#!".to_vec(),
                })
            },
        ];
        let mut keys: Vec<CacheKey> = changes.into_iter().map(run).collect();
        keys.push(run(|_| {}));
        let total = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), total);
    }

    #[test]
    fn proxies_and_host_addresses_do_not_change_the_key() {
        assert_eq!(run(|exec| exec.build_args.push("PATH".into())), run(|_| {}));
        assert_eq!(
            run(|exec| exec.proxy_env.push(("http_proxy".into(), "x".into()))),
            run(|_| {})
        );
        let host = |address: &str| run(|exec| exec.extra_hosts.push(("h".into(), address.into())));
        assert_eq!(host("::1"), host("::2"));
    }

    #[test]
    fn only_the_base_name_of_a_source_is_in_the_key() {
        let source = |pattern: &str| {
            copy(|copy| {
                copy.sources = vec![CopySource::Path {
                    from: VertexId(0),
                    pattern: pattern.into(),
                }]
            })
        };
        assert_eq!(source("a/f"), source("b/f"));
        assert_ne!(source("a/f"), source("a/g"));
        assert_ne!(copy(|copy| copy.dest_is_dir = true), copy(|_| {}));
        assert_ne!(copy(|copy| copy.mode = Some(ModeChange::Octal(0o600))), copy(|_| {}));
    }

    #[test]
    fn an_image_is_its_layers() {
        let image = |name: &str, layer: &[u8]| {
            key(Op::Image(proto::definition::ImageOp {
                reference: name.into(),
                manifest: Digest::of(name.as_bytes()),
                diff_ids: vec![DiffId(Digest::of(layer))],
            }))
        };
        assert_eq!(image("a", b"1"), image("b", b"1"));
        assert_ne!(image("a", b"1"), image("a", b"2"));
    }
}
