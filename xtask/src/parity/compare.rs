//! Two images compared: every field of the config, every entry of the history, every path of the tree.
//!
//! What both builders take from the clock counts as equal. Nothing else is left out here: what differs on purpose is listed in
//! the table of differences.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::parity::image::Image;
use crate::parity::tree::{self, Kind, Node, Tree};

/// One thing that two images say differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// `config.Env`, `history[3]`, `created`, `layers`, `result`, `exit code`, or a path.
    pub(crate) field: String,
    pub(crate) reference: String,
    pub(crate) ours: String,
}

/// Times from 2020 to 2100 are a clock's, whether of this run or of an earlier one that the reference still has in its cache. Base,
/// build context and cases use none of them.
const CLOCK: std::ops::Range<i64> = 1_577_836_800..4_102_444_800;

fn seconds_shown(time: &str) -> &str {
    let whole = time.split('.').next().and_then(|whole| whole.parse().ok());
    match whole {
        Some(whole) if CLOCK.contains(&whole) => "now",
        _ => time,
    }
}

fn text_shown(time: &Value) -> Value {
    match time {
        Value::String(time) if ("2020".."2100").contains(&time.as_str()) => "now".into(),
        _ => time.clone(),
    }
}

/// Everything that differs between two images.
pub(crate) fn images(reference: &Image, ours: &Image) -> Result<Vec<Difference>> {
    let mut found = configs(&reference.config, &ours.config);
    trees(
        &tree::merge(&reference.layers)?,
        &tree::merge(&ours.layers)?,
        &mut found,
    );
    Ok(found)
}

fn configs(reference: &Value, ours: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let (reference, ours) = (fields(reference), fields(ours));
    let names: BTreeSet<&String> = reference.keys().chain(ours.keys()).collect();
    for name in names {
        let (one, other) = (reference.get(name), ours.get(name));
        if one != other {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            found.push(Difference {
                field: name.clone(),
                reference: shown(one),
                ours: shown(other),
            });
        }
    }
    found
}

/// A config as a flat list of fields; what is empty is the same as what is not there.
fn fields(config: &Value) -> Map<String, Value> {
    let mut fields = Map::new();
    for (name, value) in config.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("config", Value::Object(config)) => {
                let inner = config.iter().filter(|(_, value)| !is_empty(value));
                fields.extend(inner.map(|(name, value)| (format!("config.{name}"), value.clone())));
            }
            ("history", Value::Array(history)) => {
                let entries = history.iter().enumerate();
                fields.extend(entries.map(|(number, entry)| (format!("history[{number}]"), dated(entry))));
            }
            ("rootfs", rootfs) => {
                let layers = rootfs.get("diff_ids").and_then(Value::as_array).map_or(0, Vec::len);
                fields.insert("layers".to_owned(), layers.into());
            }
            ("created", time) => {
                fields.insert("created".to_owned(), text_shown(time));
            }
            (_, value) if is_empty(value) => {}
            (name, value) => {
                fields.insert(name.to_owned(), value.clone());
            }
        }
    }
    fields
}

fn dated(entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let Some(created) = entry.get_mut("created") {
        *created = text_shown(created);
    }
    entry
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn trees(reference: &Tree, ours: &Tree, found: &mut Vec<Difference>) {
    let paths: BTreeSet<&String> = reference.keys().chain(ours.keys()).collect();
    for path in paths {
        let (one, other) = (reference.get(path), ours.get(path));
        let text = |node: Option<&Node>| node.map_or_else(|| "nothing".to_owned(), shown);
        let (reference, ours) = (text(one), text(other));
        if reference != ours {
            let name = if path.is_empty() { "/" } else { path };
            let mark = if is_clock_of_directory(one, other) {
                CLOCK_OF_DIRECTORY
            } else {
                ""
            };
            found.push(Difference {
                field: format!("{name}{mark}"),
                reference,
                ours,
            });
        }
    }
}

/// Marks the field of a directory that differs only in its time, which the reference took from its clock and we did not.
const CLOCK_OF_DIRECTORY: &str = " (clock of a directory)";

fn is_clock_of_directory(reference: Option<&Node>, ours: Option<&Node>) -> bool {
    let (Some(reference), Some(ours)) = (reference, ours) else {
        return false;
    };
    let dated = Node {
        time: reference.time.clone(),
        ..ours.clone()
    };
    reference.kind == Kind::Directory && dated == *reference && seconds_shown(&reference.time) == "now"
}

/// A node in one line that says everything about it.
fn shown(node: &Node) -> String {
    let kind = match &node.kind {
        Kind::Directory => "directory".to_owned(),
        Kind::File { size, hash, start } => format!("file of {size} bytes ({hash:016x}) \"{start}\""),
        Kind::Symlink(target) => format!("link to {target}"),
        Kind::Device { letter, major, minor } => format!("device {letter} {major}:{minor}"),
        Kind::Fifo => "fifo".to_owned(),
        Kind::BrokenLink(target) => format!("hard link to nothing at {target}"),
        Kind::IdleWhiteout => return "hides nothing".to_owned(),
        Kind::Other(letter) => format!("entry of type {letter}"),
    };
    let (uid, gid) = node.owner;
    let time = seconds_shown(&node.time);
    let mut line = format!("{:o} {uid}:{gid} {time} {kind}", node.mode);
    for (name, value) in &node.xattrs {
        line.push_str(&format!(" {name}={value}"));
    }
    if let Some(path) = &node.same_as {
        line.push_str(&format!(" same file as {path}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(reference: &Value, ours: &Value) -> Vec<String> {
        let found = configs(reference, ours);
        found.into_iter().map(|difference| difference.field).collect()
    }

    #[test]
    fn every_field_of_a_config_counts_and_empty_ones_do_not() {
        let reference = json!({"os": "linux", "config": {"Env": ["A=1"], "Labels": null, "User": ""}, "rootfs": {"diff_ids": ["x"]}});
        let ours = json!({"os": "linux", "config": {"Env": ["A=2"], "Volumes": {}}, "variant": "v8", "rootfs": {"diff_ids": ["y"]}});
        assert_eq!(changed(&reference, &ours), ["config.Env", "variant"]);
        let fewer = json!({"os": "linux", "config": {"Env": ["A=1"]}, "rootfs": {"diff_ids": []}});
        assert_eq!(changed(&reference, &fewer), ["layers"]);
    }

    #[test]
    fn times_count_unless_they_are_of_the_clock() {
        let of = |time: &str| json!({"created": time, "history": [{"created": time, "created_by": "x"}]});
        let (early, late) = ("2026-11-21T14:00:01Z", "2026-11-21T14:05:00.5Z");
        assert!(changed(&of(early), &of(late)).is_empty());
        assert_eq!(
            changed(&of("1970-01-01T00:00:05Z"), &of(late)),
            ["created", "history[0]"]
        );
    }

    #[test]
    fn history_is_compared_entry_by_entry() {
        let reference = json!({"history": [{"created_by": "a"}, {"created_by": "b", "empty_layer": true}]});
        let ours = json!({"history": [{"created_by": "a"}]});
        assert_eq!(changed(&reference, &ours), ["history[1]"]);
    }

    fn file(time: &str) -> Node {
        Node {
            kind: Kind::File {
                size: 1,
                hash: 7,
                start: "x".to_owned(),
            },
            mode: 0o644,
            owner: (0, 0),
            time: time.to_owned(),
            xattrs: std::collections::BTreeMap::new(),
            same_as: None,
        }
    }

    fn different(reference: &Node, ours: &Node) -> bool {
        shown(reference) != shown(ours)
    }

    #[test]
    fn everything_about_a_path_counts_but_the_clock() {
        let node = file("5");
        assert!(!different(&file("1700000000"), &file("1800000020.5")));
        assert!(different(&node, &file("5.5")));
        assert!(different(
            &node,
            &Node {
                mode: 0o600,
                ..node.clone()
            }
        ));
        assert!(different(
            &node,
            &Node {
                owner: (0, 1),
                ..node.clone()
            }
        ));
        assert!(different(
            &node,
            &Node {
                kind: Kind::Fifo,
                ..node.clone()
            }
        ));
        assert!(different(
            &node,
            &Node {
                same_as: Some("/a".to_owned()),
                ..node.clone()
            }
        ));
        let xattrs = [("SCHILY.xattr.user.a".to_owned(), "1".to_owned())].into();
        assert!(different(&node, &Node { xattrs, ..node.clone() }));
    }

    #[test]
    fn a_path_of_one_side_only_is_a_difference() {
        let mut found = Vec::new();
        let reference = Tree::from([("/a".to_owned(), file("5"))]);
        trees(&reference, &Tree::new(), &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].field.as_str(), found[0].ours.as_str()), ("/a", "nothing"));
    }

    #[test]
    fn a_directory_with_the_clock_of_the_reference_is_marked_and_not_the_other_way_round() {
        let directory = |time| {
            Tree::from([(
                "/d".to_owned(),
                Node {
                    kind: Kind::Directory,
                    ..file(time)
                },
            )])
        };
        let field = |reference: &Tree, ours: &Tree| {
            let mut found = Vec::new();
            trees(reference, ours, &mut found);
            found.remove(0).field
        };
        assert_eq!(
            field(&directory("1700000000"), &directory("5")),
            "/d (clock of a directory)"
        );
        assert_eq!(field(&directory("5"), &directory("1700000000")), "/d");
    }
}
