//! The client's side of a build as the server sees it: it asks, the client answers.
//!
//! Context files, secrets, SSH agents, credentials and local outputs pass through here and nowhere else; the server's own environment,
//! home directory and files are never a substitute. Trees of contexts are read by [`walk`].

mod walk;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::v1::{self, client_message::Body as Answer, server_message::Body as Question};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::request::{Blame, BuildError};
use crate::scrub::Secrets;

pub use walk::{WalkedContext, WantedContext};

/// Messages of one answer that may wait for the reader; the client stops sending when they do.
const ANSWER_QUEUE: usize = 16;

/// A connected client.
pub struct Session {
    hello: v1::Hello,
    same_user: bool,
    /// Directories that client and server both see, opened once.
    in_place: HashMap<String, Arc<OwnedFd>>,
    questions: mpsc::Sender<v1::ServerMessage>,
    next_id: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Result<Answer, BuildError>>>>,
    gone: CancellationToken,
    secrets: Secrets,
}

impl std::fmt::Debug for Session {
    /// Holds paths and secret names of the client: only the build is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.hello.build_id)
    }
}

/// The Dockerfile and its ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileBytes {
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// The ignore file, if there is one.
    pub ignore: Option<Vec<u8>>,
}

impl Session {
    /// A session that asks through `questions`. Paths of `hello` are opened if `same_user`: then, and only then, the server may
    /// read in place what the client could read itself.
    #[must_use]
    pub fn new(hello: v1::Hello, questions: mpsc::Sender<v1::ServerMessage>, same_user: bool) -> Arc<Self> {
        let in_place = if same_user {
            open_directories(&hello)
        } else {
            HashMap::new()
        };
        Arc::new(Self {
            hello,
            same_user,
            in_place,
            questions,
            next_id: AtomicU64::new(1),
            waiting: Mutex::default(),
            gone: CancellationToken::new(),
            secrets: Secrets::default(),
        })
    }

    /// The build this session belongs to.
    #[must_use]
    pub fn build_id(&self) -> &str {
        &self.hello.build_id
    }

    /// Whether the client is the user that the server runs as: it could do itself whatever it asks for.
    #[must_use]
    pub fn is_same_user(&self) -> bool {
        self.same_user
    }

    /// Cancelled when the client has gone.
    #[must_use]
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Hands an answer to whoever asked. An answer nobody waits for any more is dropped: the asker has given up.
    pub async fn deliver(&self, message: v1::ClientMessage) {
        let id = message.request_id;
        let answer = match message.body {
            Some(Answer::Error(error)) => Err(refused(error)),
            Some(body) => Ok(body),
            None => Err(BuildError::bug("the client sent an empty answer")),
        };
        let waiting = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned();
        if let Some(waiting) = waiting {
            // A closed receiver is a reader that gave up.
            drop(waiting.send(answer).await);
        }
        if message.last {
            self.forget(id);
        }
    }

    /// Ends every wait: the client will not answer any more.
    pub fn close(&self) {
        self.gone.cancel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn forget(&self, id: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    async fn ask(&self, question: Question) -> Result<Answers, BuildError> {
        let request_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(ANSWER_QUEUE);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(request_id, sender);
        let message = v1::ServerMessage {
            request_id,
            body: Some(question),
        };
        if self.gone.is_cancelled() || self.questions.send(message).await.is_err() {
            self.forget(request_id);
            return Err(client_gone());
        }
        Ok(Answers { receiver })
    }

    /// The Dockerfile and its ignore file.
    ///
    /// # Errors
    /// What the client says; a client that has gone.
    pub async fn read_dockerfile(&self) -> Result<DockerfileBytes, BuildError> {
        let mut answers = self.ask(Question::ReadDockerfile(v1::ReadDockerfile {})).await?;
        let mut files: [Option<Vec<u8>>; 2] = [None, None];
        while let Some(answer) = answers.next().await? {
            let Answer::File(file) = answer else {
                return Err(unexpected("ReadDockerfile"));
            };
            let slot = files
                .get_mut(file.index as usize)
                .ok_or_else(|| unexpected("ReadDockerfile"))?;
            let bytes = slot.get_or_insert_default();
            bytes.extend_from_slice(&file.data);
            if bytes.len() > DOCKERFILE_LIMIT {
                return Err(BuildError::user(format!(
                    "the Dockerfile is larger than {DOCKERFILE_LIMIT} bytes"
                )));
            }
        }
        let [dockerfile, ignore] = files;
        let dockerfile = dockerfile.ok_or_else(|| unexpected("ReadDockerfile"))?;
        Ok(DockerfileBytes { dockerfile, ignore })
    }

    /// Where the build context lies on the client, if the client says so. For telling builds apart, never for reading.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        let path = self.hello.local_paths.get("context")?;
        Some(String::from_utf8_lossy(path).into_owned())
    }

    /// The directory of a context, if it may be read in place.
    #[must_use]
    pub fn in_place(&self, context: &str) -> Option<Arc<OwnedFd>> {
        self.in_place.get(context).cloned()
    }

    /// Opens files of a context over the session: their bytes arrive in order, file by file, until the answers end.
    ///
    /// # Errors
    /// A client that has gone.
    pub async fn read_files(&self, context: &str, paths: Vec<Vec<u8>>) -> Result<FileAnswers, BuildError> {
        let question = v1::ReadFiles {
            context: context.to_owned(),
            paths,
        };
        self.ask(Question::ReadFiles(question)).await.map(FileAnswers)
    }

    /// The value of a secret, or nothing if the client has none of that name.
    ///
    /// # Errors
    /// What the client says.
    pub async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, BuildError> {
        if !self.hello.secret_ids.iter().any(|known| known == id) {
            return Ok(None);
        }
        let mut answers = self
            .ask(Question::GetSecret(v1::GetSecret { id: id.to_owned() }))
            .await?;
        match answers.next().await? {
            Some(Answer::Secret(secret)) => {
                self.secrets.add(&secret.value);
                Ok(Some(secret.value))
            }
            _ => Err(unexpected("GetSecret")),
        }
    }

    /// Everything secret that the client has said until now.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether the client lends an SSH agent of that name.
    #[must_use]
    pub fn has_agent(&self, id: &str) -> bool {
        self.hello.agent_ids.iter().any(|known| known == id)
    }

    /// Passes one request, without its length, to an SSH agent of the client, and returns the answer, without its length.
    ///
    /// # Errors
    /// What the client says; a client that has gone; an answer that no agent gives.
    pub async fn ask_agent(&self, id: &str, request: Vec<u8>) -> Result<Vec<u8>, BuildError> {
        let question = v1::AskAgent {
            id: id.to_owned(),
            request,
        };
        let mut answers = self.ask(Question::AskAgent(question)).await?;
        match answers.next().await? {
            Some(Answer::AgentReply(answer)) if proto::agent::is_reply(&answer.reply) => Ok(answer.reply),
            _ => Err(unexpected("AskAgent")),
        }
    }

    /// The client's login for a registry, or nothing.
    ///
    /// # Errors
    /// What the client says, for example of a credential helper that fails.
    pub async fn credentials(&self, registry: &str) -> Result<Option<v1::Credentials>, BuildError> {
        let question = v1::GetCredentials {
            registry: registry.to_owned(),
        };
        let mut answers = self.ask(Question::GetCredentials(question)).await?;
        match answers.next().await? {
            Some(Answer::Credentials(found)) => {
                self.secrets.add(found.password.as_bytes());
                self.secrets.add(found.identity_token.as_bytes());
                let empty = found.username.is_empty() && found.identity_token.is_empty();
                Ok((!empty).then_some(found))
            }
            _ => Err(unexpected("GetCredentials")),
        }
    }

    /// Sends a chunk of an output, not the last one; `first` throws away what was sent before. What goes wrong with it is reported with the last one.
    ///
    /// # Errors
    /// A client that has gone.
    pub async fn write_output(&self, output: u32, data: Vec<u8>, first: bool) -> Result<(), BuildError> {
        let request_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let chunk = v1::OutputChunk {
            output,
            data,
            last: false,
            first,
        };
        let message = v1::ServerMessage {
            request_id,
            body: Some(Question::Output(chunk)),
        };
        if self.gone.is_cancelled() || self.questions.send(message).await.is_err() {
            return Err(client_gone());
        }
        Ok(())
    }

    /// Lets the client take the next bytes of an output from a file that is open here. Returns whether it will: then it has the file
    /// open itself.
    ///
    /// # Errors
    /// A client that has gone.
    pub async fn offer_file(&self, file: v1::OutputFile) -> Result<bool, BuildError> {
        let mut answers = self.ask(Question::OutputFile(file)).await?;
        match answers.next().await {
            Ok(Some(Answer::Written(_))) => Ok(true),
            Ok(_) => Err(unexpected("OutputFile")),
            Err(_) if self.gone.is_cancelled() => Err(client_gone()),
            // It does not see the file, or does not know the question.
            Err(error) => {
                tracing::debug!(%error, "the client takes bytes instead of a file");
                Ok(false)
            }
        }
    }

    /// Ends an output and returns when the client has made all of it durable.
    ///
    /// # Errors
    /// What the client says, for example of a full disk.
    pub async fn finish_output(&self, output: u32, data: Vec<u8>, first: bool) -> Result<(), BuildError> {
        let mut answers = self
            .ask(Question::Output(v1::OutputChunk {
                output,
                data,
                last: true,
                first,
            }))
            .await?;
        match answers.next().await? {
            Some(Answer::Written(_)) => Ok(()),
            _ => Err(unexpected("OutputChunk")),
        }
    }
}

/// A Dockerfile is held in memory.
const DOCKERFILE_LIMIT: usize = 16 << 20;

/// The answers to one question, in order.
struct Answers {
    receiver: mpsc::Receiver<Result<Answer, BuildError>>,
}

impl Answers {
    /// The next answer; nothing after the last one.
    async fn next(&mut self) -> Result<Option<Answer>, BuildError> {
        self.receiver.recv().await.transpose()
    }
}

/// The bytes of files.
pub struct FileAnswers(Answers);

impl std::fmt::Debug for FileAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileAnswers")
    }
}

impl FileAnswers {
    /// The next bytes of one file; nothing after the last file. For threads that may block.
    ///
    /// # Errors
    /// What the client says.
    pub fn blocking_piece(&mut self) -> Result<Option<v1::FileContent>, BuildError> {
        match self.0.receiver.blocking_recv() {
            Some(Ok(Answer::File(file))) => Ok(Some(file)),
            Some(Ok(_)) => Err(unexpected("ReadFiles")),
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }
}

fn open_directories(hello: &v1::Hello) -> HashMap<String, Arc<OwnedFd>> {
    use std::os::unix::ffi::OsStrExt;

    use rustix::fs::{Mode, OFlags};
    let mut directories = HashMap::new();
    for (name, path) in &hello.local_paths {
        let path = std::ffi::OsStr::from_bytes(path);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        // What cannot be opened here is read over the session, where the client reports why.
        if let Ok(directory) = rustix::fs::open(path, flags, Mode::empty()) {
            directories.insert(name.clone(), Arc::new(directory));
        }
    }
    directories
}

fn refused(error: v1::SessionError) -> BuildError {
    BuildError::new(Blame::User, error.message)
}

fn client_gone() -> BuildError {
    BuildError::new(Blame::Canceled, "the client left before the build was done")
}

fn unexpected(question: &str) -> BuildError {
    BuildError::bug(format!("the client's answer to {question} is of another kind"))
}
