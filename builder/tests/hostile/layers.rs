//! Layers of strangers: what leads out, what means two things, what is larger than it looks.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use builder::layer::apply::{LayerSource, UnpackError, Unpacked, scan, unpack};
use builder::layer::limits::Limits;
use builder::layer::lower::{Lower, LowerDirs, LowerTrees};
use proto::digest::{ContentDigest, DiffId, Digest};
use proto::oci::Compression;
use proto::tree::{EntryKind, RelPath};
use testdata::hostile::{device, global, hardlink, header, member, pax, plain, record, sign, symlink, tar};
use testdata::machine::{Need, lacks};

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn source(tar: &[u8]) -> LayerSource<&[u8]> {
    LayerSource {
        reader: tar,
        compression: Compression::None,
        expected: DiffId(Digest::of(tar)),
    }
}

/// Everything visible, one line per path.
fn describe(lower: &dyn Lower) -> Vec<String> {
    let mut lines = Vec::new();
    describe_below(lower, &RelPath::root(), &mut lines);
    lines
}

fn describe_below(lower: &dyn Lower, directory: &RelPath, lines: &mut Vec<String>) {
    for name in lower.children(directory).unwrap() {
        let path = directory.join(&RelPath::parse(&name).unwrap());
        let kind = match &lower.entry(&path).unwrap().unwrap().kind {
            EntryKind::File { size, .. } => format!("file {size}"),
            EntryKind::Directory { .. } => "directory".to_owned(),
            other => format!("{other:?}"),
        };
        lines.push(format!("{path} {kind}"));
        describe_below(lower, &path, lines);
    }
}

struct Range {
    dir: tempfile::TempDir,
}

impl Range {
    /// A directory beside the root that must stay as it is, and a lower layer with links that lead there.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let range = Self { dir };
        std::fs::create_dir(range.at("outside")).unwrap();
        std::fs::write(range.at("outside/canary"), "alive").unwrap();
        std::fs::create_dir_all(range.at("lower/real")).unwrap();
        std::fs::write(range.at("lower/real/file"), "lower").unwrap();
        std::os::unix::fs::symlink(range.at("outside"), range.at("lower/absolute")).unwrap();
        std::os::unix::fs::symlink("../../outside", range.at("lower/upwards")).unwrap();
        std::os::unix::fs::symlink("real", range.at("lower/alias")).unwrap();
        range
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unpacks and scans a layer of these members; both must agree, and nothing outside may have changed.
    fn unpack(&self, parts: &[Vec<u8>]) -> Result<Unpacked, UnpackError> {
        self.unpack_bytes(&tar(parts), &Limits::default())
    }

    fn unpack_bytes(&self, tar: &[u8], limits: &Limits) -> Result<Unpacked, UnpackError> {
        let dest = self.at("dest");
        if dest.exists() {
            std::fs::remove_dir_all(&dest).unwrap();
        }
        std::fs::create_dir(&dest).unwrap();
        let lowers = [self.at("lower")];
        let unpacked = unpack(source(tar), &dest, &lowers, limits);
        let scanned = scan(source(tar), &LowerDirs::open(&lowers).unwrap(), limits);
        assert_eq!(format!("{unpacked:?}"), format!("{scanned:?}"));
        let outside: Vec<_> = std::fs::read_dir(self.at("outside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(outside, ["canary"]);
        assert_eq!(std::fs::read_to_string(self.at("outside/canary")).unwrap(), "alive");
        assert_eq!(std::fs::metadata(self.at("outside/canary")).unwrap().nlink(), 1);
        assert_eq!(std::fs::read_to_string(self.at("lower/real/file")).unwrap(), "lower");
        unpacked
    }

    fn refuses(&self, parts: &[Vec<u8>], message: &str) {
        let error = self.unpack(parts).unwrap_err().to_string();
        assert!(error.contains(message), "expected `{message}`, got `{error}`");
    }

    fn paths(&self, parts: &[Vec<u8>]) -> Vec<String> {
        let unpacked = self.unpack(parts).unwrap();
        unpacked
            .tree
            .entries()
            .iter()
            .map(|entry| entry.path.to_string())
            .collect()
    }
}

#[test]
fn l01_names_cannot_leave_the_root() {
    if lacks("l01_names_cannot_leave_the_root", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    for name in ["../outside/x", "a/../../outside/x", "..", "a/.."] {
        range.refuses(&[plain(name)], "leaves the root");
    }
    range.refuses(&[pax("path", b"a\0b"), plain("x")], "is no name");
    assert_eq!(range.paths(&[plain("/etc//./x")]), ["etc/x"]);
    assert_eq!(range.paths(&[plain("a\n\u{1b}[31m")]), ["a\\n\\u{1b}[31m"]);
}

#[test]
fn l02_links_are_followed_inside_the_root_only() {
    if lacks("l02_links_are_followed_inside_the_root_only", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    assert_eq!(
        range.paths(&[symlink("l", "../../outside"), plain("l/x")]),
        ["l", "outside/x"]
    );
    assert_eq!(
        range.paths(&[plain("alias/new")]),
        ["real/new"],
        "through a link of a lower layer"
    );
    assert_eq!(range.paths(&[plain("upwards/x")]), ["outside/x"]);
    let inside = range.at("outside").join("x");
    let inside = inside.to_str().unwrap().trim_start_matches('/').to_owned();
    assert_eq!(range.paths(&[plain("absolute/x")]), [inside]);
    range.refuses(
        &[symlink("a", "b"), symlink("b", "a"), plain("a/x")],
        "links without end",
    );
    range.refuses(&[plain("f"), plain("f/x")], "is no directory");
    range.refuses(&[plain("real/file/x")], "is no directory");
}

#[test]
fn l04_an_entry_replaces_a_link_and_never_writes_through_it() {
    if lacks(
        "l04_an_entry_replaces_a_link_and_never_writes_through_it",
        &[Need::Root],
    ) {
        return;
    }
    let range = Range::new();
    let canary = range.at("outside/canary");
    let target = canary.to_str().unwrap().to_owned();
    for parts in [
        vec![symlink("l", &target), plain("l")],
        vec![symlink("l", &target), member("l", b'5', "", b"")],
        vec![symlink("l", &target), member("l", b'6', "", b"")],
    ] {
        assert_eq!(range.paths(&parts), ["l"]);
        assert!(!range.at("dest/l").is_symlink());
    }
    let unpacked = range.unpack(&[plain("a"), member("a", b'0', "", b"last")]).unwrap();
    let content = ContentDigest::of(b"last");
    assert_eq!(unpacked.tree.entries()[0].kind, EntryKind::File { size: 4, content });
    assert_eq!(
        range.paths(&[plain("d/x"), plain("d")]),
        ["d"],
        "a file replaces a directory"
    );
}

#[test]
fn l03_hard_links_stay_inside() {
    if lacks("l03_hard_links_stay_inside", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    range.refuses(&[hardlink("h", "../outside/canary")], "hard link target");
    range.refuses(&[hardlink("h", "upwards/canary")], "hard link target");
    range.refuses(&[hardlink("h", "absolute/canary")], "hard link target");
    range.refuses(&[hardlink("h", "h")], "hard link target");
    range.refuses(&[hardlink("a", "b"), hardlink("b", "a")], "hard link target");
    range.refuses(&[hardlink("h", "real")], "hard link target");
    // Through a link, the link itself is meant.
    let unpacked = range.unpack(&[hardlink("h", "absolute")]).unwrap();
    assert!(matches!(unpacked.tree.entries()[0].kind, EntryKind::Symlink { .. }));

    let unpacked = range.unpack(&[hardlink("h", "real/file")]).unwrap();
    let content = ContentDigest::of(b"lower");
    assert_eq!(unpacked.tree.entries()[0].kind, EntryKind::File { size: 5, content });
    assert_ne!(
        range.at("dest/h").metadata().unwrap().ino(),
        range.at("lower/real/file").metadata().unwrap().ino()
    );
}

#[test]
fn l03_hard_links_survive_any_order_and_replaced_files() {
    if lacks("l03_hard_links_survive_any_order_and_replaced_files", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    let link = |target: &str| EntryKind::Hardlink { target: path(target) };
    let kind = |unpacked: &Unpacked, at: &str| unpacked.tree.get(&path(at)).unwrap().kind.clone();
    for parts in [[plain("b"), hardlink("a", "b")], [hardlink("a", "b"), plain("b")]] {
        let unpacked = range.unpack(&parts).unwrap();
        assert!(matches!(kind(&unpacked, "a"), EntryKind::File { size: 4, .. }));
        assert_eq!(kind(&unpacked, "b"), link("a"));
    }
    let replaced = [
        plain("a"),
        hardlink("b", "a"),
        hardlink("c", "b"),
        member("a", b'0', "", b"x"),
    ];
    let unpacked = range.unpack(&replaced).unwrap();
    assert!(matches!(kind(&unpacked, "a"), EntryKind::File { size: 1, .. }));
    assert!(matches!(kind(&unpacked, "b"), EntryKind::File { size: 4, .. }));
    assert_eq!(kind(&unpacked, "c"), link("b"));
}

#[test]
fn l08_whiteouts_remove_what_is_below_and_nothing_else() {
    if lacks("l08_whiteouts_remove_what_is_below_and_nothing_else", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", ".wh.a/b"] {
        range.refuses(&[plain(name)], "whiteout");
    }
    assert_eq!(range.paths(&[plain(".wh..wh.plnk"), plain(".wh..wh.aufs/x")]), [""; 0]);
    let visible = |range: &Range| describe(&LowerDirs::open(&[range.at("dest"), range.at("lower")]).unwrap());
    range.unpack(&[plain("alias/.wh.file"), plain(".wh.nothing")]).unwrap();
    assert!(!visible(&range).iter().any(|line| line.starts_with("real/file")));
    assert!(!range.at("dest/.wh.nothing").exists() && !range.at("dest/nothing").exists());
    // Whatever the order, a layer does not remove what it brings itself.
    for parts in [
        vec![plain("real/new"), plain("real/.wh..wh..opq")],
        vec![plain("real/.wh..wh..opq"), plain("real/new")],
        vec![plain(".wh.real"), plain("real/new")],
        vec![plain("real/new"), plain(".wh.real")],
    ] {
        let unpacked = range.unpack(&parts).unwrap();
        assert_eq!(
            unpacked.tree.get(&path("real")).unwrap().kind,
            EntryKind::Directory { opaque: true }
        );
        let real: Vec<String> = visible(&range)
            .into_iter()
            .filter(|line| line.starts_with("real/"))
            .collect();
        assert_eq!(real.len(), 1, "{real:?}");
        assert!(real[0].starts_with("real/new file 4"));
    }
    range.unpack(&[plain(".wh..wh..opq"), plain("only")]).unwrap();
    assert_eq!(visible(&range).len(), 1);
    range
        .unpack(&[plain("upwards/.wh.canary"), plain("absolute/.wh..wh..opq")])
        .unwrap();
}

#[test]
fn missing_parents_look_as_they_do_below() {
    if lacks("missing_parents_look_as_they_do_below", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    std::fs::set_permissions(range.at("lower/real"), std::fs::Permissions::from_mode(0o2710)).unwrap();
    range.unpack(&[plain("real/x"), plain("fresh/deep/x")]).unwrap();
    let mode = |name: &str| range.at(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode("dest/real"), 0o2710);
    assert_eq!((mode("dest/fresh"), mode("dest/fresh/deep")), (0o755, 0o755));
    let mtime = |name: &str| range.at(name).metadata().unwrap().mtime();
    assert_eq!(mtime("dest/real"), mtime("lower/real"));
}

#[test]
fn l07_devices_and_attributes_that_speak_to_overlayfs_are_kept_out() {
    if lacks(
        "l07_devices_and_attributes_that_speak_to_overlayfs_are_kept_out",
        &[Need::Root],
    ) {
        return;
    }
    let range = Range::new();
    range.refuses(&[member("x", b'3', "", b"")], "device 0:0");
    let xattrs = [
        ("SCHILY.xattr.user.overlay.opaque", &b"y"[..]),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.security.capability", b"short"),
    ];
    for (key, value) in xattrs {
        let unpacked = range.unpack(&[pax(key, value), member("real", b'5', "", b"")]).unwrap();
        assert_eq!(unpacked.tree.entries()[0].xattrs, [], "{key}");
        assert!(describe(&LowerDirs::open(&[range.at("dest"), range.at("lower")]).unwrap()).len() > 1);
    }
    let unpacked = range
        .unpack(&[pax("SCHILY.xattr.user.note", b"kept"), plain("f")])
        .unwrap();
    assert_eq!(
        unpacked.tree.entries()[0].xattrs,
        [(b"user.note".to_vec(), b"kept".to_vec())]
    );
    let mut value = [0; 16];
    assert_eq!(
        rustix::fs::getxattr(range.at("dest/f"), "user.note", &mut value[..]).unwrap(),
        4
    );
}

#[test]
fn l05_tars_that_readers_disagree_about_are_refused() {
    if lacks("l05_tars_that_readers_disagree_about_are_refused", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    range.refuses(
        &[pax("path", b"a"), pax("path", b"b"), plain("x")],
        "two extended headers of one kind",
    );
    range.refuses(&[pax("size", b"-1"), plain("x")], "does not parse");
    range.refuses(&[pax("size", b"0x10"), plain("x")], "does not parse");
    range.refuses(&[pax("GNU.sparse.size", b"4398046511104"), plain("x")], "sparse");
    range.refuses(&[member("x", b'S', "", b"")], "sparse");
    range.refuses(&[member("x", b'Z', "", b"")], "type is unknown");
    range.refuses(&[pax("path", b"x")], "before no entry");
    let mut broken = plain("x");
    broken[0] ^= 1;
    range.refuses(&[broken], "checksum");
    // The extended size wins: what looks like a second header is the body.
    let hidden = plain("hidden");
    let parts = [pax("size", b"1024"), header(b"outer", b'0', b"", 0), hidden];
    assert_eq!(range.paths(&parts), ["outer"]);
    let cut = [plain("a"), plain("b")].concat();
    for length in [1, 511, 514, 700, 1024 + 512 + 3] {
        assert!(
            range.unpack_bytes(&cut[..length], &Limits::default()).is_err(),
            "{length}"
        );
    }
}

#[test]
fn l06_bombs_end_at_named_limits() {
    if lacks("l06_bombs_end_at_named_limits", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    let refuses = |parts: &[Vec<u8>], limits: Limits, message: &str| {
        let error = range.unpack_bytes(&parts.concat(), &limits).unwrap_err().to_string();
        assert!(error.contains(message), "expected `{message}`, got `{error}`");
    };
    let usual = Limits::default();
    refuses(&[pax("path", &vec![b'x'; 2 << 20]), plain("x")], usual, "1048576 bytes");
    refuses(
        &[member("x", b'L', "", &vec![b'x'; 2 << 20]), plain("x")],
        usual,
        "1048576 bytes",
    );
    refuses(
        &[pax("path", "x/".repeat(3000).as_bytes()), plain("x")],
        usual,
        "4095 bytes",
    );
    refuses(
        &[pax("path", "x/".repeat(600).as_bytes()), plain("x")],
        usual,
        "512 directories",
    );
    refuses(&[pax("path", &[b'x'; 256]), plain("x")], usual, "255 bytes");
    refuses(
        &[plain("a"), plain("b"), plain("c")],
        Limits { entries: 2, ..usual },
        "2 entries",
    );
    refuses(
        &[pax("size", b"99999999999999"), plain("a")],
        usual,
        "68719476736 bytes",
    );
}

#[test]
fn l05_a_lone_block_of_zeros_is_no_end() {
    if lacks("l05_a_lone_block_of_zeros_is_no_end", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    range.refuses(&[plain("a"), vec![0; 512], plain("hidden")], "lone block of zeros");
    // What follows two of them belongs to nobody, and an archive may end with one.
    assert_eq!(range.paths(&[plain("a"), vec![0; 1024], plain("hidden")]), ["a"]);
    let one = [plain("a"), vec![0; 512]].concat();
    assert!(range.unpack_bytes(&one, &Limits::default()).is_ok());
}

#[test]
fn l05_what_is_said_for_all_members_is_their_owner_and_time_only() {
    if lacks(
        "l05_what_is_said_for_all_members_is_their_owner_and_time_only",
        &[Need::Root],
    ) {
        return;
    }
    let range = Range::new();
    for key in ["path", "linkpath", "size", "SCHILY.xattr.user.x"] {
        range.refuses(&[global(key, b"1"), plain("x")], "a global extended header");
    }
    let unpacked = range.unpack(&[global("comment", b"of git"), global_two(), plain("x")]);
    assert!(unpacked.is_err(), "two in a row are one too many");
    let unpacked = range.unpack(&[global_two(), plain("x"), plain("y")]).unwrap();
    let owners = unpacked.tree.entries().iter().map(|entry| (entry.uid, entry.gid));
    assert_eq!(
        owners.collect::<Vec<_>>(),
        [(7, 0), (7, 0)],
        "the last of equal keys counts"
    );
}

fn global_two() -> Vec<u8> {
    let records = [record("uid", b"5"), record("comment", b"x"), record("uid", b"7")].concat();
    member("pax", b'g', "", &records)
}

#[test]
fn l06_bombs_of_names_end_at_named_limits() {
    let usual = Limits::default();
    let refuses = |parts: &[Vec<u8>], limits: Limits, message: &str| {
        let bytes = tar(parts);
        let error = scan(source(&bytes), &LowerTrees::default(), &limits)
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "expected `{message}`, got `{error}`");
    };
    // A few bytes that name many directories, which nobody made.
    let deep = |top: u32| {
        [
            pax("path", format!("{top}/{}f", "d/".repeat(400)).as_bytes()),
            plain("x"),
        ]
        .concat()
    };
    let few = Limits {
        metadata_bytes: 1 << 20,
        ..usual
    };
    refuses(&(0..20).map(deep).collect::<Vec<_>>(), few, "limit of 1048576 bytes");
    let few = Limits { entries: 1000, ..usual };
    refuses(&(0..20).map(deep).collect::<Vec<_>>(), few, "1000 entries");
    // Whiteouts are names, too.
    let gone = |number: u32| plain(&format!("{number}/.wh.{}", "x".repeat(50)));
    let few = Limits {
        metadata_bytes: 4000,
        ..usual
    };
    refuses(&(0..100).map(gone).collect::<Vec<_>>(), few, "limit of 4000 bytes");
    // A short name that leads up and down through a link, again and again.
    let winding = "a/../".repeat(800);
    let mut through = vec![
        member("a", b'5', "", b""),
        [pax("linkpath", winding.as_bytes()), symlink("l", "x")].concat(),
    ];
    through.extend((0..50).map(|number| plain(&format!("l/{number}"))));
    let few = Limits {
        link_steps: 50_000,
        ..usual
    };
    refuses(&through, few, "50000 components");
    let attributes: Vec<u8> = (0..300)
        .flat_map(|number| record(&format!("SCHILY.xattr.user.{number}"), b""))
        .collect();
    refuses(
        &[member("pax", b'x', "", &attributes), plain("x")],
        usual,
        "256 extended attributes",
    );
    let attribute = [pax("SCHILY.xattr.user.a", &[b'v'; 3000]), plain("x")].concat();
    let few = Limits {
        metadata_bytes: 2000,
        ..usual
    };
    refuses(&[attribute], few, "limit of 2000 bytes");
}

#[test]
fn l07_device_nodes_are_kept_as_they_are_said_to_be() {
    if lacks("l07_device_nodes_are_kept_as_they_are_said_to_be", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    let unpacked = range
        .unpack(&[device("null", b'3', 1, 3), device("disk", b'4', 8, 0)])
        .unwrap();
    let kinds: Vec<_> = unpacked.tree.entries().iter().map(|entry| entry.kind.clone()).collect();
    let (block, character) = (
        EntryKind::BlockDevice { major: 8, minor: 0 },
        EntryKind::CharDevice { major: 1, minor: 3 },
    );
    assert_eq!(kinds, [block, character]);
    range.refuses(&[device("x", b'3', 0, 0)], "device 0:0");
}

#[test]
fn l09_odd_names_are_bytes_that_are_escaped_where_they_are_shown() {
    if lacks(
        "l09_odd_names_are_bytes_that_are_escaped_where_they_are_shown",
        &[Need::Root],
    ) {
        return;
    }
    let range = Range::new();
    // Neither UTF-8 nor printable, and still the name of a file.
    let odd = b"\xff\x1b]0;title\x07";
    let unpacked = range.unpack(&[pax("path", odd), plain("x")]).unwrap();
    assert_eq!(unpacked.tree.entries()[0].path.as_bytes(), odd);
    let message = range.unpack(&[plain("a\u{1b}[2J/../b")]).unwrap_err().to_string();
    assert!(!message.chars().any(char::is_control), "{message:?}");
    range.refuses(&[pax("path", b"a\0b"), plain("x")], "is no name");
    range.refuses(&[pax("linkpath", b"a\0b"), symlink("x", "y")], "is no name");
    let twice = range
        .unpack(&[plain("a"), symlink("a", "b"), member("a", b'0', "", b"last")])
        .unwrap();
    assert_eq!(twice.tree.entries().len(), 1, "the last of a name wins");
    assert!(matches!(twice.tree.entries()[0].kind, EntryKind::File { size: 4, .. }));
}

#[test]
fn l11_a_layer_is_what_its_image_says_to_the_last_byte() {
    let bytes = tar(&[plain("a")]);
    let refused = |reader: &[u8], expected: DiffId| {
        let wrong = LayerSource {
            expected,
            ..source(reader)
        };
        scan(wrong, &LowerTrees::default(), &Limits::default()).unwrap_err()
    };
    let error = refused(&bytes, DiffId::EMPTY);
    assert!(
        matches!(error, UnpackError::DiffId { expected: DiffId::EMPTY, found } if found == DiffId(Digest::of(&bytes)))
    );
    // What follows the end of the archive counts.
    let longer = [bytes.clone(), vec![0; 512]].concat();
    let error = refused(&longer, DiffId(Digest::of(&bytes)));
    assert!(matches!(error, UnpackError::DiffId { .. }), "{error}");
}

#[test]
fn t12_an_owner_that_means_nobody_is_refused() {
    if lacks("t12_an_owner_that_means_nobody_is_refused", &[Need::Root]) {
        return;
    }
    let range = Range::new();
    for key in ["uid", "gid"] {
        // The kernel would leave the file to the engine, which is root.
        range.refuses(&[pax(key, b"4294967295"), plain("x")], "no user or group");
        for id in ["4294967296", "-1", "+1", "0x1", ""] {
            range.refuses(&[pax(key, id.as_bytes()), plain("x")], "does not parse");
        }
    }
    let mut negative = header(b"x", b'0', b"", 0);
    negative[108..116].fill(0xff);
    sign(&mut negative);
    range.refuses(&[negative], "is no number");
}
