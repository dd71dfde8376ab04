//! `--ssh`: the SSH agents that a build may use, and one request to one of them.
//!
//! Only listing keys and signing reach an agent; everything else is refused here, whatever the server thinks of it. Requests do not
//! depend on one another, so each has a connection of its own and no state is kept.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::config::Environment;
use crate::exit::Problem;
use crate::key_agent::KeyAgent;
use crate::values;

/// How long an agent may take: people confirm signatures, type passphrases and touch keys.
const PATIENCE: Duration = Duration::from_secs(120);

/// Agents, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Agents(BTreeMap<String, Lent>);

impl Agents {
    /// Parses all `--ssh` flags, looks whether an agent listens at each socket, and starts agents for key files.
    ///
    /// # Errors
    /// An agent that is not there; a key that cannot be used.
    pub(crate) fn read(flags: &[String], environment: &Environment) -> Result<Self, Problem> {
        let mut agents = BTreeMap::new();
        for flag in flags {
            let (id, lent) = read_one(flag, environment)?;
            if agents.insert(id.clone(), lent).is_some() {
                return Err(Problem::usage(format!("--ssh: `{id}` is given twice")));
            }
        }
        Ok(Self(agents))
    }

    /// Remarks for the user: agents that hold no keys, and so can do nothing for a build.
    pub(crate) async fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for id in self.ids() {
            match self.ask(id, agent::LIST).await {
                Ok(reply) if agent::key_count(&reply) == Some(0) => remarks.push(format!(
                    "warning: --ssh: the agent `{id}` holds no keys: add one with `ssh-add`"
                )),
                Ok(_) => {}
                Err(reason) => remarks.push(format!("warning: --ssh: {reason}")),
            }
        }
        remarks
    }

    /// The ids, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Passes a request on and returns the answer, both without their lengths. Waits for people; may be dropped at any time.
    ///
    /// # Errors
    /// Words for the user: there is no such agent, it cannot be reached, or it says what no agent says.
    pub(crate) async fn ask(&self, id: &str, request: &[u8]) -> Result<Vec<u8>, String> {
        let shown = id.escape_debug();
        let Some(lent) = self.0.get(id) else {
            return Err(format!("there is no SSH agent `{shown}`: lend it with `--ssh {shown}`"));
        };
        if !agent::is_permitted(request) {
            return Ok(agent::FAILURE.to_vec());
        }
        let answered = tokio::time::timeout(PATIENCE, async {
            exchange(UnixStream::connect(&lent.socket).await?, request).await
        });
        let answered = answered.await.unwrap_or_else(|late| Err(late.into()));
        answered.map_err(|error| format!("the SSH agent `{shown}`: {error}"))
    }
}

/// An agent that a build may use.
#[derive(Debug)]
struct Lent {
    socket: PathBuf,
    /// Holds key files that were named instead of a socket; ends with this.
    _own: Option<KeyAgent>,
}

/// `ID`, `ID=SOCKET` or `ID=KEY[,KEY…]`; with neither the agent is that of the environment.
fn read_one(flag: &str, environment: &Environment) -> Result<(String, Lent), Problem> {
    let (id, paths) = flag.split_once('=').unwrap_or((flag, ""));
    if id.is_empty() {
        return Err(Problem::usage(format!("--ssh: `{flag}` has no id")).help("use `--ssh default`"));
    }
    let mut paths: Vec<PathBuf> = match paths {
        "" => Vec::new(),
        paths => values::csv(paths)?.into_iter().map(PathBuf::from).collect(),
    };
    if paths.is_empty() {
        let socket = environment.var_os("SSH_AUTH_SOCK").ok_or_else(|| {
            Problem::usage(format!("--ssh: `{id}`: no agent runs: SSH_AUTH_SOCK is not set")).help(format!(
                "start one with `eval $(ssh-agent)`, or name key files: `--ssh {id}=FILE`"
            ))
        })?;
        paths.push(PathBuf::from(socket));
    }
    let sockets = paths
        .iter()
        .map(|path| is_socket(id, path))
        .collect::<Result<Vec<_>, _>>()?;
    let (socket, own) = match (paths.as_slice(), sockets.contains(&true)) {
        ([socket], true) => (socket.clone(), None),
        (_, true) => {
            return Err(Problem::usage(format!(
                "--ssh: `{id}`: one socket or any number of key files, not both"
            )));
        }
        (keys, false) => {
            let own = KeyAgent::start(id, keys)?;
            (own.socket().to_owned(), Some(own))
        }
    };
    // Whether somebody listens.
    match std::os::unix::net::UnixStream::connect(&socket) {
        Ok(_) => Ok((id.to_owned(), Lent { socket, _own: own })),
        Err(error) => Err(unusable(id, &socket, &error)),
    }
}

fn is_socket(id: &str, path: &Path) -> Result<bool, Problem> {
    let found = std::fs::metadata(path).map_err(|error| unusable(id, path, &error))?;
    let kind = found.file_type();
    if kind.is_socket() || kind.is_file() {
        return Ok(kind.is_socket());
    }
    Err(unusable(
        id,
        path,
        &io::Error::other("it is neither a socket nor a key file"),
    ))
}

fn unusable(id: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::usage(format!("--ssh: `{id}`: `{}`: {error}", path.display()))
}

async fn exchange(mut stream: UnixStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(&agent::frame(request)).await?;
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not speak the protocol of SSH agents",
        )
    };
    let mut reply = vec![0; agent::length(header).ok_or_else(wrong)?];
    stream.read_exact(&mut reply).await?;
    if agent::is_reply(&reply) {
        Ok(reply)
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// An agent that gives these answers, one a connection, and then tells what it was asked. Connections that ask nothing do not
    /// count.
    fn agent_at(path: &Path, answers: &'static [&'static [u8]]) -> JoinHandle<Vec<Vec<u8>>> {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while asked.len() < answers.len() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut header = [0; 4];
                if stream.read_exact(&mut header).await.is_err() {
                    continue;
                }
                let mut request = vec![0; agent::length(header).unwrap()];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&agent::frame(answers[asked.len()])).await.unwrap();
                asked.push(request);
            }
            asked
        })
    }

    fn read(flag: &str, pairs: &[(&str, &str)]) -> Result<Agents, Problem> {
        Agents::read(&[flag.to_owned()], &Environment::of(pairs))
    }

    #[tokio::test]
    async fn an_agent_is_asked_for_lists_and_signatures_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let agent = agent_at(&path, &[&[14, 9], &[6]]);
        let agents = read("default", &[("SSH_AUTH_SOCK", path.to_str().unwrap())]).unwrap();
        assert_eq!(agents.ids().collect::<Vec<_>>(), ["default"]);
        assert_eq!(agents.ask("default", &[13, 1]).await.unwrap(), [14, 9]);
        assert_eq!(agents.ask("default", &[19]).await.unwrap(), agent::FAILURE);
        let no_list = agents.ask("default", &[11]).await.unwrap_err();
        assert!(no_list.contains("does not speak the protocol"), "{no_list}");
        let other = agents.ask("other", &[11]).await.unwrap_err();
        assert!(other.contains("--ssh other"), "{other}");
        assert_eq!(agent.await.unwrap(), [vec![13, 1], vec![11]]);
    }

    #[tokio::test]
    async fn an_agent_without_keys_is_remarked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let agent = agent_at(&path, &[&[12, 0, 0, 0, 0], &[12, 0, 0, 0, 1]]);
        let agents = read(&format!("a={}", path.display()), &[]).unwrap();
        let remarks = agents.remarks().await;
        assert_eq!(
            remarks,
            ["warning: --ssh: the agent `a` holds no keys: add one with `ssh-add`"]
        );
        assert_eq!(agents.remarks().await, Vec::<String>::new());
        agent.await.unwrap();
    }

    #[test]
    fn agents_that_are_not_there_fail_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (key, deaf) = (at("id_ed25519"), at("deaf"));
        std::fs::write(&key, "key").unwrap();
        drop(std::os::unix::net::UnixListener::bind(&deaf).unwrap());
        for (flag, words) in [
            ("default", "SSH_AUTH_SOCK is not set"),
            ("=x", "has no id"),
            ("a=/no/such/socket", "`/no/such/socket`: No such file"),
            ("a=/dev/null", "neither a socket nor a key file"),
            (&format!("a={deaf}"), "Connection refused"),
            (&format!("a={key},{deaf}"), "not both"),
            (&format!("a={deaf},{deaf}"), "not both"),
        ] {
            let problem = read(flag, &[]).unwrap_err();
            assert!(problem.message.contains(words), "{flag}: {}", problem.message);
        }
    }
}
