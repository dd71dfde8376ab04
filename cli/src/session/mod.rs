//! The client's side of a build: answers what only the client has. A server gets what this build offers, nothing else:
//! files that the walk of the context reported, secrets and SSH agents named on the command line, logins of this user.

pub(crate) mod deliver;
pub(crate) mod extract;
mod shared;
pub(crate) mod stream;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;

use proto::tree::RelPath;
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
        offered: Mutex<HashSet<RelPath>>,
    },
    /// All: an OCI layout is read by the names in its index.
    Everything,
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
        let tree = engine::walk(
            &context.root,
            ignore.as_ref(),
            &request.include,
            self.cache_dir.as_deref(),
        )
        .map_err(Refusal::new)?;
        offer(&tree, offered);
        send_tree(tree, reply)
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
    fn check(&self, path: &RelPath) -> Result<(), Refusal> {
        let Access::Walked { offered, .. } = &self.access else {
            return Ok(());
        };
        let offered = offered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if offered.contains(path) {
            return Ok(());
        }
        Err(Refusal::new(format!(
            "`{path}` was not offered: no walk of the context reported it"
        )))
    }
}

/// Remembers the files of a walk: only these are read for the server later.
fn offer(tree: &v1::ContextTree, offered: &Mutex<HashSet<RelPath>>) {
    let entries = tree.tree.iter().flat_map(|tree| &tree.entries);
    let files = entries.filter(|entry| matches!(entry.kind, Some(v1::tree_entry::Kind::File(_))));
    let paths = files.filter_map(|file| RelPath::parse(&file.path).ok());
    offered
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .extend(paths);
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

/// Sends a tree in messages of bounded size, the notes on excluded paths with the last one.
fn send_tree(tree: v1::ContextTree, reply: &mut Reply<'_>) -> Result<(), Refusal> {
    let entries = tree.tree.unwrap_or_default().entries;
    let mut chunk = Vec::new();
    let mut size = 0;
    for entry in entries {
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
    let part = v1::ContextTree {
        tree: Some(v1::Tree { entries: chunk }),
        excluded: tree.excluded,
        walk_ms: tree.walk_ms,
    };
    reply(Body::Tree(part), true)
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

    fn file_tree(paths: &[&str]) -> v1::ContextTree {
        let entry = |path: &&str| v1::TreeEntry {
            path: path.as_bytes().to_vec(),
            kind: Some(v1::tree_entry::Kind::File(v1::tree_entry::File::default())),
            ..v1::TreeEntry::default()
        };
        v1::ContextTree {
            tree: Some(v1::Tree {
                entries: paths.iter().map(entry).collect(),
            }),
            ..v1::ContextTree::default()
        }
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
        offer(&file_tree(&["a"]), offered);
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
        send_tree(file_tree(&names), &mut |body, last| {
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
