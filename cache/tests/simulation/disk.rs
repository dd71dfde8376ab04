//! A disk that remembers every step of writing, and what a loss of power may leave of it.
//!
//! What is written reaches the real disk of the test as always; beside it goes a tape. From any beginning of the tape a state can
//! be made that the machine could come up with: bytes that were not synced are there, cut off, zeros, or page by page one of these;
//! names that were not synced are as before or as after. A journal in order keeps the first so many changes of names; a loose one
//! keeps any of them, but never half of a rename, and no directory goes before what was in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cache::durable::{Faults, Step};

/// Bytes that are torn as one: small, so that small files are torn too.
const PAGE: usize = 16;

/// A step, its paths below the root.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    MakeDir(PathBuf),
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
    SyncFs,
    Remove(PathBuf),
}

/// A step that fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Its number.
    pub(crate) at: usize,
    /// How.
    pub(crate) kind: io::ErrorKind,
    /// Whether all later ones fail as well.
    pub(crate) lasting: bool,
}

/// Remembers the steps of one process; lets some of them fail.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    root: PathBuf,
    ops: Mutex<Vec<Op>>,
    seen: Mutex<usize>,
    failure: Mutex<Option<Failure>>,
}

impl Tape {
    pub(crate) fn new(root: &Path, failure: Option<Failure>) -> Self {
        Self {
            root: root.to_owned(),
            failure: Mutex::new(failure),
            ..Self::default()
        }
    }

    /// From now on nothing fails.
    pub(crate) fn heal(&self) {
        *self.failure.lock().unwrap() = None;
    }

    /// Number of steps that happened.
    pub(crate) fn position(&self) -> usize {
        self.ops.lock().unwrap().len()
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap().clone()
    }

    fn fails(&self) -> Option<io::Error> {
        let mut seen = self.seen.lock().unwrap();
        let (number, failure) = (*seen, (*self.failure.lock().unwrap())?);
        *seen += 1;
        let now = number == failure.at || failure.lasting && number > failure.at;
        now.then(|| failure.kind.into())
    }

    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap().to_owned()
    }
}

impl Faults for Tape {
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        let op = match step {
            Step::MakeDir(path) => Op::MakeDir(self.below(path)),
            Step::CreateTemp(path) => Op::Create(self.below(path)),
            Step::Write(path, bytes) => Op::Write(self.below(path), bytes.to_vec()),
            Step::SyncFile(path) => Op::SyncFile(self.below(path)),
            Step::Rename { from, to } => Op::Rename(self.below(from), self.below(to)),
            Step::SyncDir(path) => Op::SyncDir(self.below(path)),
            Step::SyncFs => Op::SyncFs,
            Step::Remove(path) => Op::Remove(self.below(path)),
        };
        let Some(error) = self.fails() else {
            self.ops.lock().unwrap().push(op);
            return Ok(());
        };
        if let Step::Write(path, bytes) = step {
            // As a full disk does it: some of it fits.
            let half = &bytes[..bytes.len() / 2];
            io::Write::write_all(&mut fs::File::options().append(true).open(path).unwrap(), half).unwrap();
        }
        Err(error)
    }
}

/// Numbers that look random and are the same every time.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// How changes of names reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journal {
    /// All of them: the process was killed, the machine lives.
    Kept,
    /// One after the other.
    Ordered,
    /// Each for itself.
    Loose,
}

#[derive(Debug, Clone, Copy)]
enum Node {
    File(usize),
    Directory,
}

/// A change of names.
#[derive(Debug, Clone)]
enum Change {
    MakeDir(PathBuf),
    Place(PathBuf, usize),
    Rename(PathBuf, PathBuf, Vec<usize>),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

type Names = BTreeMap<PathBuf, Node>;

/// What a process saw, and which of it lasts.
#[derive(Debug, Default)]
struct Model {
    files: Vec<File>,
    now: Names,
    durable: Names,
    unsynced: Vec<Change>,
}

impl Model {
    fn take(&mut self, op: &Op) {
        match op {
            Op::MakeDir(path) => {
                for directory in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
                    if !self.now.contains_key(directory) {
                        self.change(Change::MakeDir(directory.to_owned()));
                    }
                }
            }
            Op::Create(path) => {
                self.files.push(File::default());
                self.change(Change::Place(path.clone(), self.files.len() - 1));
            }
            Op::Write(path, bytes) => {
                let file = self.file(path);
                self.files[file].bytes.extend_from_slice(bytes);
            }
            Op::SyncFile(path) => {
                let file = self.file(path);
                self.files[file].synced = self.files[file].bytes.len();
            }
            Op::Rename(from, to) => {
                let files = self.now.iter().filter(|(path, _)| path.starts_with(from));
                let files = files.filter_map(|(_, node)| match node {
                    Node::File(file) => Some(*file),
                    Node::Directory => None,
                });
                let files = files.collect();
                self.change(Change::Rename(from.clone(), to.clone(), files));
            }
            Op::SyncDir(directory) => self.sync_names(|change| match change {
                Change::MakeDir(path) | Change::Place(path, _) | Change::Remove(path) => is_in(path, directory),
                Change::Rename(from, to, _) => is_in(from, directory) || is_in(to, directory),
            }),
            Op::SyncFs => {
                self.sync_names(|_| true);
                for file in &mut self.files {
                    file.synced = file.bytes.len();
                }
            }
            Op::Remove(path) => self.change(Change::Remove(path.clone())),
        }
    }

    fn file(&self, path: &Path) -> usize {
        match self.now.get(path) {
            Some(Node::File(file)) => *file,
            other => panic!("`{}` is {other:?}", path.display()),
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.unsynced.push(change);
    }

    fn sync_names(&mut self, lasts: impl Fn(&Change) -> bool) {
        let lasting = closure(&self.unsynced, self.unsynced.iter().map(lasts).collect());
        let mut rest = Vec::new();
        for (change, lasts) in self.unsynced.drain(..).zip(lasting) {
            if lasts {
                apply(&mut self.durable, &change);
            } else {
                rest.push(change);
            }
        }
        self.unsynced = rest;
    }

    fn names_after(&self, journal: Journal, draw: &mut Draw) -> Names {
        let count = self.unsynced.len();
        let kept = match journal {
            Journal::Kept => return self.now.clone(),
            Journal::Ordered => {
                let first = draw.below(count + 1);
                (0..count).map(|number| number < first).collect()
            }
            Journal::Loose => closure(&self.unsynced, (0..count).map(|_| draw.below(2) == 0).collect()),
        };
        let mut names = self.durable.clone();
        for (change, _) in self.unsynced.iter().zip(kept).filter(|(_, kept)| *kept) {
            apply(&mut names, change);
        }
        names
    }

    /// What is left of the bytes of a file.
    fn torn(&self, file: usize, draw: &mut Draw) -> Vec<u8> {
        let File { bytes, synced } = &self.files[file];
        let mut torn = bytes.clone();
        match draw.below(4) {
            0 => {}
            1 => torn.truncate(synced + draw.below(bytes.len() - synced + 1)),
            2 => torn[*synced..].fill(0),
            _ => {
                for page in torn[*synced..].chunks_mut(PAGE) {
                    match draw.below(3) {
                        0 => {}
                        1 => page.fill(0),
                        // What was there before: of some other file.
                        _ => page.fill(0x5a),
                    }
                }
            }
        }
        torn
    }
}

fn is_in(path: &Path, directory: &Path) -> bool {
    path.parent() == Some(directory)
}

/// `lasting`, and of the changes before these what no file system would be without.
fn closure(changes: &[Change], mut lasting: Vec<bool>) -> Vec<bool> {
    for later in (0..changes.len()).rev() {
        for earlier in 0..later {
            if lasting[later] && stands_on(&changes[later], &changes[earlier]) {
                lasting[earlier] = true;
            }
        }
    }
    lasting
}

/// Whether `later` cannot last without `earlier`: a file is moved from where it was, a directory goes when it is empty.
fn stands_on(later: &Change, earlier: &Change) -> bool {
    match (later, earlier) {
        (Change::Rename(_, _, files), Change::Place(_, file)) => files.contains(file),
        (Change::Rename(_, _, files), Change::Rename(_, _, before)) => files.iter().any(|file| before.contains(file)),
        (Change::Rename(from, ..) | Change::Remove(from), Change::MakeDir(path)) => path.starts_with(from),
        (Change::Remove(gone), Change::Place(path, _) | Change::Remove(path)) => path.starts_with(gone),
        (Change::Remove(gone), Change::Rename(from, to, _)) => from.starts_with(gone) || to.starts_with(gone),
        _ => false,
    }
}

/// Changes `names`.
fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::MakeDir(path) => {
            names.entry(path.clone()).or_insert(Node::Directory);
        }
        Change::Place(path, file) => {
            names.insert(path.clone(), Node::File(*file));
        }
        Change::Rename(from, to, _) => {
            let moved: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in moved {
                let node = names.remove(&path).unwrap();
                let rest = path.strip_prefix(from).unwrap();
                let target = if rest.as_os_str().is_empty() {
                    to.clone()
                } else {
                    to.join(rest)
                };
                names.insert(target, node);
            }
        }
        Change::Remove(path) => names.retain(|other, _| !other.starts_with(path)),
    }
}

/// Makes below `root` what the machine may come up with after the steps `ops`.
pub(crate) fn come_up(ops: &[Op], journal: Journal, draw: &mut Draw, root: &Path) {
    let mut model = Model::default();
    ops.iter().for_each(|op| model.take(op));
    let names = model.names_after(journal, draw);
    for (path, node) in &names {
        let path = root.join(path);
        match node {
            Node::Directory => fs::create_dir_all(path).unwrap(),
            Node::File(file) => {
                // A name may last while the directory's own does not; then nobody finds it.
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let bytes = match journal {
                    Journal::Kept => model.files[*file].bytes.clone(),
                    Journal::Ordered | Journal::Loose => model.torn(*file, draw),
                };
                fs::write(path, bytes).unwrap();
            }
        }
    }
}

#[test]
fn a_state_has_what_was_synced_and_may_lack_the_rest() {
    let path = PathBuf::from;
    let ops = [
        Op::MakeDir(path("d")),
        Op::Create(path("a")),
        Op::Write(path("a"), b"whole".to_vec()),
        Op::SyncFile(path("a")),
        Op::Rename(path("a"), path("d/a")),
        Op::SyncDir(path("d")),
        Op::Create(path("b")),
        Op::Write(path("b"), b"torn?".to_vec()),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let dir = tempfile::tempdir().unwrap();
        come_up(&ops, Journal::Loose, &mut Draw(seed), dir.path());
        assert_eq!(fs::read(dir.path().join("d/a")).unwrap(), b"whole");
        assert!(!dir.path().join("a").exists());
        seen.insert(fs::read(dir.path().join("b")).ok());
    }
    for possible in [None, Some(b"torn?".to_vec()), Some(b"t".to_vec()), Some(vec![0; 5])] {
        assert!(seen.contains(&possible), "{possible:?} never came up");
    }
}
