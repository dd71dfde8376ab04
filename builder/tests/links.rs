//! Names of files in layers, more of them than anybody needs and in orders that nobody writes. A layer of ten megabytes must not
//! cost an hour: if one of these tests seems to hang, the work has begun to grow with the square of the names.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use builder::layer::apply::{LayerSource, UnpackError, Unpacked, scan};
use builder::layer::limits::Limits;
use builder::layer::lower::LowerTrees;
use proto::digest::{DiffId, Digest};
use proto::oci::Compression;
use proto::tree::{EntryKind, RelPath};

/// Many enough to tell a line from a square.
const NAMES: usize = 20_000;

/// A layer, member by member.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(&mut self, kind: tar::EntryType, name: &str, link: &str, body: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        match kind {
            tar::EntryType::Regular => self.0.append_data(&mut header, name, body).unwrap(),
            _ => self.0.append_link(&mut header, name, link).unwrap(),
        }
    }

    fn file(&mut self, name: &str, body: &str) {
        self.add(tar::EntryType::Regular, name, "", body.as_bytes());
    }

    fn link(&mut self, name: &str, target: &str) {
        self.add(tar::EntryType::Link, name, target, b"");
    }

    fn scan(self) -> Result<Unpacked, UnpackError> {
        let bytes = self.0.into_inner().unwrap();
        let source = LayerSource {
            reader: bytes.as_slice(),
            compression: Compression::None,
            expected: DiffId(Digest::of(&bytes)),
        };
        scan(source, &LowerTrees(Vec::new()), &Limits::default())
    }
}

fn name(number: usize) -> String {
    format!("d/{number:06}")
}

#[test]
fn links_that_wait_for_links_are_all_made() {
    let mut layer = Layer::new();
    for number in 0..NAMES {
        layer.link(&name(number), &name(number + 1));
    }
    layer.file(&name(NAMES), "body");
    let tree = layer.scan().unwrap().tree;
    let first = RelPath::clean(name(0).as_bytes());
    assert!(matches!(
        tree.get(&first).unwrap().kind,
        EntryKind::File { size: 4, .. }
    ));
    let links = tree
        .entries()
        .iter()
        .filter(|entry| entry.kind == EntryKind::Hardlink { target: first.clone() });
    assert_eq!(links.count(), NAMES);
}

#[test]
fn a_file_whose_names_are_taken_one_by_one_is_handed_on() {
    let mut layer = Layer::new();
    layer.file(&name(0), "old");
    for number in 1..NAMES {
        layer.link(&name(number), &name(0));
    }
    for number in 0..NAMES - 2 {
        layer.file(&name(number), "new one");
    }
    let tree = layer.scan().unwrap().tree;
    let new = |size: u64| {
        let of_size = |kind: &EntryKind| matches!(kind, EntryKind::File { size: found, .. } if *found == size);
        tree.entries().iter().filter(|entry| of_size(&entry.kind)).count()
    };
    assert_eq!((new(7), new(3)), (NAMES - 2, 1));
    let last = RelPath::clean(name(NAMES - 1).as_bytes());
    let target = RelPath::clean(name(NAMES - 2).as_bytes());
    assert_eq!(tree.get(&last).unwrap().kind, EntryKind::Hardlink { target });
}

#[test]
fn links_in_a_circle_are_refused() {
    let mut layer = Layer::new();
    for number in 0..100 {
        layer.link(&name(number), &name((number + 1) % 100));
    }
    let error = layer.scan().unwrap_err().to_string();
    assert!(error.contains("is refused: its hard link target is no file"), "{error}");
}

#[test]
fn a_link_may_be_as_long_as_the_kernel_takes_it() {
    for (length, taken) in [(4095, true), (4096, false)] {
        let mut layer = Layer::new();
        layer.add(tar::EntryType::Symlink, "link", &"../".repeat(length)[..length], b"");
        layer.file("link/file", "body");
        let outcome = layer.scan().map(drop).map_err(|error| error.to_string());
        match taken {
            true => assert_eq!(outcome, Ok(())),
            false => assert_eq!(outcome.unwrap_err(), "a path is longer than the limit of 4095 bytes"),
        }
    }
}
