//! `COPY` and `WORKDIR` planned over trees in memory: the decision table of destinations, owners, modes and links.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test as the tests do")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use builder::op::copy::{CopyError, PlannedContent, SelectedSource, plan};
use builder::op::mkdir;
use builder::op::select::{SelectError, Selection, digests, select};
use builder::tree::MergedTree;
use proto::definition::{CopyAction, CopySource, Id, InlineFile, MakeDirAction, ModeChange, Owner, Unpack, VertexId};
use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

const NOW: Timestamp = Timestamp {
    seconds: 1000,
    nanoseconds: 0,
};

/// A tree from lines of `path mode uid`: `d/` a directory, `a>b` a symlink, `a=b` a hard link, else a file of its own name.
fn tree(lines: &str) -> MergedTree {
    let entries = lines.lines().filter(|line| !line.is_empty()).map(|line| {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap();
        let mode = words.next().map_or(0o644, |mode| u32::from_str_radix(mode, 8).unwrap());
        let uid = words.next().map_or(0, |uid| uid.parse().unwrap());
        let (path, kind) = if let Some((path, target)) = word.split_once('>') {
            let target = target.as_bytes().to_vec();
            (path, EntryKind::Symlink { target })
        } else if let Some((path, target)) = word.split_once('=') {
            let target = RelPath::clean(target.as_bytes());
            (path, EntryKind::Hardlink { target })
        } else if let Some(path) = word.strip_suffix('/') {
            (path, EntryKind::Directory { opaque: false })
        } else {
            let content = ContentDigest::of(b"same");
            (word, EntryKind::File { size: 4, content })
        };
        TreeEntry {
            path: RelPath::clean(path.as_bytes()),
            kind,
            mode,
            uid,
            gid: uid,
            mtime: NOW,
            xattrs: Vec::new(),
        }
    });
    MergedTree::new(vec![Arc::new(Tree::new(entries.collect()))])
}

fn context() -> MergedTree {
    tree("f 644\nx/ 755\nx/a.txt 644\nx/c.md 644\nx/l>a.txt\nx/sub/ 700\nx/sub/s.txt 644\ny/ 755\ny/a.txt 600")
}

fn action(patterns: &[&str], dest: &str) -> CopyAction {
    let source = |pattern: &&str| CopySource::Path {
        from: VertexId(0),
        pattern: (*pattern).to_owned(),
    };
    CopyAction {
        sources: patterns.iter().map(source).collect(),
        dest: format!("/{}", dest.trim_matches('/')),
        dest_is_dir: dest.ends_with('/'),
        owner: None,
        mode: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        unpack: Unpack::Nothing,
    }
}

fn users(path: &RelPath) -> io::Result<Option<Vec<u8>>> {
    let passwd = b"root:x:0:0\njoe:x:55:66\n".to_vec();
    Ok((path.as_bytes() == b"etc/passwd").then_some(passwd))
}

fn run(source: &MergedTree, parent: &MergedTree, action: &CopyAction) -> Result<String, CopyError> {
    let exclude = &action.exclude;
    let selected = |copied: &CopySource| match copied {
        CopySource::Path { pattern, .. } => SelectedSource::Path(
            select(
                source,
                &Selection {
                    pattern,
                    exclude,
                    parents: action.parents,
                },
            )
            .unwrap(),
        ),
        CopySource::Inline(_) => SelectedSource::Inline,
    };
    let sources: Vec<SelectedSource> = action.sources.iter().map(selected).collect();
    let planned = plan(parent, action, &sources, &mut users, NOW)?;
    let shown: Vec<String> = planned.iter().map(|planned| show(&planned.entry)).collect();
    Ok(shown.join(", "))
}

fn show(entry: &TreeEntry) -> String {
    let mark = match &entry.kind {
        EntryKind::Directory { .. } => "/".to_owned(),
        EntryKind::Symlink { target } => format!(">{}", String::from_utf8_lossy(target)),
        EntryKind::Hardlink { target } => format!("={target}"),
        _ => String::new(),
    };
    format!("{}{mark} {:o} {}:{}", entry.path, entry.mode, entry.uid, entry.gid)
}

#[track_caller]
fn check(parent: &str, action: &CopyAction, expected: &str) {
    let shown = run(&context(), &tree(parent), action).unwrap_or_else(|error| format!("error: {error}"));
    assert_eq!(shown, expected);
}

#[test]
fn a_file_goes_to_or_into_its_destination() {
    check("", &action(&["f"], "/o"), "o 644 0:0");
    check("o/ 700 5", &action(&["f"], "/o"), "o/ 700 5:5, o/f 644 0:0");
    check("o 600 5", &action(&["f"], "/o"), "o 644 0:0");
    check("", &action(&["f"], "/n/o/"), "n/ 755 0:0, n/o/ 755 0:0, n/o/f 644 0:0");
    let blocked = "error: mkdir /o: not a directory";
    check("o", &action(&["f"], "/o/"), blocked);
    let blocked = "error: cannot replace to directory /o/f with file";
    check("o/ 755\no/f/ 755", &action(&["f"], "/o"), blocked);
}

#[test]
fn the_contents_of_a_directory_are_merged() {
    let all = "o/a.txt 644 0:0, o/c.md 644 0:0, o/l>a.txt 644 0:0, o/sub/ 700 0:0, o/sub/s.txt 644 0:0";
    check("", &action(&["x"], "/o"), &format!("o/ 755 0:0, {all}"));
    check(
        "o/ 711 5\no/sub/ 777 9",
        &action(&["x"], "/o"),
        &format!("o/ 711 5:5, {all}"),
    );
    let blocked = "error: cannot copy to non-directory: /o";
    check("o", &action(&["x"], "/o"), blocked);
}

#[test]
fn of_several_sources_to_one_file_the_last_stays() {
    check("", &action(&["x/a.txt", "y/a.txt"], "/z"), "z 600 0:0");
}

#[test]
fn a_wildcard_without_match_does_nothing_and_a_missing_path_fails() {
    check("", &action(&["nothere*"], "/p/"), "");
    let selection = Selection {
        pattern: "/../nothere",
        exclude: &[],
        parents: false,
    };
    let missing = select(&context(), &selection).unwrap_err();
    assert!(matches!(missing, SelectError::NotFound { .. }));
    assert_eq!(missing.to_string(), "`/nothere` not found");
}

#[test]
fn links_as_sources_are_followed() {
    check("", &action(&["x/l"], "/p/"), "p/ 755 0:0, p/l 644 0:0");
}

#[test]
fn links_in_the_destination_are_followed_except_with_link() {
    let parent = "real/ 755 3\nln>/real";
    let mut copy = action(&["f"], "/ln/");
    check(parent, &copy, "real/ 755 3:3, real/f 644 0:0");
    copy.link = true;
    check(parent, &copy, "ln/ 755 0:0, ln/f 644 0:0");
}

#[test]
fn owners_apply_to_files_and_made_parents() {
    let mut copy = action(&["f"], "/n/");
    copy.owner = Some(Owner {
        user: Some(Id::Name("joe".to_owned())),
        group: None,
    });
    check("", &copy, "n/ 755 55:66, n/f 644 55:66");
    copy.link = true;
    let unknown =
        "error: invalid user index: -1: no user or group `joe`, for there is no root filesystem to look it up in";
    check("", &copy, unknown);
}

#[test]
fn octal_modes_apply_to_made_parents_and_symbolic_ones_do_not() {
    let mut copy = action(&["x/a.txt"], "/k/");
    copy.mode = Some(ModeChange::Octal(0o600));
    check("", &copy, "k/ 600 0:0, k/a.txt 600 0:0");
    let mut copy = action(&["x/sub"], "/n/deep/");
    copy.mode = Some(ModeChange::Symbolic("u=rw,go=r".to_owned()));
    check("", &copy, "n/ 755 0:0, n/deep/ 755 0:0, n/deep/s.txt 644 0:0");
}

#[test]
fn excludes_are_relative_to_each_source_and_spare_the_source_itself() {
    let mut copy = action(&["x"], "/p/");
    copy.exclude = vec!["*.md".to_owned(), "sub".to_owned()];
    check("", &copy, "p/ 755 0:0, p/a.txt 644 0:0, p/l>a.txt 644 0:0");
    let mut copy = action(&["x/*.md", "x/a.txt"], "/p/");
    copy.exclude = vec!["*.md".to_owned()];
    check("", &copy, "p/ 755 0:0, p/a.txt 644 0:0, p/c.md 644 0:0");
}

#[test]
fn heredocs_are_files_of_root() {
    let file = |name: &str| {
        CopySource::Inline(InlineFile {
            name: name.to_owned(),
            data: b"x".to_vec(),
        })
    };
    let mut copy = action(&[], "/x/");
    copy.sources = vec![file("A"), file("B")];
    check("", &copy, "x/ 755 0:0, x/A 644 0:0, x/B 644 0:0");
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let source = tree("d/ 755\nd/a 644\nd/b=d/a 644");
    let shown = run(&source, &tree(""), &action(&["d"], "/o")).unwrap();
    assert_eq!(shown, "o/ 755 0:0, o/a 644 0:0, o/b=o/a 644 0:0");
}

#[test]
fn a_later_file_in_the_place_of_a_linked_one_leaves_the_other_names_their_bytes() {
    let source = tree("d/ 755\nd/a 644\nd/b=d/a 644\na 600");
    let mut copy = action(&["d", "a"], "/o/");
    copy.dest_is_dir = true;
    let exclude = &[];
    let sources: Vec<SelectedSource> = ["d", "a"]
        .iter()
        .map(|pattern| Selection {
            pattern,
            exclude,
            parents: false,
        })
        .map(|selection| SelectedSource::Path(select(&source, &selection).unwrap()))
        .collect();
    let planned = plan(&tree(""), &copy, &sources, &mut users, NOW).unwrap();
    let from: Vec<String> = planned
        .iter()
        .map(|planned| match &planned.from {
            PlannedContent::Source { source_index, path, .. } => {
                format!("{} from {source_index}:{path}", show(&planned.entry))
            }
            _ => show(&planned.entry),
        })
        .collect();
    assert_eq!(from, ["o/ 755 0:0", "o/a 600 0:0 from 1:a", "o/b 644 0:0 from 0:d/a"]);
}

fn parents(patterns: &[&str], dest: &str) -> CopyAction {
    CopyAction {
        parents: true,
        ..action(patterns, dest)
    }
}

#[test]
fn parents_are_made_again_with_their_metadata() {
    check(
        "",
        &parents(&["./x/a.txt", "/y/a.txt"], "/p/"),
        "p/ 755 0:0, p/x/ 755 0:0, p/x/a.txt 644 0:0, p/y/ 755 0:0, p/y/a.txt 600 0:0",
    );
    check(
        "",
        &parents(&["x/sub/s.txt"], "/p"),
        "p/ 755 0:0, p/x/ 755 0:0, p/x/sub/ 700 0:0, p/x/sub/s.txt 644 0:0",
    );
}

#[test]
fn parents_begin_below_the_pivot() {
    check(
        "",
        &parents(&["./x/./sub/*"], "/p/"),
        "p/ 755 0:0, p/sub/ 700 0:0, p/sub/s.txt 644 0:0",
    );
    check("", &parents(&["x/./a.txt"], "/p/"), "p/ 755 0:0, p/a.txt 644 0:0");
    check(
        "",
        &parents(&["x/./sub"], "/p/"),
        "p/ 755 0:0, p/sub/ 700 0:0, p/sub/s.txt 644 0:0",
    );
}

#[test]
fn a_directory_on_the_way_takes_the_mode_of_the_source_and_no_more() {
    let there = "p/ 755\np/x/ 711 4\np/x/sub/ 755 4";
    check(
        there,
        &parents(&["x/sub/s.txt"], "/p/"),
        "p/ 755 0:0, p/x/ 755 4:4, p/x/sub/ 700 4:4, p/x/sub/s.txt 644 0:0",
    );
    check(
        there,
        &parents(&["x/sub"], "/p/"),
        "p/ 755 0:0, p/x/ 755 4:4, p/x/sub/ 700 0:0, p/x/sub/s.txt 644 0:0",
    );
}

#[test]
fn two_stars_match_at_every_depth_with_parents() {
    check(
        "",
        &parents(&["**/*.txt"], "/p/"),
        "p/ 755 0:0, p/x/ 755 0:0, p/x/a.txt 644 0:0, p/x/sub/ 700 0:0, p/x/sub/s.txt 644 0:0, p/y/ 755 0:0, p/y/a.txt 600 0:0",
    );
}

#[test]
fn with_parents_a_missing_path_fails_and_a_wildcard_without_match_makes_the_destination() {
    for pattern in ["nope", "x/./nope", "nope/./a.txt", "f/./x"] {
        let selection = Selection {
            pattern,
            exclude: &[],
            parents: true,
        };
        let error = select(&context(), &selection).unwrap_err();
        assert!(matches!(error, SelectError::NotFound { .. }), "{pattern}: {error}");
    }
    check("", &parents(&["nope*"], "/p/"), "p/ 755 0:0");
    check("", &parents(&["nope*/./a"], "/p/"), "p/ 755 0:0");
}

#[test]
fn excludes_leave_parents_only_where_something_is_kept() {
    let mut copy = parents(&["**/*.txt"], "/p/");
    copy.exclude = vec!["x/sub".to_owned(), "y/*".to_owned()];
    check("", &copy, "p/ 755 0:0, p/x/ 755 0:0, p/x/a.txt 644 0:0");
}

#[test]
fn an_excluded_directory_keeps_its_metadata_for_what_is_taken_back() {
    let mut copy = action(&["x"], "/p/");
    copy.exclude = vec!["*".to_owned(), "!sub/s.txt".to_owned()];
    check("", &copy, "p/ 755 0:0, p/sub/ 700 0:0, p/sub/s.txt 644 0:0");
}

fn unpacked(parent: &str, archive: &MergedTree, change: impl FnOnce(&mut CopyAction)) -> Result<String, CopyError> {
    let mut add = action(&["f"], "/p");
    add.unpack = Unpack::Context;
    change(&mut add);
    let selection = Selection {
        pattern: "f",
        exclude: &[],
        parents: false,
    };
    let source = SelectedSource::Archives {
        selected: select(&context(), &selection).unwrap(),
        archives: BTreeMap::from([(0, Arc::clone(&archive.layers()[0]))]),
    };
    let planned = plan(&tree(parent), &add, &[source], &mut users, NOW)?;
    let shown: Vec<String> = planned
        .iter()
        .map(|planned| match &planned.from {
            PlannedContent::Member {
                source_index: 0,
                root_index: 0,
                path,
            } if *path == planned.entry.path.below(&RelPath::clean(b"p")).unwrap() => show(&planned.entry),
            PlannedContent::Member { path, .. } => format!("{} from {path}", show(&planned.entry)),
            PlannedContent::None => show(&planned.entry),
            other => format!("{other:?}"),
        })
        .collect();
    Ok(shown.join(", "))
}

#[track_caller]
fn check_add(parent: &str, archive: &str, expected: &str) {
    let shown = unpacked(parent, &tree(archive), |_| {}).unwrap_or_else(|error| format!("error: {error}"));
    assert_eq!(shown, expected);
}

#[test]
fn an_archive_is_unpacked_into_a_directory_that_is_made() {
    check_add(
        "",
        "a.txt 644 7\nsub/ 700 8\nsub/s.txt 600 8\nlink=a.txt 644 7",
        "p/ 755 0:0, p/a.txt 644 7:7, p/link=p/a.txt 644 7:7, p/sub/ 700 8:8, p/sub/s.txt 600 8:8",
    );
    check_add("", "deep/x 644 7", "p/ 755 0:0, p/deep/ 755 0:0, p/deep/x 644 7:7");
    check_add("p", "x", "error: mkdir /p: not a directory");
}

#[test]
fn what_an_archive_names_wins_and_the_rest_stays() {
    check_add(
        "p/ 711 5\np/named/ 700 5\np/other/ 700 5\np/file 600 5",
        "/ 777 9\nnamed/ 750 6\nnamed/x 644 6\nother/y 644 6\nfile 644 6",
        "p/ 711 5:5, p/file 644 6:6, p/named/ 750 6:6, p/named/x 644 6:6, p/other/ 700 5:5, p/other/y 644 6:6",
    );
    check_add("p/ 755\np/d/ 755\np/d/old", "d 600", "p/ 755 0:0, p/d 600 0:0");
}

#[test]
fn links_of_the_destination_are_followed_below_it_and_replaced_at_it() {
    check_add(
        "p/ 755\np/lib>/usr/lib\np/up>../../../q\np/top>usr",
        "lib/x\nup/y\ntop/ 700",
        "p/ 755 0:0, p/q/ 755 0:0, p/q/y 644 0:0 from up/y, p/top/ 700 0:0, p/usr/ 755 0:0, p/usr/lib/ 755 0:0, p/usr/lib/x 644 0:0 from lib/x",
    );
    check_add(
        "p/ 755\np/a>b\np/b>a",
        "a/x",
        "error: `/p/a/x` leads through more than 40 symbolic links",
    );
}

#[test]
fn hard_links_of_an_archive_keep_their_bytes_where_links_reorder_or_replace_files() {
    check_add(
        "p/ 755\np/a>z",
        "a/f\nm=a/f",
        "p/ 755 0:0, p/m 644 0:0 from a/f, p/z/ 755 0:0, p/z/f=p/m 644 0:0",
    );
    check_add(
        "p/ 755\np/e>d",
        "d/f\ne/f\ng=d/f",
        "p/ 755 0:0, p/d/ 755 0:0, p/d/f 644 0:0 from e/f, p/g 644 0:0 from d/f",
    );
}

#[test]
fn the_owner_of_the_instruction_applies_to_what_an_archive_names_and_its_mode_to_nothing() {
    let shown = unpacked("", &tree("d/ 700 7\nd/x 644 7\nl>x 777 7\nm/n 600 7"), |add| {
        add.owner = Some(Owner {
            user: Some(Id::Number(3)),
            group: None,
        });
        add.mode = Some(ModeChange::Octal(0o751));
    });
    assert_eq!(
        shown.unwrap(),
        "p/ 755 3:3, p/d/ 700 3:3, p/d/x 644 3:3, p/l>x 777 3:3, p/m/ 755 0:0, p/m/n 600 3:3"
    );
}

#[test]
fn archives_are_only_unpacked_where_that_was_asked_for() {
    let error = unpacked("", &tree("x"), |add| add.unpack = Unpack::Nothing).unwrap_err();
    assert!(matches!(error, CopyError::NotUnpacked { index: 0 }), "{error}");
    let mut add = action(&["f"], "/p");
    add.unpack = Unpack::Context;
    check("", &add, "p 644 0:0");
}

#[test]
fn keys_see_modes_and_targets_but_not_the_way_to_the_source() {
    let digest = |lines: &str, pattern: &str| {
        let selection = Selection {
            pattern,
            exclude: &[],
            parents: false,
        };
        digests(&tree(lines), &selection).unwrap()
    };
    let one = digest("a/ 755\na/d/ 755\na/d/l>t", "a/d");
    assert_eq!(one, digest("b/ 755\nb/d/ 755\nb/d/l>t", "b/d"));
    assert_ne!(digest("f 644", "f"), digest("f 600", "f"));
    assert_ne!(digest("d/ 755\nd/l>t", "d"), digest("d/ 755\nd/l>u", "d"));
}

#[test]
fn a_whole_directory_has_the_digest_of_its_files_one_by_one() {
    let source = tree("a/ 755\na/d/ 755\na/d/l>t\na/f 644\na/g 600\nb/ 700\nc 644");
    for pattern in ["a", "a/d", "a/f", "/", "*", "a/*", "b", "c"] {
        let with = |exclude: &[String]| {
            let selection = Selection {
                pattern,
                exclude,
                parents: false,
            };
            digests(&source, &selection).unwrap()
        };
        // What excludes nothing keeps the digests of whole directories from being used.
        assert_eq!(with(&[]), with(&["nothing".to_owned()]), "{pattern}");
        let fewer = with(&["g".to_owned()]);
        assert_eq!(with(&[]) == fewer, pattern != "a" && pattern != "*", "{pattern}");
    }
}

#[test]
fn workdir_makes_only_what_is_missing() {
    let action = MakeDirAction {
        path: "/w/d".to_owned(),
        owner: None,
    };
    let made = |parent: &str| -> Vec<String> {
        let entries = mkdir::plan(&tree(parent), &action, None, NOW).unwrap();
        entries.iter().map(show).collect()
    };
    assert_eq!(made("w/ 700 4"), ["w/ 700 4:4", "w/d/ 755 0:0"]);
    assert!(made("w/ 700 4\nw/d/ 711 4").is_empty());
}
