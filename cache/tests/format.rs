//! Golden bytes of the files of format 1.0: a change here needs another version, see `store_format`.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cache::blob::BlobStore;
use cache::images::{Image, Variant};
use cache::records::RecordStore;
use cache::store::{Options, Store};
use proto::digest::{ChainId, ContentDigest, DiffId, Digest};
use proto::history::{BuildRecord, BuildStep, History, Outcome, PastStep, Series, SeriesName, Verdict};
use proto::oci::{Descriptor, media_type};
use proto::record::{Alias, CacheKey, CacheRecord, LayerInfo, Preimage};
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

/// All files below `dir`: name, size, BLAKE3 of the bytes.
fn listing(root: &Path, dir: &Path, lines: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        if path.is_dir() {
            listing(root, &path, lines);
        } else {
            let bytes = fs::read(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display();
            lines.push(format!(
                "{name} {} {}",
                bytes.len(),
                &ContentDigest::of(&bytes).hex()[..16]
            ));
        }
    }
}

#[test]
fn every_kind_of_file_has_its_golden_name_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut options = Options::new(Arc::new(|| 1_000));
    options.boot_id = Some("boot".to_owned());
    let store = Store::open(&root, &options).unwrap();
    fill(&store);
    let mut lines = Vec::new();
    for kind in [
        "blobs",
        "trees",
        "records",
        "aliases",
        "preimages",
        "history",
        "builds",
        "forms",
        "images",
    ] {
        listing(&root, &root.join(kind), &mut lines);
    }
    assert_eq!(lines.join("\n"), include_str!("format.golden").trim_end());
}

fn fill_history(store: &Store, key: CacheKey) {
    let step = PastStep {
        text: ContentDigest::of(b"text"),
        key: Some(key),
        name: "[1/2] RUN make".to_owned(),
        build_arguments: vec!["V".to_owned()],
        image: String::new(),
    };
    let series = Series {
        of: SeriesName {
            stage: "build".to_owned(),
            platform: "linux/amd64".to_owned(),
            image_platform: "arm64".to_owned(),
        },
        schema: 1,
        engine: "0.1.0".to_owned(),
        steps: vec![step.clone()],
    };
    let history = History { series: vec![series] };
    store.histories().put(ContentDigest::of(b"project"), &history).unwrap();
    let build = BuildRecord {
        id: "0f".repeat(16),
        started_ms: 1_700_000_000_000,
        duration_ms: 2_500,
        dockerfile: "Dockerfile".to_owned(),
        target: "build".to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        names: vec!["docker.io/library/app:1".to_owned()],
        outcome: Outcome::Success("sha256:1".to_owned()),
        steps: vec![BuildStep {
            number: 7,
            line: 3,
            step: step.clone(),
            before: Some(step),
            verdict: Verdict::Ran,
            reason: ("files".to_owned(), "`f` changed".to_owned()),
            duration_ms: 1_500,
            diff_ids: Vec::new(),
        }],
    };
    store.builds().put(&build).unwrap();
}

fn fill(store: &Store) {
    let digest = store.blobs().put(b"layer").unwrap();
    let (diff_id, key) = (DiffId(digest), CacheKey(ContentDigest::of(b"key")));
    let mut form = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"gz"), 300);
    form.annotations.insert("a".to_owned(), "b".to_owned());
    let layer = LayerInfo {
        diff_id,
        size_bytes: 5,
        forms: vec![Descriptor::new(media_type::LAYER, digest, 5)],
    };
    let entry = |path: &str, kind| TreeEntry {
        path: RelPath::clean(path.as_bytes()),
        kind,
        mode: 0o4755,
        uid: 1000,
        gid: 7,
        mtime: Timestamp {
            seconds: -5,
            nanoseconds: 9,
        },
        xattrs: vec![(b"user.x".to_vec(), vec![0xff])],
    };
    let content = ContentDigest::of(b"content");
    let tree = Tree::new(vec![
        entry("etc", EntryKind::Directory { opaque: true }),
        entry("etc/file", EntryKind::File { size: 7, content }),
        entry(
            "etc/link",
            EntryKind::Symlink {
                target: b"../x".to_vec(),
            },
        ),
        entry("etc/old", EntryKind::Whiteout),
    ]);
    store.trees().put(diff_id, &tree).unwrap();
    let record = CacheRecord {
        key,
        layer: layer.clone(),
        chain: ChainId(digest),
        created_ms: 1_700_000_000_000,
        duration_ms: 1_500,
        step: "[1/2] RUN make".to_owned(),
    };
    store.records().insert(&record).unwrap();
    store.records().add_form(diff_id, &form).unwrap();
    store
        .records()
        .put_alias(
            CacheKey(ContentDigest::of(b"definition")),
            &Alias {
                key,
                inputs: vec![vec![ChainId(digest)], Vec::new()],
            },
        )
        .unwrap();
    fill_history(store, key);
    let mut preimage = Preimage::default();
    preimage.push("op", "exec");
    preimage.push("env PATH", vec![0xff, 0]);
    store.records().put_preimage(key, &preimage).unwrap();
    let image = Image {
        reference: "app:1".parse().unwrap(),
        first: Variant {
            config: digest,
            platform: "linux/arm/v7".parse().unwrap(),
            layers: vec![layer],
            origins: BTreeMap::from([(diff_id, "debian:12".parse().unwrap())]),
        },
        further: Vec::new(),
        index: None,
        created_ms: 1_700_000_000_001,
    };
    store.images().put(&image).unwrap();
}
