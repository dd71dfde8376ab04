//! All that differs between what two keys were computed from, in words of the Dockerfile.

use std::collections::BTreeMap;

use frontend::lower::tells_secret;
use frontend::patterns::is_wildcard;
use proto::history::PastStep;
use proto::miss::{Change, FileChange, FileDifference, VariableChange};
use proto::record::{Field, Preimage};

use super::cache_key::base_name;

/// Fields that an instruction says itself.
const SAID: [&str; 10] = [
    "op",
    "security",
    "path",
    "owner",
    "unpack",
    "destination is a directory",
    "--link",
    "--parents",
    "--chown",
    "--chmod",
];
/// Beginnings of names of such fields.
const SAID_BEGINS: [&str; 8] = [
    "argument ",
    "script ",
    "mount ",
    "device ",
    "heredoc ",
    "source ",
    "path ",
    "--exclude ",
];
/// Those of them that hold lines of a script, of which the name of a step shows the first.
const BODIES: [&str; 3] = ["argument ", "script ", "heredoc "];

/// A step and what its key was computed from.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The step.
    pub step: &'a PastStep,
    /// The fields of its key.
    pub preimage: &'a Preimage,
}

/// One thing that differs. What is below a step is told apart: see [`crate::solve::explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// What the instruction says.
    Instruction {
        /// What it said.
        old: String,
        /// What it says.
        new: String,
    },
    /// A variable.
    Variable(VariableChange),
    /// A file.
    File(FileChange),
    /// Anything else in a key, named for people.
    Option {
        /// Its name.
        name: String,
        /// What happened to it.
        change: Change,
        /// The value it had; nothing if there was none, or if it means nothing to people.
        old: Option<String>,
        /// The value it has.
        new: Option<String>,
    },
}

/// Everything but the root that differs, most telling first: the instruction, variables (build arguments first), files, the rest.
#[must_use]
pub fn differences(old: Side<'_>, new: Side<'_>) -> Vec<Difference> {
    let (before, after) = (by_name(old.preimage), by_name(new.preimage));
    let mut names: Vec<&str> = before.keys().chain(after.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let changed: Vec<Changed<'_>> = names
        .into_iter()
        .map(|name| Changed {
            name,
            old: before.get(name).copied(),
            new: after.get(name).copied(),
        })
        .filter(|field| field.name != "root" && field.old != field.new)
        .collect();
    let mut found = instruction(&changed, old, new);
    let mut variables: Vec<VariableChange> = changed
        .iter()
        .filter_map(|field| variable(field, old.step, new.step))
        .collect();
    variables.sort_by_key(|variable| !variable.build_argument);
    found.extend(variables.into_iter().map(Difference::Variable));
    let patterns = patterns(new.preimage);
    let files = files_changed(&files(old.preimage, &patterns), &files(new.preimage, &patterns));
    let any_file = !files.is_empty();
    found.extend(files.into_iter().map(Difference::File));
    found.extend(changed.iter().filter_map(|field| option(field, any_file)));
    if found.is_empty() && old.preimage.fields.len() == new.preimage.fields.len() && reordered(old, new) {
        found.push(Difference::Option {
            name: "the order of variables".to_owned(),
            change: Change::Changed,
            old: None,
            new: None,
        });
    }
    found
}

/// The instruction as the user sees it: the name of a step without its number.
#[must_use]
pub fn instruction_of(name: &str) -> &str {
    let inside = name.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    inside.map_or(name, |(_, text)| text)
}

/// A field that differs.
struct Changed<'a> {
    name: &'a str,
    old: Option<&'a [u8]>,
    new: Option<&'a [u8]>,
}

impl Changed<'_> {
    fn change(&self) -> Change {
        match (self.old, self.new) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            _ => Change::Changed,
        }
    }

    fn is_said(&self) -> bool {
        // `source 0 of 1` is the name of a file that was found.
        let begins = || SAID_BEGINS.iter().any(|begin| self.name.starts_with(begin)) && !self.is_found();
        SAID.contains(&self.name) || begins()
    }

    /// Whether it is the name of what a source led to.
    fn is_found(&self) -> bool {
        self.name.starts_with("source ") && self.name.contains(" of ")
    }
}

fn by_name(preimage: &Preimage) -> BTreeMap<&str, &[u8]> {
    let fields = preimage.fields.iter();
    fields
        .map(|field| (field.name.as_str(), field.value.as_slice()))
        .collect()
}

fn reordered(old: Side<'_>, new: Side<'_>) -> bool {
    let names =
        |side: Side<'_>| -> Vec<String> { side.preimage.fields.iter().map(|field| field.name.clone()).collect() };
    names(old) != names(new)
}

fn text(value: Option<&[u8]>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(value).into_owned())
}

/// One difference for the whole instruction, if its text shows it; else one for each thing that it says.
fn instruction(changed: &[Changed<'_>], old: Side<'_>, new: Side<'_>) -> Vec<Difference> {
    let said: Vec<&Changed<'_>> = changed.iter().filter(|field| field.is_said()).collect();
    let (before, after) = (instruction_of(&old.step.name), instruction_of(&new.step.name));
    // The text of a process is shown with the values of its variables, which are differences of their own; sources of a copy are
    // part of the paths of its files.
    let is_process = by_name(new.preimage).get("op").is_some_and(|op| *op == b"exec");
    let other_sources = !is_process && changed.iter().any(|field| field.name.starts_with("files "));
    if before != after && (!said.is_empty() || other_sources) {
        return vec![Difference::Instruction {
            old: before.to_owned(),
            new: after.to_owned(),
        }];
    }
    let is_body = |name: &str| BODIES.iter().any(|begin| name.starts_with(begin));
    let difference = |field: &&Changed<'_>| match (text(field.old), text(field.new)) {
        (Some(before), Some(after)) if is_body(field.name) => {
            let (old, new) = first_lines(&before, &after);
            Difference::Instruction { old, new }
        }
        (old, new) => Difference::Option {
            name: field.name.to_owned(),
            change: field.change(),
            old,
            new,
        },
    };
    said.iter().map(difference).collect()
}

/// The first line in which two texts differ.
fn first_lines(old: &str, new: &str) -> (String, String) {
    let mut lines = (old.lines(), new.lines());
    loop {
        match (lines.0.next(), lines.1.next()) {
            (Some(old), Some(new)) if old == new => {}
            (None, None) => return (old.to_owned(), new.to_owned()),
            (old, new) => return (old.unwrap_or_default().to_owned(), new.unwrap_or_default().to_owned()),
        }
    }
}

fn variable(field: &Changed<'_>, old: &PastStep, new: &PastStep) -> Option<VariableChange> {
    let name = field.name.strip_prefix("variable ")?;
    let step = if field.new.is_some() { new } else { old };
    let shown = |value| text(value).filter(|_| !tells_secret(name));
    Some(VariableChange {
        name: name.to_owned(),
        build_argument: step.build_arguments.iter().any(|argument| argument == name),
        change: field.change(),
        old: shown(field.old),
        new: shown(field.new),
    })
}

fn option(field: &Changed<'_>, any_file: bool) -> Option<Difference> {
    let name = field.name;
    // Of digests the files behind them are told.
    let told = ["variable ", "file ", "files "]
        .iter()
        .any(|begin| name.starts_with(begin));
    if told || field.is_said() || (field.is_found() && any_file) {
        return None;
    }
    let (name, shown) = match name.split_once(' ') {
        // Chains and times say nothing to people.
        Some(("image", _)) => ("the image that files are taken from", false),
        Some(("modified", _)) => ("the time of the file behind the address", false),
        _ if field.is_found() => ("the name of a source", true),
        _ => (name, true),
    };
    let value = |value| text(value).filter(|_| shown);
    Some(Difference::Option {
        name: name.to_owned(),
        change: field.change(),
        old: value(field.old),
        new: value(field.new),
    })
}

/// The fields that may be files: keys of older versions have them among what is hashed.
fn listed(preimage: &Preimage) -> impl Iterator<Item = &Field> {
    preimage.fields.iter().chain(&preimage.listing)
}

/// A file: the number of its source, its path, and what is known of it; nothing for what is none. The path of a root is the pattern
/// that led to it.
fn as_file(field: &Field) -> Option<(&str, &str, Option<Facts<'_>>)> {
    let (number, path) = field.name.strip_prefix("file ")?.split_once(' ')?;
    let source = number.split('.').next().unwrap_or_default();
    Some((source, path, Facts::read(&field.value)))
}

/// The patterns of the sources, by their numbers.
fn patterns(preimage: &Preimage) -> BTreeMap<&str, &str> {
    let roots = listed(preimage).filter_map(as_file);
    let roots = roots.filter(|(.., facts)| facts.as_ref().is_some_and(|facts| facts.path.is_empty()));
    roots.map(|(source, pattern, _)| (source, pattern)).collect()
}

/// The files of a key by the paths that the instruction reaches them by. A source is told from the others by its number.
///
/// The directory part of a pattern is in no key, so the list may be of an earlier build that reached the same files by another way:
/// `patterns` are those of the build that is explained.
fn files<'a>(preimage: &'a Preimage, patterns: &BTreeMap<&str, &str>) -> BTreeMap<(&'a str, String), &'a [u8]> {
    let mut files = BTreeMap::new();
    // Roots of sources come before what is below them.
    let (mut root, mut top) = ("", String::new());
    for field in listed(preimage) {
        let named = field.name.split_once(" of ");
        if let Some(("source", _)) = named.and_then(|(source, _)| source.split_once(' ')) {
            root = std::str::from_utf8(&field.value).unwrap_or_default();
            top.clear();
        }
        let Some((source, path, facts)) = as_file(field) else {
            continue;
        };
        if facts.is_some_and(|facts| facts.path.is_empty()) {
            let is_same_name = |pattern: &&&str| base_name(pattern) == base_name(path);
            let pattern = patterns.get(source).filter(is_same_name).copied();
            top = top_of(pattern.unwrap_or(path), root);
            files.insert((source, top.clone()), field.value.as_slice());
        } else if top.is_empty() {
            files.insert((source, path.to_owned()), field.value.as_slice());
        } else {
            files.insert((source, format!("{top}/{path}")), field.value.as_slice());
        }
    }
    files
}

/// The path that a source leads to: the pattern as written, its last part replaced by the name that was found.
fn top_of(pattern: &str, name: &str) -> String {
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    if !is_wildcard(pattern) || name.is_empty() {
        return pattern.to_owned();
    }
    match pattern.rsplit_once('/') {
        Some((directory, _)) if !is_wildcard(directory) => format!("{directory}/{name}"),
        _ => name.to_owned(),
    }
}

fn files_changed(old: &BTreeMap<(&str, String), &[u8]>, new: &BTreeMap<(&str, String), &[u8]>) -> Vec<FileChange> {
    let mut paths: Vec<&(&str, String)> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let change = |path: &(&str, String)| {
        let what = match (old.get(path), new.get(path)) {
            (None, _) => FileDifference::Added,
            (_, None) => FileDifference::Removed,
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => what_differs(old, new),
        };
        let path = path.1.clone();
        Some(FileChange { path, what })
    };
    paths.into_iter().filter_map(change).collect()
}

fn what_differs(old: &[u8], new: &[u8]) -> FileDifference {
    let (Some(old), Some(new)) = (Facts::read(old), Facts::read(new)) else {
        return FileDifference::Content;
    };
    if old.content != new.content {
        return FileDifference::Content;
    }
    match (old.mode == new.mode, old.owner == new.owner) {
        (false, true) => FileDifference::Mode {
            old: old.mode,
            new: new.mode,
        },
        (true, false) => FileDifference::Owner {
            old: old.owner,
            new: new.owner,
        },
        (false, false) => FileDifference::ModeAndOwner {
            old: (old.mode, old.owner.0, old.owner.1),
            new: (new.mode, new.owner.0, new.owner.1),
        },
        (true, true) => FileDifference::Attributes,
    }
}

/// A file as listings have it: see [`crate::op::content`].
struct Facts<'a> {
    path: &'a [u8],
    /// Its kind, and what it holds.
    content: (u8, &'a [u8]),
    mode: u32,
    owner: (u32, u32),
}

impl<'a> Facts<'a> {
    /// Nothing for bytes that are no file.
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let path = part(&mut bytes)?;
        let (kind, rest) = bytes.split_first()?;
        bytes = rest;
        let detail = part(&mut bytes)?;
        let mut numbers = [0; 3];
        for number in &mut numbers {
            let (four, rest) = bytes.split_first_chunk()?;
            *number = u32::from_be_bytes(*four);
            bytes = rest;
        }
        Some(Self {
            path,
            content: (*kind, detail),
            mode: numbers[0],
            owner: (numbers[1], numbers[2]),
        })
    }
}

/// The bytes behind a length, taken off.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (part, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use proto::digest::ContentDigest;
    use proto::miss::MissReason;

    use super::*;

    fn step(name: &str) -> PastStep {
        PastStep {
            text: ContentDigest::of(b""),
            key: None,
            name: format!("[2/3] {name}"),
            build_arguments: vec!["V".to_owned()],
            image: String::new(),
        }
    }

    fn preimage(fields: &[(&str, &[u8])]) -> Preimage {
        let mut preimage = Preimage::default();
        for (name, value) in fields {
            preimage.push(*name, *value);
        }
        preimage
    }

    /// An entry as keys encode it.
    fn file(path: &str, content: &str, mode: u32, uid: u32) -> Vec<u8> {
        let part = |text: &str| [&(text.len() as u64).to_be_bytes(), text.as_bytes()].concat();
        let numbers = [mode, uid, 0].map(u32::to_be_bytes).concat();
        [part(path), vec![b'f'], part(content), numbers].concat()
    }

    /// What the differences are, each in the words of the reason that it makes. Files may be among the fields of a key, as older
    /// versions had them, or listed beside them.
    fn check(old: (&str, &[(&str, &[u8])]), new: (&str, &[(&str, &[u8])]), expected: &[&str]) {
        let sides = [(old.0, preimage(old.1)), (new.0, preimage(new.1))];
        compare(sides.clone(), expected);
        compare(sides.map(|(name, preimage)| (name, with_listing(preimage))), expected);
    }

    fn with_listing(preimage: Preimage) -> Preimage {
        let is_listed = |field: &Field| field.name.starts_with("file ") || field.name.contains(" of ");
        let (listing, fields) = preimage.fields.into_iter().partition(is_listed);
        Preimage { fields, listing }
    }

    fn compare([(old, before), (new, after)]: [(&str, Preimage); 2], expected: &[&str]) {
        let sides = [(step(old), before), (step(new), after)];
        let [old, new] = sides.each_ref().map(|(step, preimage)| Side { step, preimage });
        let found: Vec<String> = differences(old, new)
            .into_iter()
            .map(|found| in_words(&[found]))
            .collect();
        assert_eq!(found, expected);
    }

    fn in_words(found: &[Difference]) -> String {
        crate::solve::explain::reason_of(found).map_or_else(String::new, |reason: MissReason| reason.to_string())
    }

    #[test]
    fn an_instruction_is_shown_as_the_user_wrote_it() {
        let run = |command: &'static [u8]| [("op", &b"exec"[..]), ("argument 0", b"sh"), ("argument 1", command)];
        check(
            ("RUN make", &run(b"make")),
            ("RUN make all", &run(b"make all")),
            &["instruction changed: `RUN make` → `RUN make all`"],
        );
        check(
            ("RUN <<EOF (make...)", &run(b"make\nfirst\n")),
            ("RUN <<EOF (make...)", &run(b"make\nsecond\n")),
            &["instruction changed: `first` → `second`"],
        );
        check(
            ("COPY . .", &[("op", b"copy"), ("destination", b"/a")]),
            ("COPY . .", &[("op", b"copy"), ("destination", b"/b")]),
            &["destination changed: `/a` → `/b`"],
        );
    }

    #[test]
    fn arguments_and_environment_are_told_apart_and_secrets_are_not_shown() {
        check(
            (
                "RUN 1",
                &[
                    ("op", b"exec"),
                    ("variable A", b"1"),
                    ("variable V", b"1"),
                    ("variable X", b"1"),
                ],
            ),
            (
                "RUN 2",
                &[
                    ("op", b"exec"),
                    ("variable A", b"2"),
                    ("variable V", b"2"),
                    ("variable Y", b""),
                ],
            ),
            &[
                "build argument `V` changed: `1` → `2`",
                "environment variable `A` changed: `1` → `2`",
                "environment variable `X` removed: it was `1`",
                "environment variable `Y` added: ``",
            ],
        );
        check(
            ("RUN", &[("variable API_TOKEN", b"1")]),
            ("RUN", &[("variable API_TOKEN", b"2")]),
            &["environment variable `API_TOKEN` changed"],
        );
        check(
            ("RUN", &[("variable A", b"1"), ("variable B", b"2")]),
            ("RUN", &[("variable B", b"2"), ("variable A", b"1")]),
            &["the order of variables changed"],
        );
    }

    #[test]
    fn content_mode_and_owner_of_files_are_told_apart() {
        let same = file("f", "x", 0o644, 0);
        let [content, mode, owner, both] = [
            file("f", "y", 0o644, 0),
            file("f", "x", 0o755, 0),
            file("f", "x", 0o644, 7),
            file("f", "x", 0o600, 7),
        ];
        let attributes = [same.clone(), vec![1]].concat();
        check(
            ("COPY . /", &[]),
            ("COPY . /", &[("file 0.0 a b", b"?")]),
            &["`a b` added"],
        );
        for (new, expected) in [
            (content, "`a` changed"),
            (mode, "`a` mode changed (644 → 755)"),
            (owner, "`a` owner changed (0:0 → 7:0)"),
            (both, "`a` mode and owner changed (644 0:0 → 600 7:0)"),
            (attributes, "`a` attributes changed"),
        ] {
            check(
                ("COPY . /", &[("file 0.0 a", &same)]),
                ("COPY . /", &[("file 0.0 a", &new)]),
                &[expected],
            );
        }
    }

    #[test]
    fn files_are_named_by_the_path_they_are_reached_by() {
        let (top, below) = (file("", "x", 0o644, 0), file("main.c", "x", 0o644, 0));
        let changed = file("main.c", "y", 0o644, 0);
        check(
            (
                "COPY ./src/ /",
                &[
                    ("source 0 of 0", b"src"),
                    ("file 0.0 ./src/", &top),
                    ("file 0.0 main.c", &below),
                ],
            ),
            (
                "COPY ./src/ /",
                &[
                    ("source 0 of 0", b"src"),
                    ("file 0.0 ./src/", &top),
                    ("file 0.0 main.c", &changed),
                ],
            ),
            &["`src/main.c` changed"],
        );
        // A file that sorts before the others moves their numbers.
        check(
            (
                "COPY in/*.txt /",
                &[("source 0 of 0", b"b.txt"), ("file 0.0 in/*.txt", &top)],
            ),
            (
                "COPY in/*.txt /",
                &[
                    ("source 0 of 0", b"a.txt"),
                    ("file 0.0 in/*.txt", &top),
                    ("source 1 of 0", b"b.txt"),
                    ("file 0.1 in/*.txt", &top),
                ],
            ),
            &["`in/a.txt` added"],
        );
    }

    #[test]
    fn a_list_of_a_build_that_took_another_way_is_shown_with_the_way_of_this_one() {
        let (old, new) = (file("", "x", 0o644, 0), file("", "y", 0o644, 0));
        let side = |pattern: &str, file: &[u8]| -> Vec<(String, Vec<u8>)> {
            vec![
                ("source 0 of 0".to_owned(), b"f".to_vec()),
                (format!("file 0.0 {pattern}"), file.to_vec()),
            ]
        };
        let (old, same, other) = (side("a/f", &old), side("b/f", &new), side("b/g", &new));
        fn fields(side: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
            side.iter()
                .map(|(name, value)| (name.as_str(), value.as_slice()))
                .collect()
        }
        check(
            ("COPY b/f /", &fields(&old)),
            ("COPY b/f /", &fields(&same)),
            &["`b/f` changed"],
        );
        check(
            ("COPY b/g /", &fields(&old)),
            ("COPY b/g /", &fields(&other)),
            &["`a/f` removed", "`b/g` added"],
        );
    }
}
