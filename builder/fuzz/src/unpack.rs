//! Unpacking into a directory, beside one that no layer may reach.

use std::fs;
use std::path::Path;

use builder::layer::apply::{LayerSource, scan, unpack as unpack_layer};
use builder::layer::limits::Limits;
use builder::layer::lower::LowerDirs;
use proto::digest::{DiffId, Digest};
use proto::oci::Compression;
use testdata::hostile::{device, hardlink, member, pax, plain, symlink, tar};

/// Small enough that nothing fills the disk.
const LIMITS: Limits = Limits {
    unpacked_bytes: 1 << 20,
    ratio: 1000,
    ratio_from_bytes: 1 << 20,
    entries: 1000,
    extended_header_bytes: 1 << 16,
    metadata_bytes: 1 << 20,
    xattrs: 16,
    link_steps: 100_000,
    path_bytes: 4095,
    component_bytes: 255,
    depth: 64,
    zstd_window_log: 20,
};

/// Whatever a layer says, nothing outside of its directory changes, and reading it without writing comes to the same.
pub fn unpack(input: &[u8]) {
    let bytes = super::signed(input);
    let place = tempfile::tempdir().expect("there is room for a directory");
    let at = |name: &str| place.path().join(name);
    for name in ["outside", "lower", "lower/real", "dest"] {
        fs::create_dir(at(name)).expect("a new directory can be made");
    }
    fs::write(at("outside/canary"), "alive").expect("a file can be written");
    fs::write(at("lower/real/file"), "below").expect("a file can be written");
    link(&at("outside"), &at("lower/out"));
    link(Path::new("../outside"), &at("lower/up"));
    let lowers = [at("lower")];
    let source = || LayerSource {
        reader: bytes.as_slice(),
        compression: Compression::None,
        expected: DiffId(Digest::of(&bytes)),
    };
    let written = unpack_layer(source(), &at("dest"), &lowers, &LIMITS);
    let lower = LowerDirs::open(&lowers).expect("the layer below is there");
    let read = scan(source(), &lower, &LIMITS);
    // A file system has limits of its own, such as for attributes.
    if written.is_ok() {
        assert_eq!(format!("{written:?}"), format!("{read:?}"));
    }
    let names: Vec<_> = fs::read_dir(at("outside"))
        .expect("the directory is still there")
        .map(|entry| entry.expect("it can be listed").file_name())
        .collect();
    assert_eq!(names, ["canary"]);
    let canary = at("outside/canary");
    assert_eq!(fs::read(&canary).expect("the canary is a file"), b"alive");
    let facts = fs::symlink_metadata(&canary).expect("the canary is there");
    let links = std::os::unix::fs::MetadataExt::nlink(&facts);
    let mode = std::os::unix::fs::MetadataExt::mode(&facts);
    assert_eq!((links, mode), (1, 0o100_644));
    assert_eq!(
        fs::read(at("lower/real/file")).expect("the layer below is whole"),
        b"below"
    );
}

fn link(target: &Path, place: &Path) {
    std::os::unix::fs::symlink(target, place).expect("a link can be made");
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        tar(&[plain("out/x"), plain("up/canary"), plain("real/x")]),
        tar(&[symlink("l", "../outside"), plain("l/canary"), hardlink("h", "l/canary")]),
        tar(&[hardlink("h", "up/canary"), hardlink("a", "b"), plain("b")]),
        tar(&[plain("up/.wh.canary"), plain("real/.wh..wh..opq"), plain(".wh.real")]),
        tar(&[
            member("d", b'5', "", b""),
            symlink("d/l", "/../out"),
            plain("d/l/x"),
            symlink("d", "up"),
        ]),
        tar(&[
            pax("path", b"out/long"),
            plain("x"),
            pax("linkpath", b"up/canary"),
            hardlink("y", "z"),
        ]),
        tar(&[
            device("up/null", b'3', 1, 3),
            member("out/p", b'6', "", b""),
            member("up", b'5', "", b""),
        ]),
        tar(&[
            pax("SCHILY.xattr.user.a", b"v"),
            plain("real/file"),
            pax("uid", b"7"),
            symlink("real/file", "up"),
        ]),
    ]
}
