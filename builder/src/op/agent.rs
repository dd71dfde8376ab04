//! `RUN --mount=type=ssh`: the socket on which a step finds the client's SSH agent.
//!
//! The server speaks the agent protocol only as far as [`proto::agent`] lets it: a request that may pass travels over the session,
//! any other is refused here. No key, and no other word of the agent, is kept.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::agent;
use proto::definition::MountAccess;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::ids::give;
use crate::session::Session;

/// Connections of one step at the same time; more of them wait.
const MAX_CONNECTIONS: usize = 64;

/// A socket and who answers on it. Dropping it ends the connections and removes the socket.
#[derive(Debug)]
pub struct AgentSocket {
    directory: tempfile::TempDir,
    tasks: JoinSet<()>,
}

impl AgentSocket {
    /// A socket in a new directory below `parent` that leads to the agent `id` of the client. Must be called in a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(session: &Arc<Session>, id: &str, access: &MountAccess, parent: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("agent-").tempdir_in(parent)?;
        let listener = bind(directory.path())?;
        let path = socket_in(directory.path());
        // Nobody else reaches into the directory, so the order of these two does not matter.
        give(&path, access.uid, access.gid)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(access.mode))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(session), id.to_owned()));
        Ok(Self { directory, tasks })
    }

    /// The directory of the socket; it goes with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    /// Ends the connections and removes the socket.
    ///
    /// # Errors
    /// What the file system reports.
    pub async fn close(mut self) -> io::Result<()> {
        self.tasks.shutdown().await;
        self.directory.close()
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// Binds through a descriptor of the directory: the address of a socket holds 107 bytes, and stores may lie deep.
fn bind(directory: &Path) -> io::Result<UnixListener> {
    use std::os::fd::AsRawFd;
    let opened = std::fs::File::open(directory)?;
    UnixListener::bind(socket_in(Path::new(&format!("/proc/self/fd/{}", opened.as_raw_fd()))))
}

/// Answers until it is dropped.
async fn serve(listener: UnixListener, session: Arc<Session>, id: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&session), id.clone()));
                }
                Err(error) => {
                    tracing::warn!(reason = %error, "the agent of a step takes no more connections");
                    return;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: UnixStream, session: Arc<Session>, id: String) {
    // A step that hangs up in the middle of a request is its own business.
    while let Ok(Some(request)) = receive(&mut stream).await {
        let reply = answer(&session, &id, request).await;
        if stream.write_all(&agent::frame(&reply)).await.is_err() {
            return;
        }
    }
}

/// The next request; nothing at the end, and at a length that no request has.
async fn receive(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let Some(length) = agent::length(header) else {
        return Ok(None);
    };
    let mut request = vec![0; length];
    stream.read_exact(&mut request).await?;
    Ok(Some(request))
}

async fn answer(session: &Session, id: &str, request: Vec<u8>) -> Vec<u8> {
    if !agent::is_permitted(&request) {
        tracing::debug!(id, kind = request.first(), "refused a request to an SSH agent");
        return agent::FAILURE.to_vec();
    }
    match session.ask_agent(id, request).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(id, reason = %error, "an SSH agent did not answer");
            agent::FAILURE.to_vec()
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{self, client_message::Body as Answer, server_message::Body as Question};
    use tokio::sync::mpsc;

    use super::*;

    const ACCESS: MountAccess = MountAccess {
        mode: 0o620,
        uid: 0,
        gid: 0,
    };

    /// A client whose agent answers every request with a list of no keys.
    fn client() -> (Arc<Session>, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
        let hello = v1::Hello {
            agent_ids: vec!["default".to_owned()],
            ..v1::Hello::default()
        };
        let (questions, mut asked) = mpsc::channel::<v1::ServerMessage>(4);
        let session = Session::new(hello, questions, false);
        let weak = Arc::downgrade(&session);
        let client = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(message) = asked.recv().await {
                let Some(Question::AskAgent(asked)) = message.body else {
                    panic!("another question")
                };
                assert_eq!(asked.id, "default");
                seen.push(asked.request);
                let reply = v1::ClientMessage {
                    request_id: message.request_id,
                    last: true,
                    body: Some(Answer::AgentReply(v1::AgentReply {
                        reply: vec![12, 0, 0, 0, 0],
                    })),
                };
                weak.upgrade().unwrap().deliver(reply).await;
            }
            seen
        });
        (session, client)
    }

    async fn exchange(stream: &mut UnixStream, request: &[u8]) -> Vec<u8> {
        stream.write_all(&agent::frame(request)).await.unwrap();
        receive(stream).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn lists_and_signatures_reach_the_client_and_nothing_else_does() {
        let parent = tempfile::tempdir().unwrap();
        let (session, client) = client();
        let access = MountAccess {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            ..ACCESS
        };
        let socket = AgentSocket::open(&session, "default", &access, parent.path()).unwrap();
        let mode = std::fs::metadata(socket.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o620);
        let mut stream = UnixStream::connect(socket.path()).await.unwrap();
        assert_eq!(exchange(&mut stream, &[11]).await, [12, 0, 0, 0, 0]);
        // Add, remove, remove all, lock, an extension.
        for refused in [&[17, 1][..], &[18, 1], &[19], &[22, 0], &[27, 0]] {
            assert_eq!(exchange(&mut stream, refused).await, agent::FAILURE);
        }
        assert_eq!(exchange(&mut stream, &[13, 7]).await, [12, 0, 0, 0, 0]);
        stream.write_all(&[255; 4]).await.unwrap();
        assert!(
            receive(&mut stream).await.unwrap().is_none(),
            "too long a request ends the connection"
        );
        socket.close().await.unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        drop(session);
        assert_eq!(client.await.unwrap(), [vec![11], vec![13, 7]]);
    }

    #[tokio::test]
    async fn a_client_that_left_is_an_agent_that_refuses() {
        let parent = tempfile::tempdir().unwrap();
        let (session, client) = client();
        session.close();
        assert_eq!(answer(&session, "default", vec![11]).await, agent::FAILURE);
        drop((session, parent));
        assert!(client.await.unwrap().is_empty());
    }
}
