//! What a server does with its store, every way of writing among it; what it promised by when; and what must hold afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cache::answers::KnownFile;
use cache::blob::BlobStore;
use cache::cache_mounts::{About, MountName};
use cache::download::Validators;
use cache::durable::{Faults, Step, WriteError};
use cache::gc::Policy;
use cache::images::{Image, Variant};
use cache::records::RecordStore;
use cache::store::{OpenError, Options, Store};
use cache::verify::{Compared, Event, Finding, Part, Repair, SnapshotCheck, Wrong};
use proto::digest::{ChainId, ContentDigest, Digest};
use proto::history::{BuildRecord, History, Outcome, Series, SeriesName};
use proto::oci::{Descriptor, media_type};
use proto::record::Preimage;
use proto::tree::Tree;

use crate::disk::{Journal, Tape};
use crate::samples::{alias, key, layer, record, tree};

/// A blob that goes bad, and that nothing leads to.
const HARMED: &[u8] = b"this blob goes bad";

const NAMES: [&str; 4] = ["one", "two", "three", "after"];

/// Something that must last from some step of the tape on, until another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The result of a build.
    Build(&'static str),
    /// The name stands for the result of that build; nothing: it is not promised to stand for anything.
    Image(Option<&'static str>),
    /// What a cache mount is.
    Mount,
}

/// Promises, each with the number of steps that had happened when it was made or taken back.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    list: Vec<(usize, Promise, bool)>,
    /// How many steps had happened when collection began.
    collected: Option<usize>,
}

/// What must hold of a store that comes up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) promises: Vec<Promise>,
    /// The disk may have forgotten that a record was removed, and not that its blob was.
    pub(crate) may_lack_bytes: bool,
}

impl Promises {
    fn give(&mut self, tape: &Tape, promise: Promise) {
        self.list.push((tape.position(), promise, true));
    }

    fn take_back(&mut self, tape: &Tape, promise: Promise) {
        self.list.push((tape.position(), promise, false));
    }

    /// What had to last after so many steps.
    pub(crate) fn after(&self, steps: usize, journal: Journal) -> Expected {
        Expected {
            promises: self.given(steps),
            may_lack_bytes: journal == Journal::Loose && self.collected.is_some_and(|at| at <= steps),
        }
    }

    fn given(&self, steps: usize) -> Vec<Promise> {
        let mut given: Vec<Promise> = Vec::new();
        for (at, promise, holds) in &self.list {
            // Taken back before the step that breaks it, given after the one that keeps it.
            if *at > steps {
                break;
            }
            given.retain(|other| match (other, promise) {
                (Promise::Image(_), Promise::Image(_)) => false,
                (other, promise) => other != promise,
            });
            if *holds {
                given.push(promise.clone());
            }
        }
        given
    }
}

pub(crate) fn options(boot: &str, faults: &Arc<Tape>) -> Options {
    Options {
        clock: Arc::new(|| 10_000_000),
        boot_id: Some(boot.to_owned()),
        faults: Arc::clone(faults) as Arc<dyn Faults>,
    }
}

pub(crate) fn open(root: &Path, boot: &str, tape: &Arc<Tape>) -> Result<Store, OpenError> {
    Store::open(root, &options(boot, tape))
}

/// Everything that a server writes. A step that fails is not promised, and the next one is tried.
pub(crate) fn run(store: &Store, tape: &Arc<Tape>) -> Promises {
    let mut promises = Promises::default();
    let committed = |promises: &mut Promises, done: Result<(), WriteError>, promise: Promise| {
        if done.and_then(|()| store.commit_group()).is_ok() {
            promises.give(tape, promise);
        }
    };
    committed(&mut promises, build(store, "one"), Promise::Build("one"));
    name(store, tape, &mut promises, "one");
    committed(&mut promises, mount(store, tape), Promise::Mount);
    committed(&mut promises, build(store, "two"), Promise::Build("two"));
    name(store, tape, &mut promises, "two");
    // A hint: whether it was kept is nobody's concern.
    drop(store.measured(1 << 20, 0));
    promises.take_back(tape, Promise::Build("one"));
    promises.take_back(tape, Promise::Build("two"));
    promises.take_back(tape, Promise::Mount);
    let everything = Policy {
        all: true,
        ..Policy::default()
    };
    promises.collected = Some(tape.position());
    drop(store.gc(&everything, None));
    drop(build(store, "three"));
    // Setting aside is a way of writing, too; what was set aside is made again.
    if store.blobs().put(HARMED).is_ok() {
        fs::write(place_of(store, Digest::of(HARMED)), b"other").unwrap();
        drop(store.blobs().read(Digest::of(HARMED), 100));
        drop(store.blobs().put(HARMED));
    }
    promises.take_back(tape, Promise::Image(None));
    drop(store.images().remove(&"app:1".parse().unwrap()));
    promises
}

/// Where a blob waits or is: the test harms it behind the store's back.
fn place_of(store: &Store, digest: Digest) -> std::path::PathBuf {
    let name = cache::blob::disk::file_name(digest).replace('/', "+");
    let groups = fs::read_dir(store.root()).unwrap().map(|entry| entry.unwrap().path());
    let waiting = groups.map(|group| group.join(&name)).find(|path| path.exists());
    waiting.unwrap()
}

fn name(store: &Store, tape: &Tape, promises: &mut Promises, of: &'static str) {
    promises.take_back(tape, Promise::Image(None));
    if store.images().put(&image(of)).is_ok() {
        promises.give(tape, Promise::Image(Some(of)));
    }
}

/// Bytes before what names them, as a build does it.
pub(crate) fn build(store: &Store, name: &str) -> Result<(), WriteError> {
    let failed = |error: cache::blob::BlobError| WriteError::new(store.root(), 0, io::Error::from(error));
    store.blobs().put(name.as_bytes()).map_err(failed)?;
    store.blobs().put(gzip(name).as_bytes()).map_err(failed)?;
    store.trees().put(layer(name), &tree(name))?;
    store.records().put_preimage(key(name), &Preimage::default())?;
    store.records().insert(&record(name))?;
    let form = Descriptor::new(media_type::LAYER_GZIP, Digest::of(gzip(name).as_bytes()), 9);
    store.records().add_form(layer(name), &form)?;
    store.records().put_alias(key("alias"), &alias(name))?;
    store.answers().put(key("address"), &answer(name))?;
    store.histories().put(ContentDigest::of(b"project"), &history(name))?;
    store.builds().put(&build_record(name))
}

fn mount(store: &Store, tape: &Arc<Tape>) -> Result<(), WriteError> {
    let name = MountName::new(ContentDigest::of(b"mount"));
    let lease = store.lease();
    lease.hold(cache::lease::Held::CacheMount(name));
    let filled = store.tmp_dir().join("cache-mount-x");
    let fill = || -> io::Result<()> {
        let file = filled.join("content");
        tape.before(Step::MakeDir(&filled))?;
        fs::create_dir(&filled)?;
        tape.before(Step::CreateTemp(&file))?;
        fs::write(&file, b"")?;
        tape.before(Step::Write(&file, b"content"))?;
        fs::write(&file, b"content")?;
        tape.before(Step::SyncFs)
    };
    let made = fill().map_err(|error| WriteError::new(&filled, 0, error));
    let made = made.and_then(|()| store.cache_mounts().publish(name, &filled, &about()));
    if made.is_err() && filled.exists() && tape.before(Step::Remove(&filled)).is_ok() {
        fs::remove_dir_all(&filled).unwrap();
    }
    made
}

fn about() -> About {
    About {
        id: "x".to_owned(),
        platform: "linux/amd64".to_owned(),
        created_ms: 1,
        step: "RUN x".to_owned(),
    }
}

fn gzip(name: &str) -> String {
    format!("{name} but smaller")
}

fn answer(name: &str) -> KnownFile {
    KnownFile {
        validators: Validators {
            etag: name.to_owned(),
            last_modified: String::new(),
        },
        digest: layer(name).0,
        modified: 7,
        key: key(name),
    }
}

fn history(name: &str) -> History {
    History {
        series: vec![Series {
            of: SeriesName {
                stage: name.to_owned(),
                platform: "linux/amd64".to_owned(),
                image_platform: String::new(),
            },
            schema: 1,
            engine: "1.0.0".to_owned(),
            steps: Vec::new(),
        }],
    }
}

fn build_record(name: &str) -> BuildRecord {
    BuildRecord {
        id: ContentDigest::of(name.as_bytes()).hex()[..32].to_owned(),
        started_ms: 1,
        duration_ms: 2,
        dockerfile: "Dockerfile".to_owned(),
        target: String::new(),
        platforms: Vec::new(),
        names: Vec::new(),
        outcome: Outcome::Success(String::new()),
        steps: Vec::new(),
    }
}

fn image(name: &str) -> Image {
    Image {
        reference: "app:1".parse().unwrap(),
        first: Variant {
            config: layer(name).0,
            platform: "linux/amd64".parse().unwrap(),
            layers: vec![record(name).layer],
            origins: BTreeMap::new(),
        },
        further: Vec::new(),
        index: None,
        created_ms: 5,
    }
}

/// No snapshots: they are the builder's.
pub(crate) struct NoSnapshots;

impl SnapshotCheck for NoSnapshots {
    fn list(&self) -> io::Result<Vec<ChainId>> {
        Ok(Vec::new())
    }

    fn compare(&self, _: ChainId, _: &Tree, _: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Compared {
        Compared::Gone
    }

    fn set_aside(&self, _: ChainId) {}

    fn contains(&self, _: ChainId) -> bool {
        false
    }

    fn others(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn remove_other(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

/// Asserts that `store` keeps `promises` and shows nothing that is not whole.
pub(crate) fn check(store: &Store, expected: &Expected, told: &str) {
    let promises = &expected.promises;
    for name in NAMES {
        let found = store.records().lookup(&[key(name)]).pop().unwrap();
        let promised = promises.contains(&Promise::Build(name));
        assert!(found.is_some() || !promised, "{told}: {name} was promised");
        if found.is_some() && (promised || !expected.may_lack_bytes) {
            let bytes = store.blobs().read(layer(name).0, 100).unwrap();
            assert_eq!(
                bytes.as_deref(),
                Some(name.as_bytes()),
                "{told}: a record before its blob"
            );
            assert_eq!(
                store.trees().tree(layer(name)),
                Some(tree(name)),
                "{told}: a record before its tree"
            );
        }
        for form in store.records().forms(layer(name)) {
            let bytes = store.blobs().read(form.digest, 100).unwrap();
            // It may be elsewhere only, but not once it was promised.
            assert!(bytes.is_some() || !promised, "{told}: a form before its blob");
            assert!(bytes.is_none_or(|bytes| bytes == gzip(name).as_bytes()), "{told}");
        }
    }
    let found = store.images().image(&"app:1".parse().unwrap());
    for promise in promises {
        match promise {
            Promise::Image(name) => assert_eq!(found, name.map(image), "{told}"),
            Promise::Mount => {
                let name = MountName::new(ContentDigest::of(b"mount"));
                assert_eq!(store.cache_mounts().about(name), Some(about()), "{told}");
            }
            Promise::Build(_) => {}
        }
    }
    if let Some(found) = found {
        let config = store.blobs().read(found.first.config, 100).unwrap();
        assert!(config.is_some(), "{told}: a name before its bytes");
    }
    check_mounts(store, told);
}

/// A cache mount that is there is whole.
fn check_mounts(store: &Store, told: &str) {
    for entry in fs::read_dir(store.root().join("cachemounts")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let content = fs::read(path.join("content")).unwrap_or_default();
            assert_eq!(content, b"content", "{told}: a cache mount before its files");
        }
    }
}

/// Asserts that nothing of a dead process is left, and that reading all of the store finds only what may be torn.
pub(crate) fn check_files(store: &Store, expected: &Expected, told: &str) {
    assert_eq!(
        fs::read_dir(store.tmp_dir()).unwrap().count(),
        0,
        "{told}: temporary files"
    );
    for entry in fs::read_dir(store.root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_group = name.starts_with("pending-") || name.starts_with("synced-");
        assert!(!is_group, "{told}: {name} is left");
    }
    for finding in verified(store) {
        let allowed = match finding.part {
            // Never synced; its seal tells.
            Part::History | Part::Build => true,
            // A description is written before what it describes.
            Part::CacheMount => finding.wrong == Wrong::LeftOver,
            Part::Blob => finding.name == Digest::of(HARMED).to_string(),
            Part::Record => expected.may_lack_bytes && finding.wrong == Wrong::Missing,
            _ => false,
        };
        assert!(allowed, "{told}: {finding:?}");
    }
}

/// What reading the store finds.
fn verified(store: &Store) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut watch = |event: Event| {
        if let Event::Found(finding) = event {
            findings.push(finding);
        }
        ControlFlow::Continue(())
    };
    let summary = store.verify(&NoSnapshots, Repair::No, &mut watch).unwrap();
    assert_eq!(summary.in_use, 0);
    findings
}
