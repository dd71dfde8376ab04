//! Small files of a layer, read and digested by several threads before the tar wants them.
//!
//! A layer of many small files is opening and closing, and one thread that does it leaves SHA-256, the slowest part, without work.
//! The order of the tar stays: files are read in batches, and batches are taken in their order. Few files start no thread.

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use proto::digest::ContentDigest;
use proto::tree::EntryKind;

use super::entry::{Content, LayerEntry};
use super::tar::{LayerWriteError, open, same_digest};

/// Larger files are read where they are written.
const SMALL_BYTES: u64 = 64 << 10;
/// A batch ends with the file that reaches one of these.
const BATCH_BYTES: u64 = 512 << 10;
const BATCH_FILES: usize = 64;
/// Batches that are read or wait to be taken, for each thread; with their bytes they bound the memory.
const BATCHES_A_THREAD: usize = 3;
const MOST_THREADS: usize = 4;

/// A file that was read.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: ContentDigest,
}

type Bodies = Vec<Result<Body, LayerWriteError>>;

struct Job<'a> {
    files: &'a [usize],
    reply: SyncSender<Bodies>,
}

/// The small files of a layer, in its order.
pub(super) struct Ahead<'a> {
    jobs: Option<Sender<Job<'a>>>,
    /// Indices of files, batch by batch, that no thread was asked for.
    left: VecDeque<&'a [usize]>,
    /// Batches that threads were asked for.
    asked: VecDeque<(&'a [usize], Receiver<Bodies>)>,
    /// The batch that is being taken.
    taken: VecDeque<(usize, Result<Body, LayerWriteError>)>,
    most_asked: usize,
}

/// Does `work` while threads read the small files of `entries`.
pub(super) fn with<T>(entries: &[&LayerEntry], work: impl FnOnce(&mut Ahead<'_>) -> T) -> T {
    let (files, batches) = plan(entries);
    let batches: Vec<&[usize]> = batches.into_iter().map(|batch| &files[batch]).collect();
    let (jobs, queue) = channel();
    let queue = Mutex::new(queue);
    let is_worth_it = batches.len() > 1;
    let threads = match is_worth_it {
        true => thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(MOST_THREADS),
        false => 0,
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| serve(&queue, entries));
        }
        let mut ahead = Ahead {
            jobs: Some(jobs),
            left: if is_worth_it { batches.into() } else { VecDeque::new() },
            asked: VecDeque::new(),
            taken: VecDeque::new(),
            most_asked: threads * BATCHES_A_THREAD,
        };
        let done = work(&mut ahead);
        // Threads end when nothing more can be asked for.
        ahead.jobs = None;
        done
    })
}

/// The small files, and where a batch of them begins and ends.
fn plan(entries: &[&LayerEntry]) -> (Vec<usize>, Vec<Range<usize>>) {
    let (mut files, mut batches) = (Vec::new(), Vec::new());
    let (mut start, mut bytes) = (0, 0);
    for (index, source) in entries.iter().enumerate() {
        let Some(size) = small(source) else { continue };
        files.push(index);
        bytes += size;
        if bytes >= BATCH_BYTES || files.len() - start >= BATCH_FILES {
            batches.push(start..files.len());
            (start, bytes) = (files.len(), 0);
        }
    }
    if start < files.len() {
        batches.push(start..files.len());
    }
    (files, batches)
}

/// The size of a small file of this machine.
fn small(source: &LayerEntry) -> Option<u64> {
    let is_here = matches!(
        source.content,
        Content::File { .. } | Content::Unhashed { .. } | Content::Snapshot { .. }
    );
    match source.entry.kind {
        EntryKind::File { size, .. } if is_here && size <= SMALL_BYTES => Some(size),
        _ => None,
    }
}

fn serve(queue: &Mutex<Receiver<Job<'_>>>, entries: &[&LayerEntry]) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { files, reply }) = job else { return };
        let bodies = files.iter().map(|index| read(entries[*index])).collect();
        if reply.send(bodies).is_err() {
            // The layer is given up.
            return;
        }
    }
}

impl Ahead<'_> {
    /// The file at `index` of the entries, which must be asked for in order; nothing if it is not read ahead.
    pub(super) fn take(&mut self, index: usize) -> Option<Result<Body, LayerWriteError>> {
        if self.taken.is_empty() {
            self.ask();
            let (files, reply) = self.asked.pop_front_if(|(files, _)| files.contains(&index))?;
            // A thread that vanished has nothing to say; then the file is read where it is written.
            let bodies = reply.recv().unwrap_or_default();
            self.taken = files.iter().copied().zip(bodies).collect();
            self.ask();
        }
        let (_, body) = self.taken.pop_front_if(|(next, _)| *next == index)?;
        Some(body)
    }

    fn ask(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        while self.asked.len() < self.most_asked
            && let Some(files) = self.left.pop_front()
        {
            let (reply, answer) = sync_channel(1);
            if jobs.send(Job { files, reply }).is_err() {
                return;
            }
            self.asked.push_back((files, answer));
        }
    }
}

/// Reads a file whole: it must have the size that its entry says, and the digest if that is known.
fn read(source: &LayerEntry) -> Result<Body, LayerWriteError> {
    let path = &source.entry.path;
    let failed = |source| LayerWriteError::Read {
        path: path.clone(),
        source,
    };
    let changed = || LayerWriteError::Changed(path.clone());
    let size = usize::try_from(small(source).ok_or_else(changed)?).map_err(|_| changed())?;
    let mut reader = open(&source.content).map_err(failed)?;
    // One more than there should be: a file that grew shows it.
    let mut bytes = vec![0; size + 1];
    let mut length = 0;
    while length <= size {
        match reader.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if length != size {
        return Err(changed());
    }
    bytes.truncate(size);
    let digest = same_digest(source, ContentDigest::of(&bytes))?;
    Ok(Body { bytes, digest })
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::Arc;

    use proto::digest::ContentDigest;
    use proto::tree::{RelPath, Timestamp, TreeEntry};

    use super::super::tar::{WrittenLayer, write};
    use super::*;

    /// More than one batch, with a large file now and then.
    const FILES: usize = 300;

    fn bytes_of(number: usize) -> Vec<u8> {
        let length = if number % 50 == 7 {
            80 << 10
        } else {
            number * 7919 % 9001
        };
        vec![u8::try_from(number % 251).unwrap(); length]
    }

    /// Every third one needs an extended header.
    fn name_of(number: usize) -> String {
        match number % 3 {
            0 => format!("f{number:03}é"),
            _ => format!("f{number:03}"),
        }
    }

    fn entry(number: usize, content: Content) -> LayerEntry {
        let bytes = bytes_of(number);
        let kind = EntryKind::File {
            size: bytes.len() as u64,
            content: ContentDigest::of(&bytes),
        };
        let entry = TreeEntry {
            path: RelPath::clean(name_of(number).as_bytes()),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        LayerEntry { entry, content }
    }

    /// The files on disk, their digests known or not.
    fn on_disk(dir: &Path, is_known: bool) -> Vec<LayerEntry> {
        let root = Arc::new(OwnedFd::from(std::fs::File::open(dir).unwrap()));
        let content = |number| {
            let (root, path) = (Arc::clone(&root), name_of(number).into());
            match is_known {
                true => Content::File { root, path },
                false => Content::Unhashed { root, path },
            }
        };
        (0..FILES).map(|number| entry(number, content(number))).collect()
    }

    fn fill(dir: &Path) {
        for number in 0..FILES {
            std::fs::write(dir.join(name_of(number)), bytes_of(number)).unwrap();
        }
    }

    fn written(entries: &[LayerEntry]) -> Result<(Vec<u8>, WrittenLayer), LayerWriteError> {
        let mut tar = Vec::new();
        let layer = write(entries, None, &mut tar)?;
        Ok((tar, layer))
    }

    #[test]
    fn what_is_read_ahead_gives_the_bytes_of_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let inline: Vec<LayerEntry> = (0..FILES)
            .map(|number| entry(number, Content::Inline(bytes_of(number).into())))
            .collect();
        let expected = written(&inline).unwrap();
        for is_known in [true, false] {
            let found = written(&on_disk(dir.path(), is_known)).unwrap();
            assert!(found == expected, "known digests: {is_known}");
        }
        let mut read = ::tar::Archive::new(expected.0.as_slice());
        let names = read
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path_bytes().into_owned());
        let names: Vec<Vec<u8>> = names.collect();
        assert_eq!(
            names,
            (0..FILES)
                .map(|number| name_of(number).into_bytes())
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_file_that_changed_is_named_whichever_thread_read_it() {
        let dir = tempfile::tempdir().unwrap();
        for (number, bytes) in [(3, bytes_of(4)), (170, Vec::new()), (299, vec![0; bytes_of(299).len()])] {
            fill(dir.path());
            std::fs::write(dir.path().join(name_of(number)), bytes).unwrap();
            let error = written(&on_disk(dir.path(), true)).unwrap_err();
            let LayerWriteError::Changed(path) = error else {
                panic!("{error}")
            };
            assert_eq!(path, RelPath::clean(name_of(number).as_bytes()));
        }
    }
}
