//! Files of a client that is elsewhere: asked for many at a time, in the order in which a layer has them, and only those that
//! the last result of the same step does not have.
//!
//! One question names up to [`BATCH_FILES`] files; their bytes come one after the other and are read as the layer is written.
//! Answers that nobody reads would hold up all others on the stream, so there is one question at a time, and whoever reads in
//! another order ends it: from then on each file has a question of its own.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::tree::{EntryKind, RelPath};
use tokio::runtime::Handle;

use crate::layer::entry::{Content, Open};
use crate::layers::KnownFiles;
use crate::session::{FileAnswers, Session};

/// Files of one question.
const BATCH_FILES: usize = 1024;
/// Bytes of the paths in one question; a message of a megabyte is still taken by everybody.
const BATCH_PATH_BYTES: usize = 512 << 10;

/// A context of a client.
pub struct Remote {
    session: Arc<Session>,
    context: Arc<str>,
    /// For threads that wait for the client.
    runtime: Handle,
    known: Option<KnownFiles>,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    /// In the order in which they will most likely be read.
    paths: Vec<RelPath>,
    batch: Batch,
}

/// The question whose answers are being read.
#[derive(Default)]
enum Batch {
    /// There is none.
    #[default]
    Idle,
    /// The next bytes are those of one file.
    Before(Answers),
    /// Somebody reads a file of it.
    Lent,
    /// The order was another one.
    Scattered,
}

struct Answers {
    answers: FileAnswers,
    /// Position in [`Wanted::paths`] of the first file of the question, of the next, and behind the last.
    first: usize,
    next: usize,
    end: usize,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.context)
    }
}

impl Remote {
    /// The context `context` of the client behind `session`; `known` are files that need not come from there. To be made where
    /// the runtime is.
    #[must_use]
    pub fn new(session: &Arc<Session>, context: &str, known: Option<KnownFiles>) -> Arc<Self> {
        Arc::new(Self {
            session: Arc::clone(session),
            context: context.into(),
            runtime: Handle::current(),
            known,
            wanted: Mutex::default(),
        })
    }

    /// The bytes of the file at `path`, whose entry is of `kind`. Files are best read in the order of these calls.
    #[must_use]
    pub fn content(self: &Arc<Self>, path: &RelPath, kind: &EntryKind) -> Content {
        let is_known = self.known.as_ref().is_some_and(|known| known.has(kind));
        let position = (!is_known).then(|| {
            let mut wanted = self.wanted();
            wanted.paths.push(path.clone());
            wanted.paths.len() - 1
        });
        Content::Stream(Arc::new(RemoteFile {
            remote: Arc::clone(self),
            path: path.clone(),
            kind: kind.clone(),
            position,
        }))
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, paths: &[RelPath]) -> io::Result<FileAnswers> {
        tracing::debug!(
            context = &*self.context,
            files = paths.len(),
            "the client is asked for files"
        );
        let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let asked = self.runtime.block_on(self.session.read_files(&self.context, paths));
        asked.map_err(io::Error::other)
    }

    /// The answers that begin with the file at `position`; nothing if it needs a question of its own.
    fn borrow(&self, position: usize) -> io::Result<Option<Answers>> {
        let mut wanted = self.wanted();
        match std::mem::replace(&mut wanted.batch, Batch::Lent) {
            Batch::Before(answers) if answers.next == position => Ok(Some(answers)),
            Batch::Idle => {
                let paths = batch(&wanted.paths[position..]);
                let (asked, end) = (self.ask(paths), position + paths.len());
                if asked.is_err() {
                    wanted.batch = Batch::Idle;
                }
                Ok(Some(Answers {
                    answers: asked?,
                    first: position,
                    next: position,
                    end,
                }))
            }
            Batch::Before(_) | Batch::Scattered => {
                wanted.batch = Batch::Scattered;
                Ok(None)
            }
            Batch::Lent => Ok(None),
        }
    }

    fn give_back(&self, answers: Option<Answers>) {
        self.wanted().batch = match answers {
            Some(answers) if answers.next < answers.end => Batch::Before(answers),
            _ => Batch::Idle,
        };
    }
}

/// As much of `paths` as one question may name.
fn batch(paths: &[RelPath]) -> &[RelPath] {
    let mut bytes = 0;
    let fits = |path: &&RelPath| {
        bytes += path.as_bytes().len();
        bytes <= BATCH_PATH_BYTES
    };
    let length = paths.iter().take(BATCH_FILES).take_while(fits).count();
    &paths[..length.max(1)]
}

/// One file.
struct RemoteFile {
    remote: Arc<Remote>,
    path: RelPath,
    kind: EntryKind,
    /// In [`Wanted::paths`]; nothing for what is known.
    position: Option<usize>,
}

impl Open for RemoteFile {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let known = self.remote.known.as_ref().and_then(|known| known.open(&self.kind));
        if let Some(known) = known {
            return Ok(known);
        }
        let lent = match self.position {
            Some(position) => self.remote.borrow(position)?,
            None => None,
        };
        let lender = lent.is_some().then(|| Arc::clone(&self.remote));
        let answers = match lent {
            Some(answers) => answers,
            None => Answers {
                answers: self.remote.ask(std::slice::from_ref(&self.path))?,
                first: 0,
                next: 0,
                end: 1,
            },
        };
        Ok(Box::new(RemoteReader {
            lender,
            answers: Some(answers),
            piece: Vec::new(),
            given: 0,
        }))
    }
}

/// Reads one file out of the answers to a question.
struct RemoteReader {
    /// Who wants the answers back.
    lender: Option<Arc<Remote>>,
    /// Nothing at the end of the file.
    answers: Option<Answers>,
    piece: Vec<u8>,
    given: usize,
}

impl RemoteReader {
    /// The next bytes into `piece`; none at the end of the file.
    fn refill(&mut self) -> io::Result<()> {
        (self.piece, self.given) = (Vec::new(), 0);
        let Some(mut answers) = self.answers.take() else {
            return Ok(());
        };
        let piece = answers.answers.blocking_piece().map_err(io::Error::other)?;
        let piece = piece.ok_or_else(|| io::Error::other("the client did not send all files that were asked for"))?;
        if usize::try_from(piece.index).ok() != Some(answers.next - answers.first) {
            return Err(io::Error::other("the client sends files in another order"));
        }
        self.piece = piece.data;
        if piece.end_of_file {
            answers.next += 1;
            if let Some(lender) = self.lender.take() {
                lender.give_back(Some(answers));
            }
        } else {
            self.answers = Some(answers);
        }
        Ok(())
    }
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.piece.len() {
            if self.answers.is_none() {
                return Ok(0);
            }
            self.refill()?;
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

impl Drop for RemoteReader {
    /// Who stops in the middle of a file has spoiled the rest of the answers.
    fn drop(&mut self) {
        if let Some(lender) = self.lender.take() {
            lender.give_back(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::digest::ContentDigest;
    use proto::v1::{self, client_message::Body as Answer, server_message::Body as Question};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;

    type Files = BTreeMap<RelPath, Vec<u8>>;

    /// A client with `files`, which says how many of them each question named. Like a stream, it waits for whoever does not read.
    fn client(files: Files) -> (Arc<Session>, JoinHandle<Vec<usize>>) {
        let (questions, mut asked) = mpsc::channel::<v1::ServerMessage>(4);
        let session = Session::new(v1::Hello::default(), questions, false);
        let weak = Arc::downgrade(&session);
        let client = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(message) = asked.recv().await {
                let Some(Question::ReadFiles(asked)) = message.body else {
                    panic!("another question")
                };
                seen.push(asked.paths.len());
                for (index, path) in asked.paths.iter().enumerate() {
                    let bytes = &files[&RelPath::clean(path)];
                    let (first, rest) = bytes.split_at(bytes.len() / 2);
                    for (data, end_of_file) in [(first, false), (rest, true)] {
                        let file = v1::FileContent {
                            index: u32::try_from(index).unwrap(),
                            data: data.to_vec(),
                            end_of_file,
                        };
                        let answer = v1::ClientMessage {
                            request_id: message.request_id,
                            last: end_of_file && index + 1 == asked.paths.len(),
                            body: Some(Answer::File(file)),
                        };
                        weak.upgrade().unwrap().deliver(answer).await;
                    }
                }
            }
            seen
        });
        (session, client)
    }

    fn files(count: usize) -> Files {
        let name = |number: usize| RelPath::clean(format!("{number:05}").as_bytes());
        (0..count)
            .map(|number| (name(number), vec![b'x'; number % 7]))
            .collect()
    }

    fn kind(bytes: &[u8]) -> EntryKind {
        EntryKind::File {
            size: bytes.len() as u64,
            content: ContentDigest::of(bytes),
        }
    }

    /// Reads what `remote` has of `files`, in the order of `reading`, and says how many files each question named.
    async fn read(
        files: Files,
        reading: impl FnOnce(Vec<(Content, Vec<u8>)>) -> Vec<(Content, Vec<u8>)>,
    ) -> Vec<usize> {
        let (session, client) = client(files.clone());
        let remote = Remote::new(&session, "context", None);
        let contents = files
            .iter()
            .map(|(path, bytes)| (remote.content(path, &kind(bytes)), bytes.clone()));
        let contents = reading(contents.collect());
        let read = move || {
            for (content, expected) in contents {
                let Content::Stream(stream) = content else {
                    panic!("no stream")
                };
                let mut bytes = Vec::new();
                stream.open().unwrap().read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, expected);
            }
        };
        tokio::task::spawn_blocking(read).await.unwrap();
        drop((remote, session));
        client.await.unwrap()
    }

    #[tokio::test]
    async fn files_are_asked_for_many_at_a_time() {
        let all = read(files(2 * BATCH_FILES + 1), |contents| contents).await;
        assert_eq!(all, [BATCH_FILES, BATCH_FILES, 1]);
    }

    #[tokio::test]
    async fn another_order_costs_time_and_nothing_else() {
        let backwards = |mut contents: Vec<_>| {
            contents.reverse();
            contents
        };
        let asked = read(files(100), backwards).await;
        assert_eq!(asked, [vec![1, 2], vec![1; 98]].concat());
        let crossed = |mut contents: Vec<_>| {
            contents.swap(10, 90);
            contents
        };
        assert_eq!(read(files(100), crossed).await, [vec![100], vec![1; 90]].concat());
    }

    #[tokio::test]
    async fn long_paths_make_short_questions() {
        let long = |number: usize| RelPath::clean(format!("{}/{number:03}", "d/".repeat(2000)).as_bytes());
        let files = (0..300).map(|number| (long(number), vec![1])).collect();
        let all = read(files, |contents| contents).await;
        assert_eq!(all.iter().sum::<usize>(), 300);
        assert!(
            all.len() > 1 && all.iter().all(|&count| count * 4000 <= BATCH_PATH_BYTES),
            "{all:?}"
        );
    }
}
