//! What must hold for all bytes that come from outside. Each function panics when it does not.

mod documents;
mod requests;
mod unpack;

pub use documents::documents;
pub use requests::requests;
pub use unpack::unpack;

use builder::layer::apply::{LayerSource, scan};
use builder::layer::limits::Limits;
use builder::layer::lower::LowerTrees;
use prost::Message;
use proto::digest::{ContentDigest, DiffId, Digest};
use proto::oci::Compression;
use proto::record::CacheRecord;
use proto::tree::Tree;
use proto::v1;
use tar::{Builder, EntryType, Header};
use testdata::fuzz::Target;

/// What there is to run.
pub const TARGETS: &[Target] = &[
    Target {
        name: "layer",
        run: layer,
        seeds: tars,
        words: &[
            "../",
            "/",
            ".wh.",
            ".wh..wh..opq",
            "ustar\x0000",
            "12 path=",
            "5",
            "L",
            "x",
            "\0\0\0\0\0\0\0\0",
            "\u{80}",
        ],
    },
    Target {
        name: "records",
        run: records,
        seeds: messages,
        words: &["\x0a\x20", "\x12\x00", "sha256:", "..", "/", "\0"],
    },
    Target {
        name: "unpack",
        run: unpack,
        seeds: unpack::seeds,
        words: &[
            "../",
            "/",
            "out/",
            "up/canary",
            "real/",
            ".wh.",
            ".wh..wh..opq",
            "ustar\x0000",
            "15 linkpath=up\n",
            "13 path=out/x\n",
            "1",
            "2",
            "5",
        ],
    },
    Target {
        name: "documents",
        run: documents,
        seeds: documents::seeds,
        words: &[
            "\"manifests\":[",
            "\"layers\":[",
            "\"config\":{",
            "\"mediaType\":\"",
            "\"digest\":\"sha256:",
            "\"platform\":{",
            "\"size\":-1",
            "1e400",
            "[[[[[[[[",
            "\\u0000",
        ],
    },
    Target {
        name: "requests",
        run: requests,
        seeds: requests::seeds,
        words: &[
            "type=",
            "dest=",
            "..",
            "/",
            "linux/amd64",
            "sha256:",
            "\0",
            "\x0a\x00",
            "security.insecure",
        ],
    },
];

/// For libFuzzer: see [`Target::write_seeds`].
pub fn write_seeds(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.expect("the target has a row in the table").write_seeds();
}

/// Members of an archive whose checksums are right, whatever else is wrong with them.
pub fn layer(input: &[u8]) {
    let bytes = signed(input);
    let source = LayerSource {
        reader: bytes.as_slice(),
        compression: Compression::None,
        expected: DiffId(Digest::of(&bytes)),
    };
    if let Ok(unpacked) = scan(source, &LowerTrees(Vec::new()), &Limits::default()) {
        assert_eq!(unpacked.size_bytes, bytes.len() as u64);
        for entry in unpacked.tree.entries() {
            let path = entry.path.to_string();
            assert!(
                !path.starts_with('/') && path.split('/').all(|name| name != ".."),
                "{path}"
            );
        }
    }
}

/// The same with right checksums wherever a header is meant.
fn signed(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let headers = bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar");
    headers.for_each(testdata::hostile::sign);
    bytes
}

/// Records and trees decode to something that says the same when it is written again, or are refused.
pub fn records(input: &[u8]) {
    if let Ok(Ok(record)) = v1::StoredRecord::decode(input).map(CacheRecord::try_from) {
        let again = v1::StoredRecord::from(&record);
        assert_eq!(CacheRecord::try_from(again), Ok(record));
    }
    if let Ok(Ok(tree)) = v1::Tree::decode(input).map(Tree::try_from) {
        assert_eq!(Tree::try_from(v1::Tree::from(&tree)), Ok(tree));
    }
    // These are read for people, and only have to be read.
    drop(v1::StoredBuild::decode(input).map(proto::history::BuildRecord::try_from));
    drop(v1::StoredHistory::decode(input).map(proto::history::History::try_from));
    drop(v1::StoredAlias::decode(input).map(proto::record::Alias::try_from));
}

fn tars() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (kind, link) in [
        (EntryType::Regular, ""),
        (EntryType::Directory, ""),
        (EntryType::Symlink, "../target"),
        (EntryType::Link, "d/first"),
        (EntryType::Char, ""),
    ] {
        let mut tar = Builder::new(Vec::new());
        for name in ["d/first", "d/second"] {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(0);
            header.set_path(name).expect("the name is short");
            if !link.is_empty() {
                header.set_link_name(link).expect("the name is short");
            }
            header.set_cksum();
            tar.append(&header, std::io::empty()).expect("memory takes all bytes");
        }
        all.push(tar.into_inner().expect("memory takes all bytes"));
    }
    let mut long = Builder::new(Vec::new());
    let name = "n".repeat(120);
    let mut header = Header::new_gnu();
    header.set_size(4);
    long.append_data(&mut header, format!("{name}/{name}"), &b"text"[..])
        .expect("memory takes all bytes");
    all.push(long.into_inner().expect("memory takes all bytes"));
    all
}

fn messages() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x").as_bytes().to_vec();
    let record = v1::StoredRecord {
        key: ContentDigest::of(b"x").as_bytes().to_vec(),
        layer: Some(v1::StoredLayer {
            diff_id: digest.clone(),
            size_bytes: 7,
            forms: vec![v1::StoredForm {
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
                digest: digest.clone(),
                size: 9,
                annotations: Vec::new(),
            }],
        }),
        chain: digest,
        created_ms: 1,
        duration_ms: 2,
        step: "RUN true".to_owned(),
    };
    let entry = |path: &str| v1::TreeEntry {
        path: path.as_bytes().to_vec(),
        ..v1::TreeEntry::default()
    };
    let tree = v1::Tree {
        entries: vec![entry("a"), entry("a/b")],
    };
    vec![record.encode_to_vec(), tree.encode_to_vec()]
}
