//! The client's side of a build: answers what only the client has. A server gets what this build offers, nothing else:
//! files that the walk of the context reported, secrets and SSH agents named on the command line, logins of this user.

pub(crate) mod deliver;
pub(crate) mod extract;
mod shared;
pub(crate) mod stream;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Tree, TreeEntry};
use proto::tree_digest;
use proto::tree_nodes::{self, Node};
use proto::v1;
use proto::v1::client_message::Body;
use proto::v1::server_message::Body as Request;

use crate::agent::Agents;
use crate::beneath;
use crate::dockerfile::{Description, NamedText};
use crate::engine;
use crate::secret::Secrets;

/// Payload of one message: well below the 4 MiB that a server decodes.
const CHUNK_BYTES: usize = 512 * 1024;

/// A directory that the server may ask about.
#[derive(Debug)]
pub(crate) struct Context {
    root: PathBuf,
    access: Access,
}

/// Which files of a context a server may read.
#[derive(Debug)]
enum Access {
    /// What a walk reported, after the ignore file.
    Walked {
        ignore: Option<NamedText>,
        offered: Mutex<Vec<Offer>>,
    },
    /// All: an OCI layout is read by the names in its index.
    Everything,
}

/// The tree of one walk: its files may be read, and the server may ask for it by its digest.
#[derive(Debug, Clone)]
struct Offer {
    digest: ContentDigest,
    tree: Arc<Tree>,
}

impl Context {
    /// A build context with its ignore file.
    pub(crate) fn directory(root: PathBuf, ignore: Option<NamedText>) -> Self {
        let offered = Mutex::default();
        Self {
            root,
            access: Access::Walked { ignore, offered },
        }
    }

    /// An OCI layout.
    pub(crate) fn oci_layout(root: PathBuf) -> Self {
        Self {
            root,
            access: Access::Everything,
        }
    }
}

/// Everything the client lends to one build.
#[derive(Debug)]
pub(crate) struct Session {
    /// 32 hex digits.
    pub(crate) build_id: String,
    /// Dockerfile and ignore file; nothing for a push or pull.
    pub(crate) description: Option<Description>,
    /// By name; the main one is `context`.
    pub(crate) contexts: BTreeMap<String, Context>,
    /// Values for `RUN --mount=type=secret`.
    pub(crate) secrets: Secrets,
    /// SSH agents for `RUN --mount=type=ssh`.
    pub(crate) agents: Agents,
    /// Directory of docker's `config.json`.
    pub(crate) docker_config: PathBuf,
    /// Directory for what may be lost at any time.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Directories whose paths the server may be told: it reads them in place if it can.
    pub(crate) share_paths: bool,
}

/// Why a request was not answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    message: String,
    not_found: bool,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            not_found: false,
        }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self {
            not_found: true,
            ..Self::new(message)
        }
    }

    /// As it goes to the server.
    pub(crate) fn into_body(self) -> Body {
        Body::Error(v1::SessionError {
            message: self.message,
            not_found: self.not_found,
        })
    }
}

/// Takes the messages of an answer; the flag marks the last one. An error means that nobody listens any more.
pub(crate) type Reply<'a> = dyn FnMut(Body, bool) -> Result<(), Refusal> + 'a;

impl Session {
    /// The first message.
    pub(crate) fn hello(&self) -> v1::Hello {
        let shared = self.contexts.iter().filter(|_| self.share_paths);
        let local_paths: HashMap<String, Vec<u8>> = shared
            .map(|(name, context)| (name.clone(), context.root.as_os_str().as_bytes().to_vec()))
            .collect();
        v1::Hello {
            build_id: self.build_id.clone(),
            version: crate::VERSION.to_owned(),
            local_paths,
            secret_ids: self.secrets.ids().cloned().collect(),
            agent_ids: self.agents.ids().cloned().collect(),
        }
    }

    /// Answers one request of the server, apart from output chunks and requests to agents. Blocks.
    ///
    /// # Errors
    /// [`Refusal`] in words for the user; what was replied before it counts for nothing.
    pub(crate) fn answer(&self, request: Request, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        match request {
            Request::ReadDockerfile(_) => self.read_dockerfile(reply),
            Request::Walk(walk) => self.walk(&walk, reply),
            Request::ReadTree(read) => self.read_tree(&read, reply),
            Request::ReadFiles(read) => self.read_files(&read, reply),
            Request::GetSecret(secret) => {
                let value = self.secrets.value(&secret.id).ok_or_else(|| {
                    let id = secret.id.escape_debug();
                    Refusal::not_found(format!("there is no secret `{id}`: give it with `--secret id={id}`"))
                })?;
                reply(Body::Secret(v1::SecretValue { value: value.to_vec() }), true)
            }
            Request::GetCredentials(wanted) => {
                let login = engine::lookup_login(&self.docker_config, &wanted.registry).map_err(Refusal::new)?;
                let credentials = v1::Credentials {
                    username: login.username,
                    password: login.password,
                    identity_token: login.identity_token,
                };
                reply(Body::Credentials(credentials), true)
            }
            Request::Ready(_) | Request::Output(_) | Request::OutputFile(_) | Request::AskAgent(_) => {
                Err(Refusal::new("this is not a question"))
            }
        }
    }

    fn read_dockerfile(&self, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let Some(description) = &self.description else {
            return Err(Refusal::not_found("this is no build: there is no Dockerfile"));
        };
        let ignore = description.ignore.as_ref();
        send_bytes(0, &description.dockerfile.bytes, ignore.is_none(), reply)?;
        match ignore {
            Some(ignore) => send_bytes(1, &ignore.bytes, true, reply),
            None => Ok(()),
        }
    }

    fn context(&self, name: &str) -> Result<&Context, Refusal> {
        let context = self.contexts.get(name);
        context.ok_or_else(|| Refusal::not_found(format!("there is no build context `{}`", name.escape_debug())))
    }

    fn walk(&self, request: &v1::WalkContext, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let context = self.context(&request.context)?;
        let Access::Walked { ignore, offered } = &context.access else {
            return Err(Refusal::new(format!(
                "`{}` is an OCI layout, not a directory",
                request.context
            )));
        };
        let walked = engine::walk(&context.root, ignore.as_ref(), request, self.cache_dir.as_deref());
        let engine::Walked { tree, mut message } = walked.map_err(Refusal::new)?;
        let offer = offer(tree, offered);
        if !request.digest_first {
            return send_entries(offer.tree.entries(), message, reply);
        }
        message.digest = offer.digest.as_bytes().to_vec();
        reply(Body::Tree(message), true)
    }

    fn read_tree(&self, request: &v1::ReadTree, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let offers = self.context(&request.context)?.offers();
        let wanted = offers
            .into_iter()
            .find(|offer| offer.digest.as_bytes() == request.digest.as_slice());
        let offer = wanted.ok_or_else(|| Refusal::new("no walk of the context found that tree"))?;
        if !request.directories_first && request.directories.is_empty() {
            return send_entries(offer.tree.entries(), v1::ContextTree::default(), reply);
        }
        let nodes = tree_nodes::nodes(&offer.tree).ok_or_else(|| Refusal::new("the tree has holes"))?;
        if request.directories_first {
            return send_digests(&nodes, reply);
        }
        let mut entries = Vec::new();
        for at in &request.directories {
            let node = usize::try_from(*at).ok().and_then(|at| nodes.get(at));
            let node = node.ok_or_else(|| Refusal::new("the tree has fewer directories"))?;
            entries.extend(&node.entries);
        }
        send_entries(entries, v1::ContextTree::default(), reply)
    }

    fn read_files(&self, request: &v1::ReadFiles, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let context = self.context(&request.context)?;
        let root = beneath::open_root(&context.root)
            .map_err(|error| Refusal::new(format!("the build context `{}`: {error}", context.root.display())))?;
        let last_index = request.paths.len().wrapping_sub(1);
        if request.paths.is_empty() {
            return Err(Refusal::new("no files are asked for"));
        }
        for (index, path) in request.paths.iter().enumerate() {
            let path = RelPath::parse(path).map_err(|error| Refusal::new(error.to_string()))?;
            context.check(&path)?;
            let file = beneath::open_file(root.as_fd(), &path).map_err(|error| Refusal {
                message: format!("the build context `{}`: {error}", context.root.display()),
                not_found: error.is_missing(),
            })?;
            let number = u32::try_from(index).map_err(|_| Refusal::new("too many files are asked for"))?;
            send_file(number, file, index == last_index, reply)
                .map_err(|refusal| Refusal::new(format!("`{path}`: {}", refusal.message)))?;
        }
        Ok(())
    }
}

impl Context {
    fn offers(&self) -> Vec<Offer> {
        match &self.access {
            Access::Walked { offered, .. } => lock(offered).clone(),
            Access::Everything => Vec::new(),
        }
    }

    fn check(&self, path: &RelPath) -> Result<(), Refusal> {
        let is_file = |offer: &Offer| {
            let entry = offer.tree.get(path);
            entry.is_some_and(|entry| matches!(entry.kind, EntryKind::File { .. }))
        };
        if matches!(self.access, Access::Everything) || self.offers().iter().any(is_file) {
            return Ok(());
        }
        Err(Refusal::new(format!(
            "`{path}` was not offered: no walk of the context reported it"
        )))
    }
}

fn lock(offered: &Mutex<Vec<Offer>>) -> MutexGuard<'_, Vec<Offer>> {
    offered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what a walk found: only these files are read for the server later.
fn offer(tree: Tree, offered: &Mutex<Vec<Offer>>) -> Offer {
    let offer = Offer {
        digest: tree_digest::digest(&tree),
        tree: Arc::new(tree),
    };
    lock(offered).push(offer.clone());
    offer
}

fn file_content(index: u32, data: Vec<u8>, end_of_file: bool) -> Body {
    Body::File(v1::FileContent {
        index,
        data,
        end_of_file,
    })
}

/// Sends bytes in memory as a file.
fn send_bytes(index: u32, bytes: &[u8], last_file: bool, reply: &mut Reply<'_>) -> Result<(), Refusal> {
    send_file(index, bytes, last_file, reply)
}

fn send_file(index: u32, mut file: impl Read, last_file: bool, reply: &mut Reply<'_>) -> Result<(), Refusal> {
    loop {
        let mut data = Vec::new();
        (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut data)
            .map_err(|error| Refusal::new(error.to_string()))?;
        // A short read is the end; a file that ends with a full chunk ends with an empty one.
        let end = data.len() < CHUNK_BYTES;
        reply(file_content(index, data, end), end && last_file)?;
        if end {
            return Ok(());
        }
    }
}

/// Sends digests of directories in messages of bounded size.
fn send_digests(nodes: &[Node<'_>], reply: &mut Reply<'_>) -> Result<(), Refusal> {
    let digests: Vec<u8> = nodes.iter().flat_map(|node| *node.digest().as_bytes()).collect();
    let mut parts = digests.chunks(CHUNK_BYTES).peekable();
    while let Some(part) = parts.next() {
        let message = v1::ContextTree {
            directories: part.to_vec(),
            ..v1::ContextTree::default()
        };
        reply(Body::Tree(message), parts.peek().is_none())?;
    }
    Ok(())
}

/// Sends entries in messages of bounded size; what `last` says besides goes with the last one.
fn send_entries<'a>(
    entries: impl IntoIterator<Item = &'a TreeEntry>,
    mut last: v1::ContextTree,
    reply: &mut Reply<'_>,
) -> Result<(), Refusal> {
    let mut chunk = Vec::new();
    let mut size = 0;
    for entry in entries {
        let entry = v1::TreeEntry::from(entry);
        let entry_size = encoded_size(&entry);
        if size + entry_size > CHUNK_BYTES && !chunk.is_empty() {
            let entries = std::mem::take(&mut chunk);
            let part = v1::ContextTree {
                tree: Some(v1::Tree { entries }),
                ..v1::ContextTree::default()
            };
            reply(Body::Tree(part), false)?;
            size = 0;
        }
        size += entry_size;
        chunk.push(entry);
    }
    last.tree = Some(v1::Tree { entries: chunk });
    reply(Body::Tree(last), true)
}

/// An upper bound of the bytes of an entry in a message.
fn encoded_size(entry: &v1::TreeEntry) -> usize {
    let target = match &entry.kind {
        Some(v1::tree_entry::Kind::SymlinkTarget(target) | v1::tree_entry::Kind::HardlinkTarget(target)) => {
            target.len()
        }
        _ => 0,
    };
    let xattrs: usize = entry.xattrs.iter().map(|x| x.name.len() + x.value.len() + 24).sum();
    // Numbers, tags and the digest of a file together stay below this.
    128 + entry.path.len() + target + xattrs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn session(contexts: BTreeMap<String, Context>) -> Session {
        let text = |name: &str, bytes: &[u8]| NamedText {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
        };
        Session {
            build_id: "0".repeat(32),
            description: Some(Description {
                dockerfile: text("Dockerfile", b"FROM scratch\n"),
                ignore: Some(text(".dockerignore", b"*.tmp\n")),
            }),
            contexts,
            secrets: Secrets::read(&["id=token,env=T".to_owned()], &Environment::of(&[("T", "hush")])).unwrap(),
            agents: Agents::default(),
            docker_config: PathBuf::from("/nonexistent"),
            cache_dir: None,
            share_paths: true,
        }
    }

    fn ask(session: &Session, request: Request) -> Result<Vec<(Body, bool)>, Refusal> {
        let mut messages = Vec::new();
        session.answer(request, &mut |body, last| {
            messages.push((body, last));
            Ok(())
        })?;
        Ok(messages)
    }

    fn file_tree(paths: &[&str]) -> Tree {
        let entry = |path: &&str| proto::tree::TreeEntry {
            path: RelPath::clean(path.as_bytes()),
            kind: EntryKind::File {
                size: 0,
                content: ContentDigest::of(b""),
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: proto::tree::Timestamp::default(),
            xattrs: Vec::new(),
        };
        Tree::new(paths.iter().map(entry).collect())
    }

    #[test]
    fn the_dockerfile_comes_first_and_its_ignore_file_last() {
        let messages = ask(
            &session(BTreeMap::new()),
            Request::ReadDockerfile(v1::ReadDockerfile {}),
        )
        .unwrap();
        assert_eq!(
            messages,
            [
                (file_content(0, b"FROM scratch\n".to_vec(), true), false),
                (file_content(1, b"*.tmp\n".to_vec(), true), true),
            ]
        );
    }

    #[test]
    fn a_missing_ignore_file_has_no_message() {
        let mut session = session(BTreeMap::new());
        session.description.as_mut().unwrap().ignore = None;
        let messages = ask(&session, Request::ReadDockerfile(v1::ReadDockerfile {})).unwrap();
        assert_eq!(messages, [(file_content(0, b"FROM scratch\n".to_vec(), true), true)]);
    }

    #[test]
    fn only_files_that_a_walk_offered_are_read() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "offered").unwrap();
        std::fs::write(directory.path().join("b"), "ignored").unwrap();
        let context = Context::directory(directory.path().into(), None);
        let Access::Walked { offered, .. } = &context.access else {
            panic!("not a directory")
        };
        offer(file_tree(&["a"]), offered);
        let session = session([("context".to_owned(), context)].into());
        let read = |paths: &[&[u8]]| {
            let paths = paths.iter().map(|path| path.to_vec()).collect();
            let context = "context".to_owned();
            ask(&session, Request::ReadFiles(v1::ReadFiles { context, paths }))
        };
        assert_eq!(
            read(&[b"a", b"a"]).unwrap(),
            [
                (file_content(0, b"offered".to_vec(), true), false),
                (file_content(1, b"offered".to_vec(), true), true)
            ]
        );
        assert!(read(&[b"b"]).unwrap_err().message.contains("`b` was not offered"));
        assert!(read(&[b"../a"]).unwrap_err().message.contains("`..` component"));
        assert!(read(&[]).is_err());
    }

    #[test]
    fn a_tree_is_sent_when_its_digest_does_not_suffice() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "x").unwrap();
        let context = Context::directory(directory.path().into(), None);
        let session = session([("context".to_owned(), context)].into());
        let walk = |digest_first| {
            let context = "context".to_owned();
            let walk = v1::WalkContext {
                context,
                digest_first,
                ..v1::WalkContext::default()
            };
            let mut messages = ask(&session, Request::Walk(walk)).unwrap();
            assert_eq!(messages.len(), 1);
            match messages.pop() {
                Some((Body::Tree(tree), true)) => tree,
                other => panic!("{other:?}"),
            }
        };
        let read = |digest: &[u8]| {
            let digest = digest.to_vec();
            let context = "context".to_owned();
            ask(
                &session,
                Request::ReadTree(v1::ReadTree {
                    context,
                    digest,
                    ..v1::ReadTree::default()
                }),
            )
        };
        let sent = walk(false);
        assert!(sent.digest.is_empty());
        let digest = walk(true);
        assert!(digest.tree.is_none());
        let messages = read(&digest.digest).unwrap();
        let [(Body::Tree(read_later), true)] = messages.as_slice() else {
            panic!("not a tree")
        };
        assert_eq!(read_later.tree, sent.tree);
        let tree = Tree::try_from(sent.tree.unwrap()).unwrap();
        assert_eq!(digest.digest, tree_digest::digest(&tree).as_bytes());
        assert!(read(&[0; 32]).is_err());
    }

    #[test]
    fn a_layout_is_read_by_any_name_below_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("index.json"), vec![b'x'; CHUNK_BYTES]).unwrap();
        let context = Context::oci_layout(directory.path().into());
        let session = session([("base".to_owned(), context)].into());
        let read = |path: &[u8]| {
            let paths = vec![path.to_vec()];
            let context = "base".to_owned();
            ask(&session, Request::ReadFiles(v1::ReadFiles { context, paths }))
        };
        let messages = read(b"index.json").unwrap();
        assert_eq!(messages.len(), 2, "a full chunk, then the end");
        assert_eq!(messages[1], (file_content(0, Vec::new(), true), true));
        assert!(read(b"blobs/none").unwrap_err().not_found);
    }

    #[test]
    fn secrets_are_handed_out_by_their_ids_only() {
        let session = session(BTreeMap::new());
        let get = |id: &str| ask(&session, Request::GetSecret(v1::GetSecret { id: id.to_owned() }));
        let value = b"hush".to_vec();
        assert_eq!(get("token").unwrap(), [(Body::Secret(v1::SecretValue { value }), true)]);
        let refusal = get("other").unwrap_err();
        assert!(refusal.not_found);
        assert!(refusal.message.contains("--secret id=other"));
        assert_eq!(session.hello().secret_ids, ["token"]);
    }

    #[test]
    fn large_trees_come_in_several_messages() {
        let names: Vec<String> = (0..10_000).map(|number| format!("file-{number:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut parts = Vec::new();
        let tree = file_tree(&names);
        send_entries(tree.entries(), v1::ContextTree::default(), &mut |body, last| {
            let Body::Tree(part) = body else { panic!("not a tree") };
            parts.push((part.tree.unwrap().entries.len(), last));
            Ok(())
        })
        .unwrap();
        assert!(parts.len() > 1);
        assert_eq!(parts.iter().map(|(count, _)| count).sum::<usize>(), 10_000);
        assert!(parts.iter().rev().skip(1).all(|(_, last)| !last));
        assert!(parts.last().unwrap().1);
    }
}
