//! The walk of a build context, on real directories.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test as the tests do")]

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use builder::context::{ContextModes, Excluded, Fate, WalkError, WalkRequest, Walked, list, walk, walk_at};
use frontend::patterns::{IgnoreFile, PatternProblem};
use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

/// A context of files that hold their own path; names with a final `/` are empty directories.
fn context(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
    }
    folder
}

fn request(root: &Path, ignore: &str, include: &[&str]) -> Result<Walked, WalkError> {
    let ignore = IgnoreFile::parse(ignore).unwrap();
    let include: Vec<String> = include.iter().map(|&text| text.to_owned()).collect();
    let request = WalkRequest {
        include: &include,
        ignore: Some(&ignore),
        ..WalkRequest::default()
    };
    walk(root, &request, None)
}

fn paths(walked: &Walked) -> String {
    let paths: Vec<String> = walked.tree.entries().iter().map(|e| e.path.to_string()).collect();
    paths.join(" ")
}

/// The paths of the tree, in order.
fn check(root: &Path, ignore: &str, include: &[&str], expected: &str) {
    let walked = request(root, ignore, include).unwrap();
    assert_eq!(paths(&walked), expected, "ignore {ignore:?}, include {include:?}");
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn entry<'a>(walked: &'a Walked, at: &str) -> &'a TreeEntry {
    walked.tree.get(&path(at)).unwrap()
}

fn content(walked: &Walked, at: &str) -> ContentDigest {
    match &entry(walked, at).kind {
        EntryKind::File { content, .. } => *content,
        other => panic!("{at} is {other:?}"),
    }
}

/// Makes `deep` with so many directories in it that no path names the innermost one: whoever walks it fails, even root.
fn make_unreachable(root: &Path) {
    let mut fd = File::open(root).unwrap();
    for number in 0..20 {
        let name = if number == 0 {
            "deep".to_owned()
        } else {
            "x".repeat(250)
        };
        rustix::fs::mkdirat(&fd, &name, Mode::RWXU).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        fd = rustix::fs::openat(&fd, &name, flags, Mode::empty()).unwrap().into();
    }
}

#[test]
fn everything_is_in_the_tree_with_size_and_digest() {
    let folder = context(&["a", "d/b", "d/e/c", "empty/"]);
    for include in [&[][..], &["."], &[""], &["/"], &["d", ".", "a"]] {
        check(folder.path(), "", include, "a d d/b d/e d/e/c empty");
    }
    let walked = request(folder.path(), "", &[]).unwrap();
    let expected = EntryKind::File {
        size: 5,
        content: ContentDigest::of(b"d/e/c"),
    };
    assert_eq!(entry(&walked, "d/e/c").kind, expected);
    assert_eq!(walked.hashed_files, 3);
}

#[test]
fn modes_of_git_do_not_depend_on_the_checkout() {
    let folder = context(&["d/f", "d/program"]);
    symlink("f", folder.path().join("d/l")).unwrap();
    let modes = |checkout: [u32; 3], modes: ContextModes| {
        for (name, mode) in ["d/f", "d/program", "d"].iter().zip(checkout) {
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let request = WalkRequest {
            modes,
            ..WalkRequest::default()
        };
        let walked = walk(folder.path(), &request, None).unwrap();
        let mode = |name: &str| entry(&walked, name).mode;
        [mode("d/f"), mode("d/program"), mode("d"), mode("d/l")]
    };
    let shared = [0o664, 0o775, 0o2775];
    assert_eq!(modes(shared, ContextModes::Disk), [0o664, 0o775, 0o2775, 0o777]);
    for checkout in [shared, [0o600, 0o4700, 0o700], [0o644, 0o755, 0o755]] {
        assert_eq!(modes(checkout, ContextModes::Git), [0o644, 0o755, 0o755, 0o777]);
    }
}

#[test]
fn ignored_files_are_left_out_and_negations_bring_back_their_directories() {
    let folder = context(&["a", "x.log", "d/keep", "d/drop", "d/sub/x", "e/f"]);
    check(folder.path(), "*.log\nd/sub", &[], "a d d/drop d/keep e e/f");
    check(folder.path(), "*\n!d/keep", &[], "d d/keep");
    check(folder.path(), "d\n!d/keep", &[], "a d d/keep e e/f x.log");
    check(folder.path(), "*\n!d/missing", &[], "");
    check(folder.path(), "e/**", &["e"], "e");
}

#[test]
fn excluded_directories_are_not_entered_unless_a_negation_reaches_them() {
    let folder = context(&["a"]);
    make_unreachable(folder.path());
    check(folder.path(), "deep", &[], "a");
    check(folder.path(), "deep\n!a", &["*/*", "*"], "a");
    for ignore in ["", "deep\n!**/a"] {
        let error = request(folder.path(), ignore, &[]).unwrap_err();
        let WalkError::Read { path, source } = error else {
            panic!("{error:?}");
        };
        assert!(path.below(&self::path("deep")).is_some(), "{path}");
        assert_eq!(source.kind(), std::io::ErrorKind::InvalidFilename);
    }
}

#[test]
fn includes_select_files_directories_and_wildcards() {
    let folder = context(&["a", "b.txt", "c.txt", "d/x", "d/y/z", "e1/x", "e2/x", "e2/y", "w/[q]"]);
    let root = folder.path();
    check(root, "", &["a"], "a");
    check(root, "", &["./d/../d//y/", "../a"], "a d d/y d/y/z");
    check(root, "", &["d"], "d d/x d/y d/y/z");
    check(root, "", &["*.txt"], "b.txt c.txt");
    check(root, "", &["e?/x"], "e1 e1/x e2 e2/x");
    check(root, "", &["e[^1]"], "e2 e2/x e2/y");
    // At any depth: everything from there on is looked at.
    check(root, "", &["d/**/z"], "d d/x d/y d/y/z");
    check(root, "", &["d/x**"], "d d/x d/y d/y/z");
    check(root, "", &["w/\\*\\*"], "");
    check(root, "", &["w/\\[q]"], "w w/[q]");
    check(root, "", &["nope", "*.nope", "a/below", "d/nope"], "");
    check(root, "c.txt", &["*.txt"], "b.txt");
    // Several includes in one directory, and one twice: each file is read once.
    let walked = request(root, "", &["e2/x", "e2/y", "e2/*", "e2/x"]).unwrap();
    assert_eq!(walked.hashed_files, 2);
}

#[test]
fn a_malformed_include_is_an_error() {
    let folder = context(&["a"]);
    let error = request(folder.path(), "", &["d/[a"]).unwrap_err();
    let WalkError::Include { include, problem } = error else {
        panic!("{error:?}");
    };
    assert_eq!((include.as_str(), problem), ("d/[a", PatternProblem::Syntax));
}

#[test]
fn excluded_includes_are_reported_with_the_pattern_that_decided() {
    let folder = context(&["app.tar", "d/x", "d/keep", "e/y"]);
    let include = ["./app.tar", "missing", "*.tar", "d", "d/x", "e/y"];
    let walked = request(folder.path(), "# why\n*.tar\nd\n!d/keep\nmissing\ne", &include).unwrap();
    assert_eq!(paths(&walked), "d d/keep");
    let excluded = |at, pattern: &str, line| Excluded {
        path: path(at),
        pattern: pattern.to_owned(),
        line,
    };
    let expected = [
        excluded("app.tar", "*.tar", 2),
        excluded("d/x", "d", 3),
        excluded("e/y", "e", 6),
    ];
    assert_eq!(walked.excluded, expected);
}

#[test]
fn links_met_on_the_way_stay_links_and_lead_nowhere() {
    let folder = context(&["d/x"]);
    symlink("/etc", folder.path().join("d/out")).unwrap();
    symlink("../../..//x", folder.path().join("d/up")).unwrap();
    let walked = request(folder.path(), "", &["d"]).unwrap();
    assert_eq!(paths(&walked), "d d/out d/up d/x");
    let target = b"../../..//x".to_vec();
    assert_eq!(entry(&walked, "d/up").kind, EntryKind::Symlink { target });
}

#[test]
fn links_that_are_named_select_what_they_lead_to() {
    let folder = context(&["real/sub/x", "real/y", "other/z"]);
    let root = folder.path();
    symlink("real/sub", root.join("relative")).unwrap();
    symlink("/other", root.join("absolute")).unwrap();
    symlink("absolute", root.join("other/chain")).unwrap();
    symlink("../absolute/z", root.join("real/up")).unwrap();
    symlink("/other/z", root.join("real/sub/nested")).unwrap();
    check(
        root,
        "",
        &["relative"],
        "real real/sub real/sub/nested real/sub/x relative",
    );
    check(root, "", &["relative/x"], "real real/sub real/sub/x relative");
    check(root, "", &["absolute/z"], "absolute other other/z");
    check(root, "", &["real/up"], "absolute other other/z real real/up");
    check(root, "", &["rel*"], "real real/sub real/sub/nested real/sub/x relative");
    check(
        root,
        "",
        &["relative/nested"],
        "other other/z real real/sub real/sub/nested relative",
    );
    check(root, "relative", &["relative"], "");
    let walked = request(root, "real/sub", &["relative/x"]).unwrap();
    assert_eq!(paths(&walked), "relative");
    assert_eq!(walked.excluded[0].path, path("relative/x"));
}

#[test]
fn links_never_lead_out_of_the_root() {
    let outside = context(&["etc/passwd", "secret"]);
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "mine").unwrap();
    symlink("../../../etc", root.join("up")).unwrap();
    symlink("../secret", root.join("secret-link")).unwrap();
    symlink(outside.path().join("secret"), root.join("full")).unwrap();
    let walked = request(&root, "", &["up/passwd", "secret-link", "full", "../secret"]).unwrap();
    assert_eq!(paths(&walked), "etc etc/passwd full secret-link up");
    assert_eq!(content(&walked, "etc/passwd"), ContentDigest::of(b"mine"));
}

#[test]
fn loops_of_links_end() {
    let folder = context(&["d/"]);
    symlink("b", folder.path().join("a")).unwrap();
    symlink("a", folder.path().join("b")).unwrap();
    for number in 0..6 {
        symlink(".", folder.path().join(format!("d/l{number}"))).unwrap();
    }
    check(folder.path(), "", &["a/x"], "a b");
    let pattern = ["d", &"/l*".repeat(20)].concat();
    let walked = request(folder.path(), "", &[&pattern]).unwrap();
    assert_eq!(paths(&walked), "d d/l0 d/l1 d/l2 d/l3 d/l4 d/l5");
}

#[test]
fn further_names_of_a_file_are_hard_links_to_the_first_selected_one() {
    let folder = context(&["m", "z/last"]);
    for name in ["b", "z/c"] {
        fs::hard_link(folder.path().join("m"), folder.path().join(name)).unwrap();
    }
    let walked = request(folder.path(), "", &[]).unwrap();
    assert_eq!(content(&walked, "b"), ContentDigest::of(b"m"));
    for name in ["m", "z/c"] {
        assert_eq!(entry(&walked, name).kind, EntryKind::Hardlink { target: path("b") });
    }
    let walked = request(folder.path(), "b", &[]).unwrap();
    assert_eq!(content(&walked, "m"), ContentDigest::of(b"m"));
    assert_eq!(entry(&walked, "z/c").kind, EntryKind::Hardlink { target: path("m") });
}

#[test]
fn modes_times_and_attributes_are_kept_and_owners_are_not() {
    let folder = context(&["f", "d/x"]);
    let file = folder.path().join("f");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(folder.path().join("d"), fs::Permissions::from_mode(0o1777)).unwrap();
    set_mtime(&file, SystemTime::UNIX_EPOCH + Duration::new(1_000, 123_456_789));
    let attributes = setxattr(&file, "user.b", b"2", XattrFlags::empty())
        .and_then(|()| setxattr(&file, "user.a", b"1", XattrFlags::empty()));
    let walked = request(folder.path(), "", &[]).unwrap();
    let found = entry(&walked, "f");
    assert_eq!((found.mode, found.uid, found.gid), (0o4751, 0, 0));
    assert_eq!((found.mtime.seconds, found.mtime.nanoseconds), (1_000, 123_456_789));
    assert_eq!(entry(&walked, "d").mode, 0o1777);
    // Not every file system of a temporary folder has attributes.
    if attributes.is_ok() {
        let expected = [(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"2".to_vec())];
        assert_eq!(found.xattrs, expected);
    }
}

#[test]
fn fifos_are_entries_that_nobody_opens_and_sockets_are_left_out() {
    let folder = context(&["a"]);
    mknodat(
        CWD,
        folder.path().join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let socket = UnixListener::bind(folder.path().join("socket")).unwrap();
    let walked = request(folder.path(), "", &[]).unwrap();
    drop(socket);
    assert_eq!(paths(&walked), "a fifo");
    assert_eq!(entry(&walked, "fifo").kind, EntryKind::Fifo);
    assert_eq!(walked.skipped, [(path("socket"), "a socket")]);
    check(folder.path(), "fifo\nsocket", &[], "a");
}

#[test]
fn a_root_that_is_no_directory_is_named() {
    let folder = context(&["file"]);
    for name in ["missing", "file"] {
        let root = folder.path().join(name);
        let error = request(&root, "", &[]).unwrap_err();
        assert!(
            matches!(&error, WalkError::Root { path, .. } if *path == root),
            "{error:?}"
        );
    }
}

#[test]
fn many_files_are_hashed_by_several_threads_in_order() {
    let names: Vec<String> = (0..200).map(|number| format!("d{}/f{number}", number % 7)).collect();
    let folder = context(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let walked = request(folder.path(), "", &[]).unwrap();
    assert_eq!(walked.hashed_files, 200);
    for name in &names {
        assert_eq!(content(&walked, name), ContentDigest::of(name.as_bytes()));
    }
}

fn set_mtime(file: &Path, time: SystemTime) {
    let handle = File::options().write(true).open(file).unwrap();
    handle.set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// A walk with a stat cache, some seconds after the last change of `a`: no test has to wait for a file to age.
struct Cached {
    folder: TempDir,
    cache: PathBuf,
    _cache_folder: TempDir,
}

impl Cached {
    fn new(names: &[&str]) -> Self {
        let cache_folder = tempfile::tempdir().unwrap();
        Self {
            folder: context(names),
            cache: cache_folder.path().join("stat"),
            _cache_folder: cache_folder,
        }
    }

    fn walk_after(&self, seconds: i64) -> Walked {
        self.walk_of(".", seconds)
    }

    fn walk_of(&self, include: &str, seconds: i64) -> Walked {
        let now = Timestamp {
            seconds: fs::metadata(self.folder.path().join("a")).unwrap().ctime() + seconds,
            nanoseconds: 0,
        };
        let request = WalkRequest {
            include: &[include.to_owned()],
            ..WalkRequest::default()
        };
        walk_at(self.folder.path(), &request, Some(&self.cache), now).unwrap()
    }
}

#[test]
fn the_stat_cache_spares_reading_and_changes_nothing() {
    let context = Cached::new(&["a", "d/b"]);
    let cold = context.walk_after(10);
    let warm = context.walk_after(20);
    assert_eq!((cold.hashed_files, warm.hashed_files), (2, 0));
    assert_eq!(cold.tree, warm.tree);
}

#[test]
fn a_file_too_young_for_its_stamp_is_read_again() {
    let context = Cached::new(&["a"]);
    assert_eq!(context.walk_after(1).hashed_files, 1);
    assert_eq!(context.walk_after(10).hashed_files, 1);
    assert_eq!(context.walk_after(10).hashed_files, 0);
    // What is too young is not believed either, even if it is known.
    assert_eq!(context.walk_after(1).hashed_files, 1);
}

#[test]
fn equal_size_and_time_do_not_hide_a_change() {
    let context = Cached::new(&["a", "b"]);
    let before = context.walk_after(10);
    let file = context.folder.path().join("b");
    let old = fs::metadata(&file).unwrap();
    // Until the clock of the file system ticks: it may be coarser than this test is fast.
    while fs::metadata(&file).unwrap().ctime_nsec() == old.ctime_nsec() {
        fs::write(&file, "B").unwrap();
        set_mtime(&file, old.modified().unwrap());
    }
    let after = context.walk_after(10);
    assert_eq!(after.hashed_files, 1);
    assert_eq!(entry(&before, "b").mtime, entry(&after, "b").mtime);
    assert_eq!(content(&after, "b"), ContentDigest::of(b"B"));
}

#[test]
fn attributes_that_are_set_later_are_seen_and_known_ones_stay() {
    let context = Cached::new(&["a", "b"]);
    let file = |name: &str| context.folder.path().join(name);
    if setxattr(file("b"), "user.k", b"1", XattrFlags::empty()).is_err() {
        // Not every file system of a temporary folder has attributes.
        return;
    }
    let kept = |walked: &Walked, name: &str| entry(walked, name).xattrs.clone();
    let cold = context.walk_after(10);
    let warm = context.walk_after(10);
    assert_eq!(warm.hashed_files, 0);
    assert_eq!(cold.tree, warm.tree);
    assert_eq!(kept(&warm, "b"), [(b"user.k".to_vec(), b"1".to_vec())]);
    let old = fs::metadata(file("a")).unwrap().ctime_nsec();
    while fs::metadata(file("a")).unwrap().ctime_nsec() == old {
        setxattr(file("a"), "user.k", b"2", XattrFlags::empty()).unwrap();
    }
    assert_eq!(
        kept(&context.walk_after(10), "a"),
        [(b"user.k".to_vec(), b"2".to_vec())]
    );
}

#[test]
fn a_damaged_or_unwritable_stat_cache_is_a_cold_one() {
    let context = Cached::new(&["a"]);
    let expected = context.walk_after(10).tree;
    let mut bytes = fs::read(&context.cache).unwrap();
    bytes[60] ^= 1;
    fs::write(&context.cache, bytes).unwrap();
    let walked = context.walk_after(10);
    assert_eq!((walked.hashed_files, &walked.tree), (1, &expected));
    assert_eq!(context.walk_after(10).hashed_files, 0);
    fs::remove_file(&context.cache).unwrap();
    fs::create_dir(&context.cache).unwrap();
    let walked = context.walk_after(10);
    assert_eq!((walked.hashed_files, &walked.tree), (1, &expected));
}

#[test]
fn walks_of_different_parts_keep_what_the_others_know() {
    let context = Cached::new(&["a", "b/x", "c/y"]);
    for (include, hashed_files) in [("b", 1), ("c", 1), ("b", 0), ("c", 0), (".", 1), (".", 0), ("b", 0)] {
        assert_eq!(context.walk_of(include, 10).hashed_files, hashed_files, "{include}");
    }
    let leftovers = fs::read_dir(context.cache.parent().unwrap()).unwrap().count();
    assert_eq!(leftovers, 1);
}

#[test]
fn a_list_says_what_becomes_of_every_path() {
    let folder = context(&["a/x", "a/y", "b/keep/k", "b/z", "c", "d/e/f", "d/e/g"]);
    let ignore = IgnoreFile::parse("a\nb\n!b/keep\n").unwrap();
    let listed = |include: Option<&[String]>| {
        let listed = list(folder.path(), Some(&ignore), include).unwrap();
        let line = |listed: &builder::context::Listed| {
            let fate = match &listed.fate {
                Fate::Sent => "sent".to_owned(),
                Fate::Excluded { pattern, line } => format!("{pattern}:{line}"),
                Fate::Unused => "unused".to_owned(),
            };
            format!("{} {} {} {fate}", listed.path, listed.files, listed.size_bytes)
        };
        listed.iter().map(line).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(
        listed(None),
        "a 2 6 a:1, b 0 0 sent, b/keep 0 0 sent, b/keep/k 1 8 sent, b/z 1 3 b:2, c 1 1 sent, d 0 0 sent, d/e 0 0 sent, \
         d/e/f 1 5 sent, d/e/g 1 5 sent"
    );
    assert_eq!(
        listed(Some(&["c".to_owned()])),
        "a 2 6 a:1, b 1 3 b:2, b/keep 1 8 unused, c 1 1 sent, d 2 10 unused"
    );
    assert_eq!(
        listed(Some(&[])),
        "a 2 6 a:1, b 1 3 b:2, b/keep 1 8 unused, c 1 1 unused, d 2 10 unused"
    );
}
