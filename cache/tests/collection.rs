//! Collection keeps what leases, images and recent use hold; disk use is what `du` says; a full disk is told apart.
//!
//! Long because what is kept and what goes are two sides of each rule, and one bench sets them all up.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cache::blob::{BlobError, BlobStore};
use cache::cache_mounts::{About, MountName};
use cache::durable::{Faults, Step, WriteError};
use cache::gc::{Fact, Filter, FoundSnapshot, Kind, Policy, RECENT_MS, Removal, SnapshotSweep};
use cache::images::{Image, Variant};
use cache::lease::Held;
use cache::records::RecordStore;
use cache::store::{Options, Store};
use proto::digest::{ChainId, ContentDigest, DiffId, Digest};
use proto::oci::{Descriptor, media_type};
use proto::record::{Alias, CacheKey, CacheRecord, LayerInfo, MissReason, Preimage};
use proto::tree::Tree;

/// Later than the time of any file, so that ages are the clock's.
const FAR: u64 = 10_000_000_000_000;
const EVERYTHING: Policy = Policy {
    keep_bytes: 0,
    reserved_bytes: 0,
    max_age_ms: None,
    all: true,
    filters: Vec::new(),
};

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    now: Arc<AtomicU64>,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(FAR));
    let clock = Arc::clone(&now);
    let options = Options::new(Arc::new(move || clock.load(Ordering::Relaxed)));
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    Bench { _dir: dir, store, now }
}

fn layer(name: &str) -> DiffId {
    DiffId(Digest::of(name.as_bytes()))
}

fn key(name: &str) -> CacheKey {
    CacheKey(ContentDigest::of(name.as_bytes()))
}

fn record(name: &str, duration_ms: u64) -> CacheRecord {
    let form = Descriptor::new(media_type::LAYER, layer(name).0, name.len() as u64);
    CacheRecord {
        key: key(name),
        layer: LayerInfo {
            diff_id: layer(name),
            size_bytes: 1,
            forms: vec![form],
        },
        chain: ChainId(layer(name).0),
        created_ms: 1,
        duration_ms,
        step: name.to_owned(),
    }
}

fn alias(name: &str) -> Alias {
    Alias {
        key: key(name),
        inputs: Vec::new(),
    }
}

fn build(store: &Store, name: &str, duration_ms: u64) {
    store.blobs().put(name.as_bytes()).unwrap();
    store.trees().put(layer(name), &Tree::default()).unwrap();
    store.records().put_preimage(key(name), &Preimage::default()).unwrap();
    store.records().insert(&record(name, duration_ms)).unwrap();
    store
        .records()
        .put_alias(key(&format!("alias of {name}")), &alias(name))
        .unwrap();
}

fn there(store: &Store, name: &str) -> (bool, bool, bool) {
    let record = store.records().lookup(&[key(name)])[0].is_some();
    (
        record,
        store.blobs().contains(layer(name).0).unwrap(),
        store.trees().contains(layer(name)),
    )
}

const ALL: (bool, bool, bool) = (true, true, true);
const NONE: (bool, bool, bool) = (false, false, false);

#[derive(Default)]
struct Snapshots(RefCell<HashMap<ChainId, u64>>);

impl SnapshotSweep for Snapshots {
    fn list(&self) -> Vec<FoundSnapshot> {
        let found = |(chain, bytes): (&ChainId, &u64)| FoundSnapshot {
            chain: *chain,
            bytes: *bytes,
            created_ms: 0,
        };
        self.0.borrow().iter().map(found).collect()
    }

    fn take_away(&self, chain: ChainId) -> io::Result<Removal<'_>> {
        let taken = self.0.borrow_mut().remove(&chain);
        taken.ok_or_else(|| io::Error::other("not there"))?;
        Ok(Box::new(|| Ok(())))
    }
}

#[test]
fn what_was_used_recently_stays_until_everything_is_asked_for() {
    let bench = bench();
    build(&bench.store, "a", 1);
    assert_eq!(bench.store.gc(&Policy::default(), None).unwrap().removed, 0);
    assert_eq!(there(&bench.store, "a"), ALL);
    assert!(bench.store.gc(&EVERYTHING, None).unwrap().bytes > 0);
    assert_eq!(there(&bench.store, "a"), NONE);
    assert_eq!(bench.store.records().aliases(&[key("alias of a")]), [None]);
    assert_eq!(bench.store.records().absence(key("a")), Some(MissReason::Evicted));
}

#[test]
fn what_was_not_used_for_long_goes() {
    let bench = bench();
    build(&bench.store, "a", 1);
    build(&bench.store, "b", 1);
    bench.now.fetch_add(RECENT_MS, Ordering::Relaxed);
    bench.store.records().lookup(&[key("b")]);
    bench.store.gc(&Policy::default(), None).unwrap();
    assert_eq!(there(&bench.store, "a"), NONE);
    assert_eq!(there(&bench.store, "b"), ALL);
}

#[test]
fn nothing_that_a_lease_holds_is_collected() {
    let bench = bench();
    for name in ["a", "b", "c"] {
        build(&bench.store, name, 1);
    }
    let lease = bench.store.lease();
    lease.hold(Held::Record(key("a")));
    lease.hold(Held::Blob(layer("b").0));
    let second = bench.store.lease();
    second.hold(Held::Record(key("a")));
    drop(second);
    bench.store.gc(&EVERYTHING, None).unwrap();
    assert_eq!(there(&bench.store, "a"), ALL);
    assert_eq!(there(&bench.store, "b"), (false, true, false));
    assert_eq!(there(&bench.store, "c"), NONE);
    drop(lease);
    bench.store.gc(&EVERYTHING, None).unwrap();
    assert_eq!(there(&bench.store, "a"), NONE);
    assert_eq!(there(&bench.store, "b"), NONE);
}

#[test]
fn a_snapshot_and_a_tree_of_a_base_stay_while_they_are_held_and_for_a_while_after() {
    let bench = bench();
    let chain = ChainId(layer("base").0);
    bench.store.trees().put(layer("base"), &Tree::default()).unwrap();
    let snapshots = Snapshots::default();
    snapshots.0.borrow_mut().insert(chain, 4096);
    let lease = bench.store.lease();
    lease.hold(Held::Chain(chain));
    lease.hold(Held::Layer(layer("base")));
    let there = || {
        (
            snapshots.0.borrow().contains_key(&chain),
            bench.store.trees().contains(layer("base")),
        )
    };
    bench.store.gc(&EVERYTHING, Some(&snapshots)).unwrap();
    assert_eq!(there(), (true, true));
    drop(lease);
    bench.store.gc(&Policy::default(), Some(&snapshots)).unwrap();
    assert_eq!(there(), (true, true), "used just now");
    bench.now.fetch_add(RECENT_MS, Ordering::Relaxed);
    bench.store.gc(&Policy::default(), Some(&snapshots)).unwrap();
    assert_eq!(there(), (false, false));
}

#[test]
fn an_image_keeps_its_config_layers_and_snapshots() {
    let bench = bench();
    for name in ["base", "top", "arm", "other"] {
        build(&bench.store, name, 1);
    }
    let config = bench.store.blobs().put(b"{}").unwrap();
    let gzip = bench.store.blobs().put(b"gzip").unwrap();
    let form = Descriptor::new(media_type::LAYER_GZIP, gzip, 4);
    bench.store.records().add_form(layer("base"), &form).unwrap();
    let variant = |platform: &str, layers| Variant {
        config,
        platform: platform.parse().unwrap(),
        layers,
        origins: BTreeMap::new(),
    };
    let image = Image {
        reference: "app:1".parse().unwrap(),
        first: variant("linux/amd64", vec![record("base", 1).layer, record("top", 1).layer]),
        further: vec![variant("linux/arm64", vec![record("arm", 1).layer])],
        index: Some(Digest::of(b"index")),
        created_ms: 1,
    };
    bench.store.images().put(&image).unwrap();
    assert!(
        bench
            .store
            .images()
            .tag(&image.reference, &"app:2".parse().unwrap())
            .unwrap()
    );
    assert!(bench.store.images().remove(&image.reference).unwrap());
    let base = ChainId(layer("base").0);
    let top = ChainId::append(Some(base), layer("top"));
    let snapshots = Snapshots::default();
    for chain in [base, top, ChainId(layer("other").0)] {
        snapshots.0.borrow_mut().insert(chain, 4096);
    }
    bench.store.gc(&EVERYTHING, Some(&snapshots)).unwrap();
    assert_eq!(there(&bench.store, "base"), (false, true, true));
    assert_eq!(there(&bench.store, "top"), (false, true, true));
    assert_eq!(there(&bench.store, "arm"), (false, true, true));
    assert_eq!(there(&bench.store, "other"), NONE);
    assert!(bench.store.blobs().contains(config).unwrap() && bench.store.blobs().contains(gzip).unwrap());
    let mut left: Vec<ChainId> = snapshots.0.borrow().keys().copied().collect();
    left.sort();
    let mut expected = [base, top];
    expected.sort();
    assert_eq!(left, expected);
    let names: Vec<String> = bench
        .store
        .images()
        .list()
        .unwrap()
        .iter()
        .map(|i| i.reference.familiar())
        .collect();
    assert_eq!(names, ["app:2"]);
    assert!(bench.store.images().remove(&"app:2".parse().unwrap()).unwrap());
    bench.store.gc(&EVERYTHING, Some(&snapshots)).unwrap();
    assert!(!bench.store.blobs().contains(config).unwrap());
    assert!(snapshots.0.borrow().is_empty());
}

#[test]
fn what_is_cheap_to_build_again_goes_first_and_no_more_than_needed() {
    let bench = bench();
    build(&bench.store, "dear", 3_600_000);
    build(&bench.store, "cheap", 10);
    // Committing makes directories, which count.
    bench.store.commit_group().unwrap();
    let total: u64 = bench.store.usage(None).unwrap().iter().map(|row| row.size_bytes).sum();
    let policy = Policy {
        keep_bytes: total - 1,
        ..EVERYTHING
    };
    bench.store.gc(&policy, None).unwrap();
    assert_eq!(there(&bench.store, "cheap"), NONE);
    assert_eq!(there(&bench.store, "dear"), ALL);
}

#[test]
fn a_layer_of_two_records_stays_for_the_second() {
    let bench = bench();
    build(&bench.store, "a", 1);
    let mut second = record("a", 1);
    second.key = key("second");
    bench.store.records().insert(&second).unwrap();
    let lease = bench.store.lease();
    lease.hold(Held::Record(second.key));
    bench.store.gc(&EVERYTHING, None).unwrap();
    assert_eq!(there(&bench.store, "a"), (false, true, true));
    assert_eq!(bench.store.records().lookup(&[second.key]), [Some(second)]);
}

#[test]
fn disk_use_agrees_with_du() {
    let bench = bench();
    for number in 0..200 {
        build(&bench.store, &format!("layer {number}"), 1);
    }
    bench.store.blobs().put(&vec![7; 3 << 20]).unwrap();
    fs::create_dir(bench.store.snapshots_dir().join("one")).unwrap();
    fs::write(bench.store.snapshots_dir().join("one/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(
        bench.store.snapshots_dir().join("one/file"),
        bench.store.snapshots_dir().join("one/again"),
    )
    .unwrap();
    bench.store.index().flush();
    for _ in 0..2 {
        let rows = bench.store.usage(None).unwrap();
        let total: u64 = rows.iter().map(|row| row.size_bytes).sum();
        let du = du(bench.store.root());
        assert!(total.abs_diff(du) * 50 <= du, "we say {total}, du says {du}");
        let row = |kind| rows.iter().find(|row| row.kind == kind).unwrap();
        assert_eq!(row("snapshots").count, 1);
        bench.store.commit_group().unwrap();
    }
    let rows = bench.store.usage(None).unwrap();
    let blobs = rows.iter().find(|row| row.kind == "layer blobs").unwrap();
    assert_eq!(blobs.count, 201);
    assert!(blobs.reclaimable_bytes >= 3 << 20 && blobs.reclaimable_bytes <= blobs.size_bytes);
}

fn mount(store: &Store, id: &str) -> MountName {
    let name = MountName::new(ContentDigest::of(id.as_bytes()));
    let filled = store.tmp_dir().join(id);
    fs::create_dir(&filled).unwrap();
    fs::write(filled.join("kept"), vec![1; 100_000]).unwrap();
    let about = About {
        id: id.to_owned(),
        platform: "linux/amd64".to_owned(),
        created_ms: FAR,
        step: "RUN make".to_owned(),
    };
    store.cache_mounts().publish(name, &filled, &about).unwrap();
    store.cache_mounts().touch(name);
    name
}

#[test]
fn a_cache_mount_goes_when_it_was_not_used_for_long_and_no_step_has_it() {
    let bench = bench();
    let (old, held, used) = (
        mount(&bench.store, "old"),
        mount(&bench.store, "held"),
        mount(&bench.store, "used"),
    );
    let lease = bench.store.lease();
    lease.hold(Held::CacheMount(held));
    bench.now.fetch_add(RECENT_MS, Ordering::Relaxed);
    bench.store.cache_mounts().touch(used);
    let rows = bench.store.usage(None).unwrap();
    let row = rows.iter().find(|row| row.kind == "cache mounts").unwrap();
    assert_eq!(row.count, 3);
    assert!((200_000..300_000).contains(&row.reclaimable_bytes), "{row:?}");
    assert!(bench.store.gc(&Policy::default(), None).unwrap().bytes > 100_000);
    let there = |name| bench.store.cache_mounts().path(name).exists();
    assert_eq!((there(old), there(held), there(used)), (false, true, true));
    assert_eq!(bench.store.cache_mounts().about(old), None);
    drop(lease);
    bench.store.gc(&EVERYTHING, None).unwrap();
    assert_eq!((there(held), there(used)), (false, false));
    assert_eq!(fs::read_dir(bench.store.tmp_dir()).unwrap().count(), 0);
}

#[test]
fn cache_mounts_of_older_versions_are_known_and_go_too() {
    let bench = bench();
    let name = MountName::new(ContentDigest::of(b"id")).copy(2);
    let path = bench.store.cache_mounts().path(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("data"), b"x").unwrap();
    let items = bench.store.items(None, &[]).unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(
        (items[0].kind, items[0].id.clone()),
        (Kind::CacheMount, name.to_string())
    );
    bench.store.gc(&EVERYTHING, None).unwrap();
    assert!(!path.exists());
}

/// Lets everything happen but syncs, as on a disk that is full.
#[derive(Debug)]
struct NoSync;

impl Faults for NoSync {
    fn before(&self, step: Step) -> io::Result<()> {
        match step {
            Step::SyncFs => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

#[test]
fn what_a_build_holds_stays_though_it_cannot_be_made_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(Arc::new(|| FAR));
    options.faults = Arc::new(NoSync);
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    build(&store, "held", 1);
    let snapshots = Snapshots::default();
    let (held, other) = (ChainId(layer("held").0), ChainId(layer("other").0));
    for chain in [held, other] {
        snapshots.0.borrow_mut().insert(chain, 4096);
    }
    let lease = store.lease();
    lease.hold(Held::Record(key("held")));
    store.gc(&EVERYTHING, Some(&snapshots)).unwrap();
    let left: Vec<ChainId> = snapshots.0.borrow().keys().copied().collect();
    assert_eq!(left, [held]);
    assert_eq!(there(&store, "held"), ALL);
}

#[test]
fn items_say_what_they_are() {
    let bench = bench();
    build(&bench.store, "a", 1);
    let name = mount(&bench.store, "m");
    let lease = bench.store.lease();
    lease.hold(Held::CacheMount(name));
    bench.store.commit_group().unwrap();
    let items = bench.store.items(None, &[]).unwrap();
    let find = |kind| items.iter().find(|item| item.kind == kind).unwrap();
    assert_eq!(items[0].kind, Kind::CacheMount, "the largest first");
    assert_eq!(items[0].description, "m in RUN make");
    assert!(items[0].in_use && !items[0].reclaimable && items[0].created_ms == FAR);
    for kind in [Kind::Record, Kind::Blob, Kind::Tree] {
        let item = find(kind);
        assert_eq!((item.description.as_str(), item.created_ms), ("a", 1), "{item:?}");
        assert!(item.reclaimable && !item.in_use && item.size_bytes > 0, "{item:?}");
    }
    let only = |fact| {
        let filters = [Filter { fact, negated: false }];
        let items = bench.store.items(None, &filters).unwrap();
        items.into_iter().map(|item| item.kind).collect::<Vec<_>>()
    };
    assert_eq!(only(Fact::InUse(true)), [Kind::CacheMount]);
    assert_eq!(
        only(Fact::Id(layer("a").0.hex()[..8].to_owned())),
        [Kind::Blob, Kind::Tree]
    );
}

#[test]
fn filters_choose_what_goes() {
    let bench = bench();
    build(&bench.store, "a", 1);
    build(&bench.store, "b", 1);
    let name = mount(&bench.store, "m");
    let mounts = |kinds| Policy {
        all: true,
        filters: vec![Filter {
            fact: Fact::Kind(kinds),
            negated: false,
        }],
        ..Policy::default()
    };
    bench.store.gc(&mounts(vec![Kind::CacheMount]), None).unwrap();
    assert!(!bench.store.cache_mounts().path(name).exists());
    assert_eq!((there(&bench.store, "a"), there(&bench.store, "b")), (ALL, ALL));
    let by_blob = Fact::Id(layer("a").0.to_string());
    let policy = Policy {
        all: true,
        filters: vec![Filter {
            fact: by_blob,
            negated: false,
        }],
        ..Policy::default()
    };
    bench.store.gc(&policy, None).unwrap();
    assert_eq!((there(&bench.store, "a"), there(&bench.store, "b")), (NONE, ALL));
}

#[test]
fn what_is_too_old_goes_but_not_what_is_reserved() {
    let bench = bench();
    build(&bench.store, "old", 1);
    bench.now.fetch_add(10_000, Ordering::Relaxed);
    build(&bench.store, "new", 1);
    bench.store.commit_group().unwrap();
    let total: u64 = bench.store.usage(None).unwrap().iter().map(|row| row.size_bytes).sum();
    let by_age = |reserved_bytes| Policy {
        max_age_ms: Some(5_000),
        reserved_bytes,
        ..Policy::default()
    };
    // Looking whether it is there would be a use of it.
    assert_eq!(bench.store.gc(&by_age(total), None).unwrap().removed, 0);
    bench.store.gc(&by_age(1), None).unwrap();
    assert_eq!((there(&bench.store, "old"), there(&bench.store, "new")), (NONE, ALL));
}

#[test]
fn a_base_image_stays_longer_than_what_is_copied_in_no_time() {
    let bench = bench();
    let base = bench.store.blobs().put(&vec![1; 1 << 20]).unwrap();
    bench.store.lease().hold(Held::Blob(base));
    let copied = vec![2; 1 << 20];
    let blob = bench.store.blobs().put(&copied).unwrap();
    let mut of_copy = record("copy", 3);
    of_copy.layer.forms = vec![Descriptor::new(media_type::LAYER, blob, 1 << 20)];
    bench.store.records().insert(&of_copy).unwrap();
    bench.store.commit_group().unwrap();
    let total: u64 = bench.store.usage(None).unwrap().iter().map(|row| row.size_bytes).sum();
    bench.now.fetch_add(1000, Ordering::Relaxed);
    let policy = Policy {
        keep_bytes: total - 4096,
        ..EVERYTHING
    };
    bench.store.gc(&policy, None).unwrap();
    assert!(!bench.store.blobs().contains(blob).unwrap());
    assert!(bench.store.blobs().contains(base).unwrap());
}

#[test]
fn a_store_at_its_limit_takes_nothing_until_something_was_collected() {
    let bench = bench();
    build(&bench.store, "a", 1);
    bench.store.commit_group().unwrap();
    let used = bench.store.measure_usage().unwrap().used_bytes;
    bench.store.budget().limit_to(used + 50_000, used);
    let mut ingest = bench.store.blobs().ingest().unwrap();
    ingest.append(&[1; 40_000]).unwrap();
    match ingest.append(&[1; 40_000]).unwrap_err() {
        BlobError::Write(WriteError::OverLimit { limit, .. }) => assert_eq!(limit.limit_bytes, used + 50_000),
        other => panic!("{other:?}"),
    }
    drop(ingest);
    bench.store.blobs().put(&[2; 40_000]).unwrap();
    assert!(bench.store.blobs().put(&[3; 40_000]).is_err());
    bench.store.gc(&EVERYTHING, None).unwrap();
    bench.store.blobs().put(&[3; 40_000]).unwrap();
}

#[test]
fn what_was_measured_is_believed_for_a_day() {
    let bench = bench();
    assert_eq!(bench.store.guess_usage().unwrap(), None);
    let measured = bench.store.measure_usage().unwrap();
    let guessed = bench.store.guess_usage().unwrap().unwrap();
    assert!(guessed.used_bytes >= measured.used_bytes);
    bench.store.blobs().put(&vec![1; 1 << 20]).unwrap();
    let grown = bench.store.guess_usage().unwrap().unwrap();
    assert!(
        grown.used_bytes >= measured.used_bytes + (1 << 20),
        "{grown:?}, whatever others do on this disk"
    );
    bench.now.fetch_add(24 * 3_600_000, Ordering::Relaxed);
    assert_eq!(bench.store.guess_usage().unwrap(), None);
}

fn du(root: &Path) -> u64 {
    let out = Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(root)
        .output()
        .unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Mounts a small file system at a temporary directory, for as long as the test runs.
#[test]
fn privileged_a_full_disk_is_told_apart_and_leaves_a_usable_store() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"])
        .arg(dir.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        #[expect(
            clippy::disallowed_methods,
            reason = "tests are told by the environment what they must not skip"
        )]
        let required = std::env::var("RBUILD_TEST_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "a tmpfs cannot be mounted, and RBUILD_TEST_REQUIRE=all");
        writeln!(io::stderr(), "SKIPPED: a tmpfs cannot be mounted here").unwrap();
        return;
    }
    let result = std::panic::catch_unwind(|| fill(dir.path()));
    let unmounted = Command::new("umount").arg(dir.path()).status().unwrap();
    result.unwrap();
    assert!(unmounted.success());
}

fn fill(root: &Path) {
    let store = Store::open(root, &Options::new(Arc::new(|| FAR))).unwrap();
    let mut ingest = store.blobs().ingest().unwrap();
    let error = loop {
        if let Err(error) = ingest.append(&[1; 100_000]) {
            break error;
        }
    };
    match error {
        BlobError::Write(WriteError::NoSpace { needed_bytes, path }) => {
            assert!((900_000..1_300_000).contains(&needed_bytes), "{needed_bytes}");
            assert!(path.starts_with(root));
        }
        other => panic!("{other:?}"),
    }
    drop(ingest);
    build(&store, "small", 1);
    store.commit_group().unwrap();
    assert_eq!(there(&store, "small"), ALL);
    // To the last byte, with something that waits to be made durable: collecting makes room again.
    build(&store, "waiting", 1);
    fs::write(root.join("tmp/all"), vec![1; 2 << 20]).unwrap_err();
    store.gc(&EVERYTHING, None).unwrap();
    assert_eq!(there(&store, "small"), NONE);
}
