//! Every step of keeping snapshots, stopped: by a kill, by a loss of power, by a disk that fails once.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use builder::snapshot::overlay::OverlaySnapshotter;
use builder::snapshot::{SnapshotError, Snapshotter};
use cache::durable::{Faults, Step};
use proto::digest::{ChainId, Digest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// From this step on nothing happens.
    Kill,
    /// The same, and what was not synced is lost.
    PowerCut,
    /// This step fails, and all others work.
    BadDisk,
}

/// Fails at a step, and knows which files a disk has for sure.
#[derive(Debug)]
struct Tape {
    root: PathBuf,
    fails_at: usize,
    failure: Failure,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    steps: usize,
    /// A sync has begun, and is done when the next step begins.
    syncing: Option<BTreeSet<PathBuf>>,
    durable: BTreeSet<PathBuf>,
}

impl Faults for Tape {
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let at = state.steps;
        state.steps += 1;
        if at == self.fails_at || (at > self.fails_at && self.failure != Failure::BadDisk) {
            return Err(io::Error::other("stopped"));
        }
        if let Some(synced) = state.syncing.take() {
            state.durable.extend(synced);
        }
        match step {
            Step::SyncFs => state.syncing = Some(files_below(&self.root)),
            Step::Rename { from, to } => {
                let moved: BTreeSet<PathBuf> = state
                    .durable
                    .iter()
                    .filter_map(|file| Some(to.join(file.strip_prefix(from).ok()?)))
                    .collect();
                state.durable.extend(moved);
            }
            _ => {}
        }
        Ok(())
    }
}

fn files_below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => drop(files.insert(path)),
        }
    }
    files
}

fn chain(name: &str) -> ChainId {
    ChainId(Digest::of(name.as_bytes()))
}

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Commits a snapshot with a file that holds its name.
fn commit(snapshots: &OverlaySnapshotter, parents: &[ChainId], name: &str) -> Result<(), SnapshotError> {
    let active = snapshots.prepare(parents)?;
    std::fs::write(active.upper.join("file"), name).unwrap();
    snapshots.commit(active, &chain(name))
}

/// What a server does; returns what must survive.
fn scenario(snapshots: &OverlaySnapshotter) -> BTreeSet<&'static str> {
    let mut promised = BTreeSet::new();
    let one = commit(snapshots, &[], "one").and_then(|()| snapshots.sync());
    promised.extend(one.is_ok().then_some("one"));
    let two = commit(snapshots, &[chain("one")], "two");
    let again = commit(snapshots, &[chain("one")], "two");
    let abandoned = snapshots.prepare(&[]).and_then(|active| snapshots.abandon(active));
    let synced = snapshots.sync();
    promised.extend((two.is_ok() && synced.is_ok()).then_some("two"));
    promised.remove("one");
    let removed = snapshots.remove(&chain("one"));
    let three = commit(snapshots, &[], "three");
    // What fails here is not promised; whether it is whole is asked afterwards.
    drop((again, abandoned, removed, three));
    promised
}

/// Stops the scenario at one step after the other, and asserts that the next owner of the store sees whole snapshots only.
fn stopped_everywhere(failure: Failure) {
    let mut fails_at = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("snapshots");
        std::fs::create_dir(&root).unwrap();
        let tape = Arc::new(Tape {
            root: root.clone(),
            fails_at,
            failure,
            state: Mutex::default(),
        });
        let open = |boot: &str| OverlaySnapshotter::open(&root).unwrap().on_boot(Some(boot.to_owned()));
        let promised = scenario(&open("first").telling(Arc::clone(&tape) as Arc<dyn Faults>));
        let told = format!("{failure:?} at step {fails_at}");
        let state = tape.state.lock().unwrap();
        if failure == Failure::PowerCut {
            for lost in files_below(&root).difference(&state.durable) {
                std::fs::write(lost, "").unwrap();
            }
        }
        let boot = if failure == Failure::PowerCut {
            "second"
        } else {
            "first"
        };
        check(&open(boot), &promised, &told);
        if state.steps <= fails_at {
            assert!(fails_at > 12, "only {fails_at} steps were tried");
            return;
        }
        fails_at += 1;
    }
}

fn check(next_owner: &OverlaySnapshotter, promised: &BTreeSet<&str>, told: &str) {
    next_owner.sweep().unwrap();
    assert_eq!(next_owner.others().unwrap(), [""; 0], "{told}: something is left");
    for name in NAMES {
        let there = next_owner.contains(&chain(name));
        assert!(there || !promised.contains(name), "{told}: {name} was promised");
        if there {
            let file = next_owner.layer_dir(&chain(name)).join("file");
            assert_eq!(std::fs::read_to_string(file).unwrap(), name, "{told}: {name} is torn");
        }
    }
    // The store is as good as a new one.
    commit(next_owner, &[], "after").unwrap();
    next_owner.sync().unwrap();
    assert!(next_owner.contains(&chain("after")), "{told}");
}

#[test]
fn a_kill_at_any_step_leaves_whole_snapshots_only() {
    stopped_everywhere(Failure::Kill);
}

#[test]
fn a_loss_of_power_at_any_step_leaves_whole_snapshots_only() {
    stopped_everywhere(Failure::PowerCut);
}

#[test]
fn a_step_that_fails_once_leaves_whole_snapshots_only() {
    stopped_everywhere(Failure::BadDisk);
}
