//! Layers there and back: what a diff finds, a tar says and unpacking restores. Building trees with owners and devices takes root.
//! Layers of strangers have a binary of their own, `hostile`.
//!
//! Long because a random tree, its way through a layer and what must come out are read together.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::layer::apply::{LayerSource, Unpacked, scan, unpack};
use builder::layer::diff::{Socket, diff};
use builder::layer::entry::{Content, LayerEntry};
use builder::layer::limits::Limits;
use builder::layer::lower::{Lower, LowerDirs, LowerTrees};
use builder::layer::tar::{LayerWriteError, WrittenLayer, write};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert_eq, proptest};
use proto::digest::{ContentDigest, DiffId, Digest};
use proto::oci::Compression;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
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

fn tar_of(entries: &[LayerEntry]) -> (Vec<u8>, WrittenLayer) {
    let mut tar = Vec::new();
    let written = write(entries, None, &mut tar).unwrap();
    assert_eq!(written.diff_id, DiffId(Digest::of(&tar)));
    assert_eq!(written.size_bytes, tar.len() as u64);
    (tar, written)
}

fn diff_against(upper: &Path, lower: &dyn Lower) -> Vec<LayerEntry> {
    diff(upper, lower, &BTreeSet::new()).unwrap().entries
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
        let entry = lower.entry(&path).unwrap().unwrap();
        let kind = match &entry.kind {
            EntryKind::File { size, .. } => format!("file {size} {}", lower.content(&path).unwrap()),
            EntryKind::Directory { .. } => "directory".to_owned(),
            other => format!("{other:?}"),
        };
        lines.push(format!(
            "{path} {kind} {:o} {}:{} {} {:?}",
            entry.mode, entry.uid, entry.gid, entry.mtime.seconds, entry.xattrs
        ));
        describe_below(lower, &path, lines);
    }
}

// ---- random trees ----

#[derive(Debug, Clone, PartialEq)]
enum What {
    Directory,
    File(&'static str),
    Link(&'static str),
    Pipe,
    Device(u32),
}

#[derive(Debug, Clone, PartialEq)]
struct Spec {
    what: What,
    mode: u32,
    uid: u32,
    mtime: i64,
}

type Model = BTreeMap<Vec<&'static str>, Spec>;

fn specs() -> impl Strategy<Value = Spec> {
    let what = prop_oneof![
        4 => Just(What::Directory),
        // Equal sizes and times with other bytes must be frequent: they are what a lazy comparison misses.
        2 => Just(What::File("one")),
        2 => Just(What::File("two")),
        1 => Just(What::File("")),
        1 => Just(What::Link("/a/b")),
        1 => Just(What::Pipe),
        1 => Just(What::Device(3)),
    ];
    let mode = prop_oneof![Just(0o755), Just(0o4755), Just(0o1777)];
    (what, mode, 0..2_u32, 1..3_i64).prop_map(|(what, mode, uid, mtime)| Spec { what, mode, uid, mtime })
}

fn models() -> impl Strategy<Value = Model> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c d"), Just("é")];
    let at = prop::collection::vec(name, 1..4);
    prop::collection::vec((at, specs()), 0..25).prop_map(|entries| {
        let mut model = Model::new();
        for (at, spec) in entries {
            let inside =
                (1..at.len()).all(|end| model.get(&at[..end]).is_some_and(|spec| spec.what == What::Directory));
            if inside && !model.contains_key(&at) {
                model.insert(at, spec);
            }
        }
        model
    })
}

fn children(model: &Model, directory: &[&'static str]) -> Vec<Vec<&'static str>> {
    let direct = |at: &&Vec<&'static str>| at.len() == directory.len() + 1 && at.starts_with(directory);
    model.keys().filter(direct).cloned().collect()
}

fn on_disk(root: &Path, at: &[&str]) -> PathBuf {
    at.iter().fold(root.to_owned(), |path, name| path.join(name))
}

fn make(root: &Path, at: &[&str], spec: &Spec) {
    let place = on_disk(root, at);
    match spec.what {
        What::Directory => std::fs::create_dir(&place).unwrap(),
        What::File(text) => std::fs::write(&place, text).unwrap(),
        What::Link(target) => std::os::unix::fs::symlink(target, &place).unwrap(),
        What::Pipe => node(&place, FileType::Fifo, 0),
        What::Device(minor) => node(&place, FileType::CharacterDevice, minor),
    }
}

fn node(place: &Path, kind: FileType, minor: u32) {
    let device = rustix::fs::makedev(u32::from(minor != 0), minor);
    rustix::fs::mknodat(CWD, place, kind, Mode::RUSR, device).unwrap();
}

fn set_metadata(root: &Path, at: &[&str], spec: &Spec) {
    let place = on_disk(root, at);
    std::os::unix::fs::lchown(&place, Some(spec.uid), Some(spec.uid)).unwrap();
    if !matches!(spec.what, What::Link(_)) {
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(spec.mode)).unwrap();
    }
    let time = Timespec {
        tv_sec: spec.mtime,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, &place, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn build(root: &Path, model: &Model) {
    std::fs::create_dir(root).unwrap();
    for (at, spec) in model {
        make(root, at, spec);
    }
    for (at, spec) in model.iter().rev() {
        set_metadata(root, at, spec);
    }
}

/// What overlayfs would have in its upper directory after `before` became `after`. `choices` decides between equivalent ways.
fn build_upper(root: &Path, before: &Model, after: &Model, choices: &mut impl FnMut() -> bool) {
    std::fs::create_dir(root).unwrap();
    upper_directory(root, &[], (before, after), false, choices);
    for (at, spec) in after.iter().rev() {
        if on_disk(root, at).symlink_metadata().is_ok() {
            set_metadata(root, at, spec);
        }
    }
}

fn upper_directory(
    root: &Path,
    directory: &[&'static str],
    (before, after): (&Model, &Model),
    opaque: bool,
    choices: &mut impl FnMut() -> bool,
) {
    for gone in children(before, directory)
        .iter()
        .filter(|at| !opaque && !after.contains_key(*at))
    {
        node(&on_disk(root, gone), FileType::CharacterDevice, 0);
    }
    for at in children(after, directory) {
        let (old, new) = (before.get(&at).filter(|_| !opaque), &after[&at]);
        if new.what != What::Directory {
            if old != Some(new) || choices() {
                make(root, &at, new);
            }
            continue;
        }
        make(root, &at, new);
        let was_directory = old.is_some_and(|old| old.what == What::Directory);
        let replaced = opaque || (was_directory && choices());
        if replaced {
            rustix::fs::setxattr(on_disk(root, &at), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
        upper_directory(root, &at, (before, after), replaced || !was_directory, choices);
    }
}

/// `after`, in which no directory differs from `before` by its time alone: such a time is no change.
fn without_mere_touches(before: &Model, mut after: Model) -> Model {
    for (at, spec) in &mut after {
        if let Some(old) = before.get(at)
            && (&old.what, old.mode, old.uid) == (&What::Directory, spec.mode, spec.uid)
            && spec.what == What::Directory
        {
            spec.mtime = old.mtime;
        }
    }
    after
}

#[test]
fn a_directory_that_was_only_touched_is_no_change() {
    if lacks("a_directory_that_was_only_touched_is_no_change", &[Need::Root]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let directory = |mtime, mode| Spec {
        what: What::Directory,
        mode,
        uid: 0,
        mtime,
    };
    let model = |a, b| Model::from([(vec!["a"], a), (vec!["b"], b)]);
    build(&at("before"), &model(directory(1, 0o755), directory(1, 0o755)));
    build(&at("upper"), &model(directory(2, 0o755), directory(2, 0o1777)));
    let below = LowerDirs::open(&[at("before")]).unwrap();
    let paths: Vec<String> = diff_against(&at("upper"), &below)
        .iter()
        .map(|change| change.entry.path.to_string())
        .collect();
    assert_eq!(paths, ["b"]);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn applying_the_diff_of_two_trees_makes_the_second(
        before in models(), after in models(), coins in prop::collection::vec(any::<bool>(), 64)
    ) {
        if lacks("applying_the_diff_of_two_trees_makes_the_second", &[Need::Root]) {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let after = without_mere_touches(&before, after);
        build(&at("before"), &before);
        build(&at("after"), &after);
        let mut coins = coins.into_iter().cycle();
        build_upper(&at("upper"), &before, &after, &mut || coins.next().unwrap());

        let (base_tar, base) = tar_of(&diff_against(&at("before"), &LowerTrees::default()));
        prop_assert_eq!(&scan(source(&base_tar), &LowerTrees::default(), &Limits::default()).unwrap().tree, &base.tree);

        let below = LowerTrees(vec![&base.tree]);
        let (tar, written) = tar_of(&diff_against(&at("upper"), &below));
        let below_dirs = LowerDirs::open(&[at("before")]).unwrap();
        let (same_tar, _) = tar_of(&diff_against(&at("upper"), &below_dirs));
        prop_assert_eq!(Digest::of(&tar), Digest::of(&same_tar));
        if before == after && !tar.windows(4).any(|bytes| bytes == b".wh.") {
            prop_assert_eq!(written.tree.entries().len(), 0);
        }

        std::fs::create_dir(at("unpacked")).unwrap();
        let unpacked = unpack(source(&tar), &at("unpacked"), &[at("before")], &Limits::default()).unwrap();
        prop_assert_eq!(&unpacked.tree, &written.tree);
        let expected = describe(&LowerDirs::open(&[at("after")]).unwrap());
        prop_assert_eq!(&describe(&LowerDirs::open(&[at("unpacked"), at("before")]).unwrap()), &expected);
        let by_trees = LowerTrees(vec![&written.tree, &base.tree]);
        prop_assert_eq!(&describe(&by_trees), &expected);
        let scanned = scan(source(&tar), &below, &Limits::default()).unwrap();
        prop_assert_eq!(&scanned.tree, &written.tree);
    }
}

#[test]
fn what_the_kernel_leaves_in_an_upper_directory_becomes_the_merged_tree_again() {
    if lacks(
        "what_the_kernel_leaves_in_an_upper_directory_becomes_the_merged_tree_again",
        &[Need::Root],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A mount namespace of its own, so that nothing stays mounted whatever happens.
    let script = r"
        set -e
        mkdir -p base/dir/sub base/gone base/replaced/inner base/kept upper work merged expected
        echo 1 > base/dir/file; echo 2 > base/gone/file; echo 3 > base/replaced/old; echo 4 > base/replaced/inner/x
        echo 5 > base/kept/same; echo 6 > base/kept/link-me; ln -s dir base/link
        cp -a base before
        mount -t overlay overlay -o lowerdir=base,upperdir=upper,workdir=work,redirect_dir=off,metacopy=off,index=off merged
        cd merged
        rm -r gone; rm dir/file; mkdir gone; echo new > gone/new
        rm -r replaced; mkdir replaced; mkdir replaced/inner; echo y > replaced/inner/y
        ln kept/link-me kept/second-name; chmod 600 kept/same; chmod 644 kept/same
        echo a > hard-1; ln hard-1 hard-2; ln hard-1 dir/hard-3
        mknod null c 1 3; mkfifo pipe; rm link; ln -s /nowhere link; chown 12:34 dir/sub
        cd ..
        cp -a merged/. expected/
    ";
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    let at = |name: &str| dir.path().join(name);
    let base = LowerDirs::open(&[at("base")]).unwrap();
    let (tar, written) = tar_of(&diff_against(&at("upper"), &base));
    let names: Vec<String> = written
        .tree
        .entries()
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert!(
        !names.contains(&"kept/same".to_owned()),
        "copied up, then as before: {names:?}"
    );
    assert_eq!(
        written.tree.get(&path("replaced/old")).unwrap().kind,
        EntryKind::Whiteout
    );
    assert_eq!(
        written.tree.get(&path("replaced/inner/x")).unwrap().kind,
        EntryKind::Whiteout
    );
    let link = |target| EntryKind::Hardlink { target: path(target) };
    assert_eq!(written.tree.get(&path("hard-1")).unwrap().kind, link("dir/hard-3"));
    assert!(matches!(
        written.tree.get(&path("kept/second-name")).unwrap().kind,
        EntryKind::File { .. }
    ));

    std::fs::create_dir(at("unpacked")).unwrap();
    unpack(source(&tar), &at("unpacked"), &[at("base")], &Limits::default()).unwrap();
    let merged = describe(&LowerDirs::open(&[at("unpacked"), at("base")]).unwrap());
    assert_eq!(merged, describe(&LowerDirs::open(&[at("expected")]).unwrap()));
    let inode = |name| at("unpacked").join(name).metadata().unwrap().ino();
    assert_eq!(inode("hard-1"), inode("dir/hard-3"));
}

// ---- writing ----

fn entry(text: &str, kind: EntryKind) -> TreeEntry {
    TreeEntry {
        path: path(text),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: 1_000_000_000,
            nanoseconds: 7,
        },
        xattrs: Vec::new(),
    }
}

fn file(text: &str, bytes: &[u8]) -> LayerEntry {
    let content = ContentDigest::of(bytes);
    LayerEntry {
        entry: entry(
            text,
            EntryKind::File {
                size: bytes.len() as u64,
                content,
            },
        ),
        content: Content::Inline(bytes.into()),
    }
}

fn bare(text: &str, kind: EntryKind) -> LayerEntry {
    LayerEntry {
        entry: entry(text, kind),
        content: Content::None,
    }
}

fn one_of_each() -> Vec<LayerEntry> {
    let mut long = file(&format!("dir/{}/{}", "p".repeat(150), "n".repeat(120)), b"long");
    long.entry.uid = 3_000_000;
    long.entry.mtime.seconds = -5;
    let mut capable = file("dir/capable", b"program");
    capable.entry.xattrs = vec![
        (b"security.capability".to_vec(), [&[1, 0, 0, 2][..], &[0; 16]].concat()),
        (b"user.note".to_vec(), b"lost".to_vec()),
    ];
    vec![
        bare("dir", EntryKind::Directory { opaque: false }),
        bare("dir/removed", EntryKind::Whiteout),
        bare(
            "dir/link",
            EntryKind::Symlink {
                target: b"../x".to_vec(),
            },
        ),
        bare("dir/null", EntryKind::CharDevice { major: 1, minor: 3 }),
        bare("dir/pipe", EntryKind::Fifo),
        bare(
            "z",
            EntryKind::Hardlink {
                target: path("dir/capable"),
            },
        ),
        file("größe", b"not ascii"),
        capable,
        long,
    ]
}

#[test]
fn the_order_of_entries_does_not_matter() {
    let mut entries = one_of_each();
    let (forward, written) = tar_of(&entries);
    entries.reverse();
    assert_eq!(tar_of(&entries).0, forward);
    let paths: Vec<&RelPath> = written.tree.entries().iter().map(|entry| &entry.path).collect();
    assert!(paths.is_sorted());
    assert_eq!(
        written.tree.get(&path("z")).unwrap().mtime.nanoseconds,
        0,
        "the tree says what the tar says"
    );
}

#[test]
fn the_bytes_of_a_small_layer_are_pinned() {
    let (tar, written) = tar_of(&[
        bare("dir", EntryKind::Directory { opaque: false }),
        file("dir/file", b"content"),
        bare("dir/removed", EntryKind::Whiteout),
    ]);
    assert_eq!(tar.len(), 6 * 512);
    assert_eq!(&tar[..5], b"dir/\0");
    let shown = |range: std::ops::Range<usize>| String::from_utf8_lossy(&tar[range]).replace('\0', "|");
    assert_eq!(
        shown(100..156),
        "0000644|0000000|0000000|00000000000|07346545000|006562| "
    );
    assert_eq!(&tar[257..265], b"ustar\x0000");
    assert!(tar[265..345].iter().all(|&byte| byte == 0), "no names of owners");
    assert_eq!(&tar[1024..1031], b"content");
    assert_eq!(&tar[1536..1552], b"dir/.wh.removed\0");
    assert_eq!(shown(1636..1684), "0000000|0000000|0000000|00000000000|00000000000|");
    assert_eq!(tar_of(&[]).1.diff_id, DiffId::EMPTY);
    assert_eq!(written.tree.entries()[2].kind, EntryKind::Whiteout);
}

#[test]
fn others_read_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("layer.tar");
    std::fs::write(&place, tar_of(&one_of_each()).0).unwrap();
    let script = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]):\n  print(m.name[:12], m.type.decode(), oct(m.mode), m.uid, m.size, int(m.mtime), m.linkname, m.devmajor, m.devminor, m.uname)";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(&place)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "dir 5 0o644 0 0 1000000000  0 0 ",
            "dir/capable 0 0o644 0 7 1000000000  0 0 ",
            "dir/link 2 0o777 0 0 1000000000 ../x 0 0 ",
            "dir/null 3 0o644 0 0 1000000000  1 3 ",
            "dir/pipe 6 0o644 0 0 1000000000  0 0 ",
            "dir/pppppppp 0 0o644 3000000 4 -5  0 0 ",
            "dir/.wh.remo 0 0o0 0 0 0  0 0 ",
            "größe 0 0o644 0 9 1000000000  0 0 ",
            "z 1 0o644 0 0 1000000000 dir/capable 0 0 ",
        ]
    );
    let listing = Command::new("tar").arg("tvf").arg(&place).output().unwrap();
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    assert!(
        listing.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&listing.stderr)
    );
}

#[test]
fn scanning_what_was_written_gives_the_tree_back() {
    let (tar, written) = tar_of(&one_of_each());
    assert_eq!(
        scan(source(&tar), &LowerTrees::default(), &Limits::default()).unwrap(),
        Unpacked {
            tree: written.tree,
            size_bytes: tar.len() as u64
        }
    );
}

#[test]
fn times_are_lowered_to_the_clamp() {
    let written = write(&one_of_each(), Some(0), &mut Vec::new()).unwrap();
    let times: BTreeSet<i64> = written.tree.entries().iter().map(|entry| entry.mtime.seconds).collect();
    assert_eq!(times, BTreeSet::from([-5, 0]));
}

#[test]
fn a_large_file_is_hashed_in_chunks() {
    let bytes: Vec<u8> = (0..1_500_001_u32).map(|at| at.to_le_bytes()[1]).collect();
    let (tar, written) = tar_of(&[file("a", &bytes), file("b", b"x")]);
    assert_eq!(tar.len(), 512 + 1_500_160 + 1024 + 1024);
    assert!(tar[512..512 + bytes.len()] == bytes);
    assert_eq!(
        scan(source(&tar), &LowerTrees::default(), &Limits::default())
            .unwrap()
            .tree,
        written.tree
    );
}

#[test]
fn what_would_make_a_wrong_layer_is_refused() {
    let refused = |entries: &[LayerEntry]| write(entries, None, &mut Vec::new()).unwrap_err();
    let mut changed = file("a", b"one");
    changed.content = Content::Inline(b"two"[..].into());
    assert!(matches!(refused(&[changed.clone()]), LayerWriteError::Changed(at) if at == path("a")));
    for other_size in [&b"on"[..], b"ones"] {
        changed.content = Content::Inline(other_size.into());
        assert!(matches!(refused(&[changed.clone()]), LayerWriteError::Changed(_)));
    }
    assert!(matches!(
        refused(&[file("a", b""), file("a", b"")]),
        LayerWriteError::Duplicate(_)
    ));
    assert!(matches!(
        refused(&[file("a/.wh.b", b"")]),
        LayerWriteError::ReservedName(_)
    ));
    let opaque = bare("a", EntryKind::Directory { opaque: true });
    assert!(matches!(refused(&[opaque]), LayerWriteError::Unrepresentable(_)));
    let link = bare("a", EntryKind::Hardlink { target: path("b") });
    assert!(matches!(
        refused(&[link, file("b", b"")]),
        LayerWriteError::LinkTarget { .. }
    ));
}

#[test]
fn stubs_are_left_out_while_they_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    let upper = dir.path().join("upper");
    std::fs::create_dir_all(upper.join("etc")).unwrap();
    std::fs::write(upper.join("etc/hosts"), "").unwrap();
    std::fs::write(upper.join("etc/resolv.conf"), "used").unwrap();
    std::fs::create_dir_all(upper.join("proc")).unwrap();
    let stubs = BTreeSet::from([path("etc/hosts"), path("etc/resolv.conf"), path("proc")]);
    let changes = diff(&upper, &LowerTrees::default(), &stubs).unwrap().entries;
    let paths: Vec<String> = changes.iter().map(|change| change.entry.path.to_string()).collect();
    assert_eq!(paths, ["etc", "etc/resolv.conf"]);
}

#[test]
fn a_socket_is_no_entry_but_hides_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["base/run", "upper/run"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("base/run/old"), "text").unwrap();
    for name in ["upper/run/old", "upper/run/new"] {
        drop(std::os::unix::net::UnixListener::bind(at(name)).unwrap());
    }
    let below = LowerDirs::open(&[at("base")]).unwrap();
    let changes = diff(&at("upper"), &below, &BTreeSet::new()).unwrap();
    let whiteouts = changes
        .entries
        .iter()
        .filter(|change| change.entry.kind == EntryKind::Whiteout);
    assert_eq!(
        whiteouts.map(|change| change.entry.path.clone()).collect::<Vec<_>>(),
        [path("run/old")]
    );
    assert!(
        !changes
            .entries
            .iter()
            .any(|change| change.entry.path == path("run/new"))
    );
    let socket = |name: &str, hides| Socket {
        path: path(name),
        hides,
    };
    assert_eq!(changes.sockets, [socket("run/new", false), socket("run/old", true)]);
}

#[test]
fn the_space_that_changes_take_is_counted_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let upper = dir.path().join("upper");
    std::fs::create_dir_all(upper.join("a/deep")).unwrap();
    std::fs::write(upper.join("a/deep/file"), vec![1; 100_000]).unwrap();
    std::fs::write(upper.join("a/twice"), vec![2; 9000]).unwrap();
    std::fs::hard_link(upper.join("a/twice"), upper.join("again")).unwrap();
    std::os::unix::fs::symlink("x".repeat(200), upper.join("link")).unwrap();
    let changes = diff(&upper, &LowerTrees::default(), &BTreeSet::new()).unwrap();
    let parent = std::os::fd::OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
    let expected = cache::remove::disk_bytes(&parent, "upper".as_ref()).unwrap();
    assert!(expected > 109_000);
    assert_eq!(changes.disk_bytes, expected);
}

#[test]
fn a_step_that_only_made_stubs_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("base/etc")).unwrap();
    std::fs::create_dir_all(at("upper/etc")).unwrap();
    let spec = |mtime| Spec {
        what: What::Directory,
        mode: 0o755,
        uid: 0,
        mtime,
    };
    std::fs::write(at("upper/etc/hosts"), "").unwrap();
    if lacks("a_step_that_only_made_stubs_changes_nothing", &[Need::Root]) {
        return;
    }
    set_metadata(&at("base"), &["etc"], &spec(1));
    set_metadata(&at("upper"), &["etc"], &spec(2));
    let below = LowerDirs::open(&[at("base")]).unwrap();
    let changes = diff(&at("upper"), &below, &BTreeSet::from([path("etc/hosts")]))
        .unwrap()
        .entries;
    assert_eq!(tar_of(&changes).1.diff_id, DiffId::EMPTY);
}

#[test]
fn trees_know_links_of_lower_layers_without_any_directory() {
    let usr = entry(
        "lib",
        EntryKind::Symlink {
            target: b"usr/lib".to_vec(),
        },
    );
    let base = Tree::new(vec![usr]);
    let tar = testdata::hostile::tar(&[testdata::hostile::plain("lib/x")]);
    let scanned = scan(source(&tar), &LowerTrees(vec![&base]), &Limits::default()).unwrap();
    assert_eq!(scanned.tree.entries()[0].path, path("usr/lib/x"));
    assert_eq!(
        scanned.tree.entries()[0].path.as_bytes(),
        std::ffi::OsStr::new("usr/lib/x").as_bytes()
    );
}
