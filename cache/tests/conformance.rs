//! One suite over every implementation: blobs and records, on disk and in memory.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::blob::{BlobError, BlobStore, MemoryBlobs, damaged};
use cache::records::{Inserted, MemoryRecords, RecordStore};
use cache::store::{Options, Store};
use proto::digest::{ChainId, ContentDigest, DiffId, Digest};
use proto::oci::{Descriptor, media_type};
use proto::record::{CacheKey, CacheRecord, LayerInfo};

fn open(root: &Path) -> Store {
    Store::open(root, &Options::new(Arc::new(|| 1_000))).unwrap()
}

/// Runs `check` with each blob store and a way to replace a blob's bytes behind its back.
fn with_blobs(check: impl Fn(&dyn BlobStore, &dyn Fn(Digest, &[u8]))) {
    let memory = MemoryBlobs::default();
    check(&memory, &|digest, bytes| memory.overwrite(digest, bytes));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = open(&root);
    check(store.blobs(), &|digest, bytes| {
        store.commit_group().unwrap();
        fs::write(blob_path(&root, digest), bytes).unwrap();
    });
}

fn blob_path(root: &Path, digest: Digest) -> PathBuf {
    root.join(cache::blob::disk::file_name(digest))
}

fn with_records(check: impl Fn(&dyn RecordStore)) {
    check(&MemoryRecords::default());
    let dir = tempfile::tempdir().unwrap();
    check(open(&dir.path().join("store")).records());
}

fn record(name: &str, step: &str) -> CacheRecord {
    let diff_id = DiffId(Digest::of(name.as_bytes()));
    CacheRecord {
        key: CacheKey(ContentDigest::of(name.as_bytes())),
        layer: LayerInfo {
            diff_id,
            size_bytes: 7,
            forms: vec![Descriptor::new(media_type::LAYER, diff_id.0, 7)],
        },
        chain: ChainId(diff_id.0),
        created_ms: 1,
        duration_ms: 2,
        step: step.to_owned(),
    }
}

#[test]
fn a_blob_is_read_while_it_is_written_and_to_its_end_only_when_it_is_one() {
    with_blobs(|blobs, _| {
        let digest = Digest::of(b"hello");
        let mut ingest = blobs.ingest().unwrap().digested_by_writer();
        ingest.write_all(b"he").unwrap();
        let mut early = ingest.follow().unwrap();
        ingest.write_all(b"llo").unwrap();
        let mut late = ingest.follow().unwrap();
        let mut start = [0; 4];
        early.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"hell");
        let progress = early.progress();
        let rest = std::thread::spawn(move || {
            let mut rest = String::new();
            early.read_to_string(&mut rest).map(|_| rest)
        });
        ingest.commit(digest, 5).unwrap();
        assert_eq!(rest.join().unwrap().unwrap(), "o");
        assert!(progress.was_committed());
        let mut all = String::new();
        late.read_to_string(&mut all).unwrap();
        assert_eq!(all, "hello");

        let mut given_up = blobs.ingest().unwrap().digested_by_writer();
        given_up.write_all(b"lost").unwrap();
        let mut follower = given_up.follow().unwrap();
        let progress = follower.progress();
        drop(given_up);
        assert!(!progress.was_committed());
        assert!(follower.read_to_end(&mut Vec::new()).is_err());
    });
}

#[test]
fn a_blob_is_there_once_committed_and_never_before() {
    with_blobs(|blobs, _| {
        let digest = Digest::of(b"hello");
        let mut ingest = blobs.ingest().unwrap();
        ingest.write_all(b"hel").unwrap();
        ingest.write_all(b"lo").unwrap();
        assert!(!blobs.contains(digest).unwrap());
        assert_eq!(ingest.commit(Some((digest, 5))).unwrap(), digest);
        assert_eq!(blobs.size(digest).unwrap(), Some(5));
        assert_eq!(blobs.read(digest, 5).unwrap().unwrap(), b"hello");
        assert!(matches!(
            blobs.read(digest, 4),
            Err(BlobError::TooLarge { size_bytes: 5, .. })
        ));
        assert!(blobs.remove(digest).unwrap());
        assert!(!blobs.remove(digest).unwrap());
        assert!(blobs.open(digest).unwrap().is_none());
    });
}

#[test]
fn a_blob_with_another_digest_or_size_than_promised_is_refused() {
    with_blobs(|blobs, _| {
        let digest = Digest::of(b"hello");
        for expected in [(Digest::of(b"other"), 5), (digest, 4)] {
            let mut ingest = blobs.ingest().unwrap();
            ingest.write_all(b"hello").unwrap();
            assert!(matches!(
                ingest.commit(Some(expected)),
                Err(BlobError::Mismatch { found_bytes: 5, .. })
            ));
        }
        assert!(!blobs.contains(digest).unwrap());
    });
}

#[test]
fn an_abandoned_blob_never_was() {
    with_blobs(|blobs, _| {
        let mut ingest = blobs.ingest().unwrap();
        ingest.write_all(b"gone").unwrap();
        drop(ingest);
        assert!(!blobs.contains(Digest::of(b"gone")).unwrap());
    });
}

#[test]
fn a_damaged_blob_fails_with_its_last_bytes_and_is_not_there_afterwards() {
    with_blobs(|blobs, overwrite| {
        for bad in [&b"hellO"[..], b"hell", b"", b"hello!"] {
            let digest = blobs.put(b"hello").unwrap();
            overwrite(digest, bad);
            let mut reader = blobs.open(digest).unwrap().unwrap();
            let mut bytes = Vec::new();
            let error = reader.read_to_end(&mut bytes).unwrap_err();
            assert_eq!(damaged(&error), Some(digest));
            assert!(
                bad.is_empty() || bytes.len() < bad.len(),
                "the last bytes were handed out"
            );
            assert!(reader.read(&mut [0; 8]).is_err(), "a bad reader stays bad");
            assert!(!blobs.contains(digest).unwrap());
        }
        let digest = blobs.put(b"hello").unwrap();
        assert_eq!(
            blobs.read(digest, 9).unwrap().unwrap(),
            b"hello",
            "it can be made again"
        );
    });
}

#[test]
fn the_empty_blob_is_a_blob() {
    with_blobs(|blobs, _| {
        let digest = blobs.put(b"").unwrap();
        assert_eq!(blobs.read(digest, 0).unwrap().unwrap(), b"");
    });
}

#[test]
fn a_new_copy_replaces_a_damaged_one() {
    with_blobs(|blobs, overwrite| {
        let digest = blobs.put(b"hello").unwrap();
        overwrite(digest, b"HELLO");
        blobs.put(b"hello").unwrap();
        assert_eq!(blobs.read(digest, 5).unwrap().unwrap(), b"hello");
    });
}

#[test]
fn lookups_answer_in_the_order_of_the_keys() {
    with_records(|records| {
        let (a, b) = (record("a", "first"), record("b", "second"));
        assert_eq!(records.insert(&a).unwrap(), Inserted::Mine);
        assert_eq!(records.insert(&b).unwrap(), Inserted::Mine);
        let missing = record("c", "").key;
        let found = records.lookup(&[b.key, missing, a.key]);
        assert_eq!(found, [Some(b), None, Some(a)]);
    });
}

#[test]
fn the_first_writer_of_a_key_wins() {
    with_records(|records| {
        let first = record("a", "first");
        let mut second = first.clone();
        second.step = "second".to_owned();
        assert_eq!(records.insert(&first).unwrap(), Inserted::Mine);
        assert_eq!(
            records.insert(&second).unwrap(),
            Inserted::Theirs(Box::new(first.clone()))
        );
        assert_eq!(records.lookup(&[first.key]), [Some(first.clone())]);
        assert!(records.remove(first.key).unwrap());
        assert_eq!(records.insert(&second).unwrap(), Inserted::Mine);
    });
}

#[test]
fn later_forms_of_a_layer_show_in_its_records_once() {
    with_records(|records| {
        let record = record("a", "");
        records.insert(&record).unwrap();
        let mut gzip = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b"gz"), 3);
        gzip.annotations.insert("k".to_owned(), "v".to_owned());
        for _ in 0..2 {
            records.add_form(record.layer.diff_id, &gzip).unwrap();
        }
        let mut expected = record.clone();
        expected.layer.forms.push(gzip);
        assert_eq!(records.lookup(&[record.key]), [Some(expected)]);
    });
}

#[test]
fn a_blob_whose_check_digest_went_bad_is_read_and_gets_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = open(&root);
    let digest = store.blobs().put(&[b'x'; 300_000]).unwrap();
    store.commit_group().unwrap();
    let file = fs::File::open(blob_path(&root, digest)).unwrap();
    let attribute = "user.rbuild.blake3";
    let check = || {
        let mut check = [0; 32];
        assert_eq!(rustix::fs::fgetxattr(&file, attribute, &mut check).unwrap(), 32);
        check
    };
    let right = check();
    assert_eq!(right, *blake3::hash(&[b'x'; 300_000]).as_bytes());
    // Flipped, cut short, gone.
    let mut flipped = right;
    flipped[7] ^= 1;
    for wrong in [Some(&flipped[..]), Some(&flipped[..9]), None] {
        match wrong {
            Some(wrong) => {
                rustix::fs::fsetxattr(&file, attribute, wrong, rustix::fs::XattrFlags::empty()).unwrap();
            }
            None => rustix::fs::fremovexattr(&file, attribute).unwrap(),
        }
        assert_eq!(store.blobs().read(digest, 1 << 20).unwrap().unwrap(), [b'x'; 300_000]);
        assert_eq!(check(), right, "{wrong:?}");
    }
}

#[test]
fn damaged_bytes_are_found_whatever_the_check_digest_says() {
    let damaged_bytes = [b'y'; 300_000];
    for check in [None, Some([0; 32]), Some(*blake3::hash(&[b'x'; 300_000]).as_bytes())] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = open(&root);
        let digest = store.blobs().put(&[b'x'; 300_000]).unwrap();
        store.commit_group().unwrap();
        let path = blob_path(&root, digest);
        fs::write(&path, damaged_bytes).unwrap();
        let file = fs::File::open(&path).unwrap();
        match check {
            Some(check) => {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::fsetxattr(&file, "user.rbuild.blake3", &check, flags).unwrap();
            }
            None => rustix::fs::fremovexattr(&file, "user.rbuild.blake3").unwrap(),
        }
        let error = std::io::copy(&mut store.blobs().open(digest).unwrap().unwrap(), &mut std::io::sink()).unwrap_err();
        assert_eq!(damaged(&error), Some(digest));
        assert!(store.blobs().was_damaged(digest));
    }
}
