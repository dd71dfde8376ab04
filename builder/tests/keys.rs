//! Keys of every op and option, against the table `testdata/tables/keys.txt`.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test as the tests do")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use builder::op::content::{digest_fields, image_fields};
use builder::op::select::{Selection, digests};
use builder::solve::{cache_key, source_key};
use builder::tree::MergedTree;
use frontend::source::SourceFile;
use frontend::{LowerOptions, Lowered};
use proto::canonical;
use proto::definition::{CopySource, Definition, FileAction, HttpOp, HttpPin, MountKind, Network, Op, VertexId};
use proto::digest::{ContentDigest, Digest};
use proto::entitlement::Entitlements;
use proto::platform::Platform;
use proto::record::{CacheKey, Field};
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/tables/keys.txt");

/// Read when the test runs: a case more compiles nothing anew.
fn table() -> String {
    std::fs::read_to_string(TABLE).unwrap()
}

/// A line of the table: options of the build in brackets, then instructions, `;` between them.
fn key(case: &str) -> CacheKey {
    let (options, instructions) = match case.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((options, instructions)) => (options.split(' ').collect(), instructions),
        None => (Vec::new(), case),
    };
    let text = instructions.replace("; ", "\n").replace("\\n", "\n");
    let text = match text.starts_with("FROM") {
        true => text,
        false => format!("FROM base\n{text}"),
    };
    let definition = lower(&format!("{text}\n"), &wishes(&options));
    let mut keys: Vec<CacheKey> = Vec::new();
    for index in 0..definition.definition.vertices.len() {
        keys.push(key_of(&definition.definition, index, &keys));
    }
    keys[definition.target.unwrap().0 as usize]
}

struct Target {
    definition: Definition,
    target: Option<VertexId>,
}

fn wishes(words: &[&str]) -> LowerOptions {
    let mut options = LowerOptions::new(Platform::new("linux", "amd64", ""));
    options.entitlements = Entitlements::all();
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        match name {
            "platform" => options.platform = value.parse().unwrap(),
            "network" => options.default_network = Network::Host,
            "shm" => options.shm_size_bytes = Some(value.parse().unwrap()),
            "label" => drop(options.labels.insert(value.to_owned(), "x".to_owned())),
            "host" => options.extra_hosts.push(("h".to_owned(), value.to_owned())),
            _ => drop(options.build_args.insert(name.to_owned(), value.to_owned())),
        }
    }
    options
}

fn lower(text: &str, options: &LowerOptions) -> Target {
    let source = SourceFile::new("Dockerfile".to_owned(), text.to_owned());
    let parsed = frontend::parse(&source);
    let mut facts = BTreeMap::new();
    loop {
        match frontend::lower(&source, &parsed, options, &facts) {
            Ok(Lowered::Done(plan)) => {
                let plan = *plan;
                return Target {
                    definition: plan.definition,
                    target: plan.target,
                };
            }
            Ok(Lowered::Need(wanted)) => {
                for wanted in wanted {
                    let image = frontend::stub::image(&wanted.platform);
                    facts.insert((wanted.reference, wanted.platform), image);
                }
            }
            Err(errors) => panic!("{text}: {errors:?}"),
        }
    }
}

fn key_of(definition: &Definition, index: usize, keys: &[CacheKey]) -> CacheKey {
    let mut vertex = definition.vertices[index].clone();
    match &mut vertex.op {
        Op::Http(http) => pin(http),
        Op::Git(git) => git.pin = Some("12".repeat(20)),
        _ => {}
    }
    let content = match &vertex.op {
        Op::Http(http) => return canonical::key(&source_key::http(http)),
        op => content(definition, op),
    };
    let fields = cache_key::fields(&vertex, &|id| keys[id.0 as usize]);
    canonical::key(&cache_key::with_content(fields, content))
}

fn pin(http: &mut HttpOp) {
    http.pin = Some(HttpPin {
        digest: Digest::of(b"x"),
        modified: 7,
    });
}

/// What the files add that `op` reads: every context and stage has those of [`files`].
fn content(definition: &Definition, op: &Op) -> Vec<Field> {
    let of = |id: VertexId| &definition.vertices[id.0 as usize].op;
    let mut fields = Vec::new();
    match op {
        Op::File(file) => {
            let FileAction::Copy(copy) = &file.action else {
                return fields;
            };
            for (index, source) in copy.sources.iter().enumerate() {
                let CopySource::Path { from, pattern } = source else {
                    continue;
                };
                fields.extend(match of(*from) {
                    Op::Image(image) => image_fields(index, image, Some(pattern)),
                    Op::Http(_) => selected(index, "h", &copy.exclude, copy.parents),
                    _ => selected(index, pattern, &copy.exclude, copy.parents),
                });
            }
        }
        Op::Exec(exec) => {
            for (index, mount) in exec.mounts.iter().enumerate() {
                if let MountKind::Bind { source, .. } = &mount.kind {
                    fields.extend(selected(index, source, &[], false));
                }
            }
        }
        _ => {}
    }
    fields
}

fn selected(index: usize, pattern: &str, exclude: &[String], parents: bool) -> Vec<Field> {
    let selection = Selection {
        pattern,
        exclude,
        parents,
    };
    digest_fields(index, digests(&files(), &selection).unwrap())
}

/// `d/f`, `d/g` and `d/l`, a link to `f`; `e/f` as `d/f`; `h`.
fn files() -> MergedTree {
    let entry = |path: &str, kind: EntryKind, mode: u32| TreeEntry {
        path: RelPath::clean(path.as_bytes()),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    };
    let file = |path: &str, bytes: &str| {
        let kind = EntryKind::File {
            size: bytes.len() as u64,
            content: ContentDigest::of(bytes.as_bytes()),
        };
        entry(path, kind, 0o644)
    };
    let directory = |path: &str| entry(path, EntryKind::Directory { opaque: false }, 0o755);
    let link = EntryKind::Symlink { target: b"f".to_vec() };
    MergedTree::new(vec![Arc::new(Tree::new(vec![
        directory("d"),
        file("d/f", "x"),
        file("d/g", "y"),
        entry("d/l", link, 0o777),
        directory("e"),
        file("e/f", "x"),
        file("h", "z"),
    ]))])
}

#[test]
fn keys_are_those_of_the_table() {
    let mut found = String::new();
    let table = table();
    for line in table.lines() {
        match line.split_once(" => ") {
            Some((case, _)) if !line.starts_with('#') => {
                writeln!(found, "{case} => {}", key(case.trim_start())).unwrap()
            }
            _ => writeln!(found, "{line}").unwrap(),
        }
    }
    // A changed key makes every store cold: see the head of the table.
    expect_test::expect_file![TABLE].assert_eq(&found);
}

#[test]
fn what_enters_and_what_does_not_is_as_the_table_shows_it() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let (mut last, mut wrong) = (String::new(), Vec::new());
    for line in table().lines().filter(|line| !line.starts_with('#')) {
        let Some((case, _)) = line.split_once(" => ") else {
            continue;
        };
        let found = key(case.trim_start()).to_string();
        if case.starts_with(' ') {
            wrong.extend((found != last).then(|| format!("{case}: not as above")));
            continue;
        }
        let other = seen.insert(found.clone(), case.to_owned());
        wrong.extend(other.map(|other| format!("{case}: as {other}")));
        last = found;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen.len() > 60, "{}", seen.len());
}
