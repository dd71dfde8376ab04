//! What explains later builds outlives what it explains, and is collected as little as it must.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cache::gc::{Policy, RECENT_MS};
use cache::history::Remembered;
use cache::records::RecordStore;
use cache::store::{Options, Store};
use proto::digest::{ChainId, ContentDigest, DiffId, Digest};
use proto::history::{BuildRecord, History, Outcome, PastStep, Series, SeriesName};
use proto::record::{CacheKey, CacheRecord, LayerInfo, MissReason, Preimage};

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    now: Arc<AtomicU64>,
}

/// Later than the time of any file, so that ages are the clock's.
const FAR: u64 = 10_000_000_000_000;

fn bench(now_ms: u64) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(now_ms));
    let clock = Arc::clone(&now);
    let options = Options::new(Arc::new(move || clock.load(Ordering::Relaxed)));
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    Bench { _dir: dir, store, now }
}

fn key(name: &str) -> CacheKey {
    CacheKey(ContentDigest::of(name.as_bytes()))
}

fn insert(store: &Store, name: &str) {
    let diff_id = DiffId(Digest::of(name.as_bytes()));
    let record = CacheRecord {
        key: key(name),
        layer: LayerInfo {
            diff_id,
            size_bytes: 1,
            forms: Vec::new(),
        },
        chain: ChainId(diff_id.0),
        created_ms: 1,
        duration_ms: 1,
        step: name.to_owned(),
    };
    store.records().put_preimage(key(name), &Preimage::default()).unwrap();
    store.records().insert(&record).unwrap();
}

fn history(name: &str) -> History {
    let step = PastStep {
        text: ContentDigest::of(b"text"),
        key: Some(key(name)),
        name: name.to_owned(),
        build_arguments: Vec::new(),
        image: String::new(),
    };
    let of = SeriesName {
        stage: "0".to_owned(),
        platform: "linux/amd64".to_owned(),
        image_platform: String::new(),
    };
    let (schema, engine, steps) = (1, "1".to_owned(), vec![step]);
    History {
        series: vec![Series {
            of,
            schema,
            engine,
            steps,
        }],
    }
}

fn build() -> BuildRecord {
    BuildRecord {
        id: "ab".repeat(16),
        started_ms: 1,
        duration_ms: 1,
        dockerfile: "Dockerfile".to_owned(),
        target: String::new(),
        platforms: Vec::new(),
        names: Vec::new(),
        outcome: Outcome::Success(String::new()),
        steps: Vec::new(),
    }
}

#[test]
fn the_explanation_of_a_step_outlives_its_record() {
    let bench = bench(FAR);
    let project = ContentDigest::of(b"project");
    insert(&bench.store, "last");
    insert(&bench.store, "older");
    bench.store.histories().put(project, &history("last")).unwrap();
    bench.now.fetch_add(RECENT_MS, Ordering::Relaxed);
    bench.store.gc(&Policy::default(), None).unwrap();
    let records = bench.store.records();
    assert_eq!(records.absence(key("last")), Some(MissReason::Evicted));
    assert_eq!(records.absence(key("older")), Some(MissReason::Evicted));
    assert!(records.preimage(key("last")).is_some());
    assert_eq!(records.preimage(key("older")), None);
    let everything = Policy {
        all: true,
        ..Policy::default()
    };
    bench.store.gc(&everything, None).unwrap();
    assert_eq!(records.preimage(key("last")), None);
    // That its result was collected can still be told.
    assert_eq!(bench.store.histories().of(project), Remembered::Steps(history("last")));
}

#[test]
fn records_of_builds_go_when_they_are_old_or_all_shall_go() {
    // Files are as old as the machine's clock says, which has no hour to spare for a test.
    let bench = bench(1);
    bench.store.builds().put(&build()).unwrap();
    bench.store.gc(&Policy::default(), None).unwrap();
    assert_eq!(bench.store.builds().list().unwrap(), [build()]);
    bench.now.store(FAR, Ordering::Relaxed);
    let roomy = Policy {
        keep_bytes: 1 << 40,
        all: false,
        ..Policy::default()
    };
    bench.store.gc(&roomy, None).unwrap();
    assert_eq!(bench.store.builds().list().unwrap(), [build()]);
    let usage = bench.store.usage(None).unwrap();
    let row = usage.iter().find(|row| row.kind == "builds").unwrap();
    assert_eq!(row.count, 1);
    assert!(row.reclaimable_bytes > 0 && row.reclaimable_bytes <= row.size_bytes);
    bench.store.gc(&Policy::default(), None).unwrap();
    assert!(bench.store.builds().list().unwrap().is_empty());
}
