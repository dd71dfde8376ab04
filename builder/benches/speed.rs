//! The parts of a build, each alone: `cargo xtask bench walk` and so on. Without a name, all of them.
//!
//! Each figure is the best of some rounds, since a shared machine only ever makes them worse. This program is also the sandbox init
//! that `mount` starts, so it looks at its arguments before it does anything else.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use builder::context::{WalkRequest, walk_at};
use builder::executor::{
    Executor, INIT_ARGUMENT, NamespaceExecutor, Network, Process, Security, StepTimes, init_main, probe,
};
use builder::layer::entry::{Content, LayerEntry};
use builder::layer::{compress, limits::Limits, tar};
use builder::layers::to_path;
use builder::snapshot::Snapshotter;
use builder::snapshot::overlay::OverlaySnapshotter;
use builder::solve::cache_key;
use cache::records::RecordStore;
use cache::store::{Options, Store};
use proto::canonical;
use proto::definition::{self, ExecOp, Op, Vertex, VertexId};
use proto::digest::{ChainId, ContentDigest, DiffId, Digest};
use proto::oci::Compression;
use proto::platform::Platform;
use proto::record::{CacheKey, CacheRecord, LayerInfo};
use proto::tree::{EntryKind, Timestamp, TreeEntry};
use tokio_util::sync::CancellationToken;

/// Files of a context.
const FILES: usize = 10_000;
/// Their bytes.
const BYTES: u64 = 83_000_000;
/// Steps of a large build.
const STEPS: usize = 1000;
/// What is compressed.
const LAYER_BYTES: u64 = 64 << 20;

const PARTS: &[(&str, fn())] = &[
    ("walk", walk),
    ("hash", hash),
    ("tar", write_tar),
    ("compress", compress_and_back),
    ("key", keys),
    ("lookup", lookup),
    ("mount", mount),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == INIT_ARGUMENT) {
        init_main();
    }
    let names: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    for (part, run) in PARTS {
        if names.is_empty() || names.iter().any(|name| name == part) {
            run();
        }
    }
}

/// Prints the best time of some rounds.
fn report(name: &str, rounds: usize, mut work: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed());
    }
    println!("{name:<52} {:>10.3} ms", best.as_secs_f64() * 1e3);
}

/// A clock that no file of the context is young for.
const LATER: Timestamp = Timestamp {
    seconds: 4_000_000_000,
    nanoseconds: 0,
};

fn entries_of(context: &Path, stat_cache: Option<&Path>) -> Vec<TreeEntry> {
    let walked = walk_at(context, &WalkRequest::default(), stat_cache, LATER).unwrap();
    walked.tree.entries().to_vec()
}

fn context() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    testdata::contexts::files(&folder.path().join("context"), FILES, BYTES, 1);
    folder
}

fn walk() {
    let folder = context();
    let (root, stat_cache) = (folder.path().join("context"), folder.path().join("stats"));
    entries_of(&root, Some(&stat_cache));
    report(&format!("walk of {FILES} known files"), 20, || {
        black_box(entries_of(&root, Some(&stat_cache)));
    });
}

fn hash() {
    let folder = context();
    let root = folder.path().join("context");
    report(&format!("walk and hash of {FILES} files, 83 MB"), 10, || {
        black_box(entries_of(&root, None));
    });
}

fn write_tar() {
    let folder = context();
    let path = folder.path().join("context");
    let root = Arc::new(std::os::fd::OwnedFd::from(fs::File::open(&path).unwrap()));
    let entry = |entry: TreeEntry| LayerEntry {
        content: match entry.kind {
            EntryKind::File { .. } => Content::File {
                root: Arc::clone(&root),
                path: to_path(&entry.path),
            },
            _ => Content::None,
        },
        entry,
    };
    let entries: Vec<LayerEntry> = entries_of(&path, None).into_iter().map(entry).collect();
    report(&format!("tar of {FILES} files, 83 MB, with digests"), 5, || {
        black_box(tar::write(&entries, None, &mut std::io::sink()).unwrap());
    });
}

fn compress_and_back() {
    let folder = tempfile::tempdir().unwrap();
    testdata::contexts::mixed(folder.path(), LAYER_BYTES, 2);
    let mut layer = Vec::new();
    for number in 0..LAYER_BYTES >> 23 {
        layer.extend(fs::read(folder.path().join(format!("m{number}.bin"))).unwrap());
    }
    for form in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let recipe = compress::Recipe::new(form, None).unwrap();
        for threads in [1, 4] {
            report(&format!("64 MiB to {form:?}, {threads} threads"), 3, || {
                black_box(compress::compress(layer.as_slice(), recipe, threads, &mut std::io::sink()).unwrap());
            });
        }
        let mut packed = Vec::new();
        compress::compress(layer.as_slice(), recipe, 4, &mut packed).unwrap();
        report(&format!("64 MiB from {form:?}"), 3, || {
            let mut plain = compress::decompress(packed.as_slice(), form, &Limits::default()).unwrap();
            black_box(std::io::copy(&mut plain, &mut std::io::sink()).unwrap());
        });
    }
}

fn exec(root: Option<VertexId>, number: usize) -> Vertex {
    Vertex {
        op: Op::Exec(Box::new(ExecOp {
            root,
            args: ["/bin/sh", "-c", &format!("make step{number}")]
                .map(str::to_owned)
                .to_vec(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            proxy_env: Vec::new(),
            build_args: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            network: definition::Network::Default,
            security: definition::Security::Sandbox,
            devices: Vec::new(),
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            script: None,
            mounts: Vec::new(),
        })),
        platform: Platform::new("linux", "amd64", ""),
        name: format!("RUN make step{number}"),
        lines: None,
        stage: "build".to_owned(),
    }
}

/// Keys of a chain of steps.
fn chain_of_keys() -> Vec<CacheKey> {
    let mut keys: Vec<CacheKey> = Vec::with_capacity(STEPS);
    for number in 0..STEPS {
        let root = number
            .checked_sub(1)
            .map(|below| VertexId(u32::try_from(below).unwrap()));
        let vertex = exec(root, number);
        let fields = cache_key::fields(&vertex, &|input| keys[input.0 as usize]);
        keys.push(canonical::key(&fields));
    }
    keys
}

fn keys() {
    report(&format!("keys of {STEPS} steps"), 50, || {
        black_box(chain_of_keys());
    });
}

fn lookup() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store"), &Options::new(Arc::new(|| 0))).unwrap();
    let keys = chain_of_keys();
    for key in &keys {
        let diff_id = DiffId(Digest::of(key.0.as_bytes()));
        let record = CacheRecord {
            key: *key,
            layer: LayerInfo {
                diff_id,
                size_bytes: 10_240,
                forms: Vec::new(),
            },
            chain: ChainId::append(None, diff_id),
            created_ms: 0,
            duration_ms: 1,
            step: "RUN make".to_owned(),
        };
        store.records().insert(&record).unwrap();
    }
    report(&format!("lookup of {STEPS} records that exist"), 20, || {
        let found = store.records().lookup(&keys);
        assert!(found.iter().all(Option::is_some));
    });
    let absent: Vec<CacheKey> = (0..STEPS)
        .map(|n| CacheKey(ContentDigest::of(&n.to_le_bytes())))
        .collect();
    report(&format!("lookup of {STEPS} records that do not exist"), 20, || {
        assert!(store.records().lookup(&absent).iter().all(Option::is_none));
    });
}

/// A snapshot, and a process on it that does nothing, with the parts of its time.
fn mount() {
    const BUSYBOX: &str = "/bin/busybox";
    if let Some(missing) = probe().into_iter().find(|fact| !fact.ok) {
        println!("SKIPPED mount: {}: {}", missing.name, missing.found);
        return;
    }
    if !Path::new(BUSYBOX).exists() {
        println!("SKIPPED mount: there is no static busybox in /bin");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let snapshots = OverlaySnapshotter::open(folder.path()).unwrap();
    let chain = |number: u32| ChainId(Digest::of(&number.to_le_bytes()));
    let base = snapshots.prepare(&[]).unwrap();
    for name in ["bin", "etc", "dev", "proc", "sys", "tmp"] {
        fs::create_dir(base.upper.join(name)).unwrap();
    }
    fs::copy(BUSYBOX, base.upper.join("bin/busybox")).unwrap();
    snapshots.commit(base, &chain(0)).unwrap();
    let mut parents = vec![chain(0)];
    for number in 1..30 {
        snapshots
            .commit(snapshots.prepare(&parents).unwrap(), &chain(number))
            .unwrap();
        parents.push(chain(number));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let executor = NamespaceExecutor::new().unwrap();
    for (network, depth) in [(Network::None, 1), (Network::None, 30), (Network::Default, 1)] {
        let mut times = Vec::new();
        report(&format!("`true` on {depth} layers, network {network:?}"), 60, || {
            let active = snapshots.prepare(&parents[..depth]).unwrap();
            let process = nothing(&active, network);
            let (output, mut printed) = tokio::sync::mpsc::channel(4);
            runtime.block_on(async {
                let running = executor.run(&process, output, CancellationToken::new());
                let (report, _) = tokio::join!(running, async { while printed.recv().await.is_some() {} });
                times.push(report.unwrap().times);
            });
            snapshots.abandon(active).unwrap();
        });
        report_parts(&times);
    }
    runtime.block_on(executor.finish());
}

/// The name of a part of a step's time, and how long it took.
type Part = (&'static str, fn(&StepTimes) -> Duration);

/// Prints the median of each part of a step's time.
fn report_parts(times: &[StepTimes]) {
    let parts: [Part; 6] = [
        ("network", |times| times.network),
        ("launch", |times| times.launch),
        ("mounts", |times| times.mounts),
        ("start", |times| times.start),
        ("program", |times| times.ran),
        ("end", |times| times.end),
    ];
    for (name, part) in parts {
        let mut all: Vec<Duration> = times.iter().map(part).collect();
        all.sort_unstable();
        println!(
            "  of that, median: {name:<33} {:>10.3} ms",
            all[all.len() / 2].as_secs_f64() * 1e3
        );
    }
}

fn nothing(active: &builder::snapshot::Active, network: Network) -> Process {
    Process {
        args: vec!["/bin/busybox".to_owned(), "true".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        hostname: None,
        network,
        security: Security::Sandbox,
        devices: Vec::new(),
        extra_hosts: Vec::new(),
        rootfs: active.rootfs.clone(),
        mounts: Vec::new(),
        shm_size_bytes: None,
        files: Vec::new(),
        limits: builder::limits::Limits::default(),
        ca_bundle: None,
    }
}
