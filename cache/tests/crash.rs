//! Kill at every step of writing, loss of power, flipped bits, a damaged index: what a store has to survive.
//!
//! Long because every kind of file goes through the same kill, and is compared with the same store.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cache::blob::BlobStore;
use cache::builds::BUILDS_KEPT;
use cache::durable::{Faults, Step, WriteError};
use cache::history::Remembered;
use cache::images::{Image, Variant};
use cache::records::RecordStore;
use cache::store::{OpenError, Options, Store};
use proto::digest::ContentDigest;
use proto::history::{BuildRecord, BuildStep, History, Outcome, PastStep, Series, SeriesName, Verdict};
use proto::oci::{Descriptor, media_type};
use proto::record::{MissReason, Preimage};
use samples::{alias, key, layer, record, tree};

/// Lets some steps happen, then none: from there on the process is dead. Counts syncs.
#[derive(Debug)]
struct Kill {
    left: AtomicUsize,
    syncs: AtomicUsize,
}

impl Kill {
    fn after(steps: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(steps),
            syncs: AtomicUsize::new(0),
        })
    }
}

impl Faults for Kill {
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        if matches!(step, Step::SyncFs | Step::SyncFile(_) | Step::SyncDir(_)) {
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("killed"))
    }
}

fn options(boot: &str, faults: Arc<Kill>) -> Options {
    Options {
        clock: Arc::new(|| 1_000_000),
        boot_id: Some(boot.to_owned()),
        faults,
    }
}

fn reopen(root: &Path, boot: &str) -> Store {
    Store::open(root, &options(boot, Kill::after(usize::MAX))).unwrap()
}

fn image(name: &str) -> Image {
    Image {
        reference: "app:1".parse().unwrap(),
        first: Variant {
            config: layer(name).0,
            platform: "linux/amd64".parse().unwrap(),
            layers: vec![record(name).layer],
            origins: BTreeMap::from([(layer(name), "debian:12".parse().unwrap())]),
        },
        further: Vec::new(),
        index: None,
        created_ms: 5,
    }
}

/// Bytes before what names them, as a build does it.
fn build(store: &Store, name: &str) -> Result<(), WriteError> {
    let blob = store.blobs().put(name.as_bytes());
    blob.map_err(|error| WriteError::new(store.root(), 0, io::Error::other(error)))?;
    store.trees().put(layer(name), &tree(name))?;
    store.records().put_preimage(key(name), &Preimage::default())?;
    store.records().insert(&record(name))?;
    store.records().put_alias(key("alias"), &alias(name))?;
    store.histories().put(ContentDigest::of(b"project"), &history(name))?;
    store.builds().put(&build_record(name))
}

fn past_step(name: &str) -> PastStep {
    PastStep {
        text: ContentDigest::of(name.as_bytes()),
        key: Some(key(name)),
        name: name.to_owned(),
        build_arguments: Vec::new(),
        image: String::new(),
    }
}

fn history(name: &str) -> History {
    History {
        series: vec![Series {
            of: SeriesName {
                stage: "0".to_owned(),
                platform: "linux/amd64".to_owned(),
                image_platform: String::new(),
            },
            schema: 1,
            engine: "1.0.0".to_owned(),
            steps: vec![past_step(name)],
        }],
    }
}

fn build_record(name: &str) -> BuildRecord {
    BuildRecord {
        id: "0f".repeat(16),
        started_ms: 1,
        duration_ms: 2,
        dockerfile: "Dockerfile".to_owned(),
        target: String::new(),
        platforms: Vec::new(),
        names: Vec::new(),
        outcome: Outcome::Success(String::new()),
        steps: vec![BuildStep {
            number: 1,
            line: 2,
            step: past_step(name),
            before: None,
            verdict: Verdict::Cached,
            reason: Default::default(),
            duration_ms: 3,
            diff_ids: Vec::new(),
        }],
    }
}

/// What was promised before the process died.
#[derive(Debug, Default, PartialEq)]
struct Promised {
    records: Vec<&'static str>,
    image: Option<&'static str>,
    finished: bool,
}

fn scenario(root: &Path, faults: Arc<Kill>) -> Promised {
    let mut promised = Promised::default();
    let Ok(store) = Store::open(root, &options("boot-1", faults)) else {
        return promised;
    };
    let mut run = || -> Result<(), WriteError> {
        build(&store, "one")?;
        store.commit_group()?;
        promised.records.push("one");
        store.images().put(&image("one"))?;
        promised.image = Some("one");
        build(&store, "two")?;
        promised.image = None;
        store.images().put(&image("two"))?;
        promised.image = Some("two");
        promised.records.push("two");
        build(&store, "three")?;
        promised.finished = true;
        Ok(())
    };
    // The error is the kill; what had been promised by then is what counts.
    drop(run());
    promised
}

fn check_consistent(store: &Store, promised: &Promised) {
    for name in ["one", "two", "three"] {
        let found = store.records().lookup(&[key(name)]).pop().unwrap();
        assert!(
            found.is_some() || !promised.records.contains(&name),
            "{name} was promised"
        );
        if let Some(found) = found {
            assert_eq!(found, record(name));
            let bytes = store.blobs().read(layer(name).0, 100).unwrap();
            assert_eq!(bytes.as_deref(), Some(name.as_bytes()), "a record before its blob");
            assert_eq!(
                store.trees().tree(layer(name)),
                Some(tree(name)),
                "a record before its tree"
            );
        }
    }
    let found = store.images().image(&"app:1".parse().unwrap());
    if let Some(name) = promised.image {
        assert_eq!(found, Some(image(name)));
    }
    if let Some(found) = found {
        assert!(
            store.blobs().read(found.first.config, 100).unwrap().is_some(),
            "a name before its bytes"
        );
    }
    assert_eq!(
        fs::read_dir(store.root().join("tmp")).unwrap().count(),
        0,
        "a temporary file is left"
    );
    assert!(!store.root().join("quarantine").exists(), "something was damaged");
}

/// What a loss of power may do: everything that was not synced is empty.
fn lose_power(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("pending-") {
            for file in fs::read_dir(path).unwrap() {
                fs::write(file.unwrap().path(), b"").unwrap();
            }
        }
    }
}

fn kill_everywhere(boot_after: &str, power_lost: bool) {
    let mut steps = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let promised = scenario(&root, Kill::after(steps));
        if power_lost {
            lose_power(&root);
        }
        // The one that opens next is killed as well, at some step of settling.
        drop(Store::open(&root, &options(boot_after, Kill::after(steps % 5))));
        check_consistent(&reopen(&root, boot_after), &promised);
        if promised.finished {
            break;
        }
        steps += 1;
    }
    assert!(steps > 40, "only {steps} steps were tried");
}

#[test]
fn a_kill_at_any_step_leaves_a_consistent_store() {
    kill_everywhere("boot-1", false);
}

#[test]
fn a_loss_of_power_at_any_step_keeps_what_was_promised() {
    kill_everywhere("boot-2", true);
}

#[test]
fn results_of_a_killed_process_are_kept_without_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    build(&reopen(&dir.path().join("store"), "boot"), "one").unwrap();
    let store = reopen(&dir.path().join("store"), "boot");
    assert_eq!(store.records().lookup(&[key("one")]), [Some(record("one"))]);
    drop(store);
    build(&reopen(&dir.path().join("store"), "boot"), "two").unwrap();
    let store = reopen(&dir.path().join("store"), "another boot");
    assert_eq!(
        store.records().lookup(&[key("one"), key("two")]),
        [Some(record("one")), None]
    );
}

#[test]
fn a_build_that_finds_everything_syncs_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = reopen(&dir.path().join("store"), "boot");
    build(&store, "one").unwrap();
    store.commit_group().unwrap();
    drop(store);
    // Not one step is allowed.
    let faults = Kill::after(0);
    let store = Store::open(
        &dir.path().join("store"),
        &options("boot", Arc::clone(&faults) as Arc<Kill>),
    )
    .unwrap();
    assert_eq!(store.records().aliases(&[key("alias")]), [Some(alias("one"))]);
    assert!(store.records().lookup(&[key("one")])[0].is_some());
    store.records().put_preimage(key("one"), &Preimage::default()).unwrap();
    store.records().put_alias(key("alias"), &alias("one")).unwrap();
    store.commit_group().unwrap();
    assert_eq!(faults.syncs.load(Ordering::Relaxed), 0);
}

#[test]
fn a_group_is_committed_with_one_syncfs() {
    #[derive(Debug, Default)]
    struct Count(AtomicUsize);
    impl Faults for Count {
        fn before(&self, step: Step<'_>) -> io::Result<()> {
            self.0.fetch_add(usize::from(step == Step::SyncFs), Ordering::Relaxed);
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let count = Arc::new(Count::default());
    let mut options = options("boot", Kill::after(0));
    options.faults = Arc::clone(&count) as Arc<dyn Faults>;
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    for name in ["one", "two", "three"] {
        build(&store, name).unwrap();
    }
    store.commit_group().unwrap();
    store.commit_group().unwrap();
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}

fn known_history(store: &Store) -> Option<String> {
    match store.histories().of(ContentDigest::of(b"project")) {
        Remembered::Steps(history) => Some(format!("{history:?}")),
        Remembered::Lost => None,
        Remembered::Nothing => panic!("it was there once"),
    }
}

#[test]
fn records_of_builds_are_never_waited_for_and_what_is_torn_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let faults = Kill::after(usize::MAX);
    let store = Store::open(&root, &options("boot", Arc::clone(&faults))).unwrap();
    let before = faults.syncs.load(Ordering::Relaxed);
    store.builds().put(&build_record("one")).unwrap();
    store
        .histories()
        .put(ContentDigest::of(b"project"), &history("one"))
        .unwrap();
    store.commit_group().unwrap();
    assert_eq!(faults.syncs.load(Ordering::Relaxed), before, "nothing was pending");
    assert_eq!(store.builds().list().unwrap(), [build_record("one")]);
    drop(store);
    for kind in ["builds", "history"] {
        fs::write(only_file(&root.join(kind)).0, b"").unwrap();
    }
    let store = reopen(&root, "another boot");
    assert!(store.builds().list().unwrap().is_empty());
    let project = ContentDigest::of(b"project");
    assert_eq!(store.histories().of(project), Remembered::Lost);
    store.histories().put(project, &history("two")).unwrap();
    assert_eq!(store.histories().of(project), Remembered::Steps(history("two")));
}

#[test]
fn the_last_builds_are_kept_and_older_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = reopen(&dir.path().join("store"), "boot");
    let count = BUILDS_KEPT + 30;
    for number in 0..count {
        let mut build = build_record("one");
        (build.id, build.started_ms) = (format!("{number:032x}"), number as u64);
        store.builds().put(&build).unwrap();
    }
    let kept = store.builds().list().unwrap();
    assert!((BUILDS_KEPT..BUILDS_KEPT + 20).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept[0].started_ms, count as u64 - 1);
    assert_eq!(kept.last().unwrap().started_ms, (count - kept.len()) as u64);
}

/// Directories of groups in a store.
fn groups(root: &Path) -> usize {
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_str().unwrap().starts_with("pending-"))
        .count()
}

#[test]
fn what_was_written_again_or_removed_before_its_group_lasted_does_not_come_back() {
    #[derive(Debug, Default)]
    struct FailsOnce(AtomicUsize);
    impl Faults for FailsOnce {
        fn before(&self, step: Step<'_>) -> io::Result<()> {
            match step == Step::SyncFs && self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                true => Err(io::Error::other("not now")),
                false => Ok(()),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut options = options("boot", Kill::after(0));
    options.faults = Arc::new(FailsOnce::default());
    let store = Store::open(&root, &options).unwrap();
    store.records().put_alias(key("alias"), &alias("one")).unwrap();
    store.records().insert(&record("gone")).unwrap();
    assert!(store.commit_group().is_err());
    store.records().put_alias(key("alias"), &alias("two")).unwrap();
    assert!(store.records().remove(key("gone")).unwrap());
    store.commit_group().unwrap();
    assert_eq!(groups(&root), 0);
    store.records().insert(&record("gone")).unwrap();
    assert!(store.records().remove(key("gone")).unwrap());
    assert_eq!(groups(&root), 0, "nothing is left of a group of which nothing is left");
    drop(store);
    let store = reopen(&root, "boot");
    assert_eq!(store.records().aliases(&[key("alias")]), [Some(alias("two"))]);
    assert_eq!(store.records().lookup(&[key("gone")]), [None]);
}

#[test]
fn a_flipped_bit_anywhere_is_a_miss_and_never_wrong_data() {
    let dir = tempfile::tempdir().unwrap();
    let store = reopen(&dir.path().join("store"), "boot");
    build(&store, "one").unwrap();
    store
        .records()
        .add_form(layer("one"), &Descriptor::new(media_type::LAYER_GZIP, layer("gz").0, 9))
        .unwrap();
    store.images().put(&image("one")).unwrap();
    drop(store);
    let answers = |store: &Store| {
        [
            (
                "blobs",
                store
                    .blobs()
                    .read(layer("one").0, 100)
                    .unwrap()
                    .map(|bytes| format!("{bytes:?}")),
            ),
            (
                "trees",
                store.trees().tree(layer("one")).map(|tree| format!("{tree:?}")),
            ),
            (
                "aliases",
                store.records().aliases(&[key("alias")])[0]
                    .as_ref()
                    .map(|alias| format!("{alias:?}")),
            ),
            ("history", known_history(store)),
            (
                "builds",
                store.builds().list().unwrap().first().map(|build| format!("{build:?}")),
            ),
            (
                "preimages",
                store.records().preimage(key("one")).map(|found| format!("{found:?}")),
            ),
            (
                "images",
                store
                    .images()
                    .image(&"app:1".parse().unwrap())
                    .map(|found| format!("{found:?}")),
            ),
            (
                "forms",
                store
                    .records()
                    .forms(layer("one"))
                    .first()
                    .map(|form| format!("{form:?}")),
            ),
            (
                "records",
                store.records().lookup(&[key("one")])[0]
                    .as_ref()
                    .map(|found| found.step.clone()),
            ),
        ]
    };
    let store = reopen(&dir.path().join("store"), "boot");
    let good = answers(&store);
    for (kind, answer) in &good {
        assert!(answer.is_some(), "{kind} is not there");
        let (path, bytes) = only_file(&store.root().join(kind));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, bad).unwrap();
            for ((other, expected), (_, found)) in good.iter().zip(answers(&store)) {
                let expected = if other == kind { None } else { expected.clone() };
                assert_eq!(found, expected, "{other} with byte {at} of {kind} flipped");
            }
            assert!(!path.exists(), "{kind} was not set aside");
            if *kind == "records" {
                assert_eq!(store.records().absence(key("one")), Some(MissReason::Damaged));
            }
        }
        fs::write(&path, bytes).unwrap();
    }
}

fn only_file(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut path = dir.to_owned();
    while path.is_dir() {
        path = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    }
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn a_file_in_the_place_of_another_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = reopen(&dir.path().join("store"), "boot");
    build(&store, "one").unwrap();
    store.commit_group().unwrap();
    let (from, _) = only_file(&store.root().join("records"));
    let hex = key("two").0.hex();
    let to = store.root().join("records").join(&hex[..2]).join(&hex);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, &to).unwrap();
    assert_eq!(store.records().lookup(&[key("two")]), [None]);
}

#[test]
fn a_lost_index_loses_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let store = reopen(&dir.path().join("store"), "boot");
    build(&store, "one").unwrap();
    store.commit_group().unwrap();
    let root = store.root().to_owned();
    drop(store);
    assert!(root.join("index").is_dir(), "uses are written when the store is closed");
    fs::remove_dir_all(root.join("index")).unwrap();
    fs::write(root.join("index"), b"garbage").unwrap();
    let store = reopen(&root, "boot");
    assert_eq!(store.records().lookup(&[key("one")]), [Some(record("one"))]);
    store.usage(None).unwrap();
    drop(store);
    assert!(root.join("index").is_dir());
}

#[test]
fn a_second_owner_is_told_who_is_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = reopen(&dir.path().join("store"), "boot");
    let options = options("boot", Kill::after(usize::MAX));
    match Store::open(&dir.path().join("store"), &options) {
        Err(OpenError::Busy { owner, .. }) => assert_eq!((owner.pid, owner.since_ms), (std::process::id(), 1_000_000)),
        other => panic!("{other:?}"),
    }
    let mut first = Some(first);
    let mut waited_for = Vec::new();
    let second = Store::open_waiting(&dir.path().join("store"), &options, &mut |owner| {
        waited_for.push(owner.pid);
        first.take().is_some()
    });
    assert!(second.is_ok());
    assert_eq!(waited_for, [std::process::id()]);
}

#[test]
fn a_store_that_others_could_touch_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = &dir.path().join("store");
    drop(reopen(root, "boot"));
    assert_eq!(fs::metadata(root).unwrap().permissions().mode() & 0o7777, 0o700);
    fs::set_permissions(root, fs::Permissions::from_mode(0o750)).unwrap();
    let error = Store::open(root, &options("boot", Kill::after(9))).unwrap_err();
    assert!(matches!(error, OpenError::Permissions { mode: 0o750, .. }));
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[test]
fn a_store_of_another_format_and_a_foreign_directory_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let root = &dir.path().join("store");
    let options = options("boot", Kill::after(usize::MAX));
    drop(Store::open(root, &options).unwrap());
    assert_eq!(fs::read(root.join("VERSION")).unwrap(), b"rbuild store 1.0\n");
    fs::write(root.join("VERSION"), "rbuild store 1.7\nmore\n").unwrap();
    assert!(Store::open(root, &options).is_ok());
    for other in ["rbuild store 2.0\n", "", "rbuild store 1\n", "\u{fffd}"] {
        fs::write(root.join("VERSION"), other).unwrap();
        assert!(
            matches!(Store::open(root, &options), Err(OpenError::Version { .. })),
            "{other}"
        );
    }
    fs::remove_file(root.join("VERSION")).unwrap();
    fs::write(root.join("thesis.txt"), "years of work").unwrap();
    match Store::open(root, &options) {
        Err(OpenError::NotAStore { found, .. }) => assert_eq!(found, "thesis.txt"),
        other => panic!("{other:?}"),
    }
}
