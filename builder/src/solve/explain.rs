//! Why a step ran: the preimage of its key is compared with that of the same step in the last build that had it.

use std::collections::BTreeMap;

use proto::definition::{Op, VertexId};
use proto::digest::ContentDigest;
use proto::record::{CacheKey, MissReason, Preimage};

use super::{Inputs, Solve};

/// Files of a [`MissReason::FilesChanged`] that are named; the rest is counted.
const FILES_NAMED: usize = 3;

/// A step that was not found.
#[derive(Debug)]
pub struct Miss<'a> {
    /// Which step of which Dockerfile.
    pub identity: ContentDigest,
    /// The key it was looked up by.
    pub key: CacheKey,
    /// What the key was computed from.
    pub preimage: &'a Preimage,
}

/// The reason, as far as the store still knows the last build. Never fails: a lost history is "never built before".
#[must_use]
pub fn why(solve: &Solve, id: VertexId, inputs: &Inputs, miss: &Miss<'_>) -> MissReason {
    let vertex = solve.definition.vertex(id);
    if solve.no_cache.applies_to(&vertex.stage) {
        return MissReason::NoCache;
    }
    let root = match &vertex.op {
        Op::Exec(exec) => exec.root,
        Op::File(file) => file.root,
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => None,
    };
    let parent_ran = root
        .and_then(|root| inputs.get(root))
        .and_then(|output| output.ran.clone());
    let Some(last) = solve.store.records().last_key(miss.identity) else {
        return MissReason::NeverSeen;
    };
    if last == miss.key {
        let gone = || solve.store.records().absence(last).unwrap_or(MissReason::Evicted);
        return parent_ran.map_or_else(gone, |step| MissReason::ParentRan { step });
    }
    let Some(old) = solve.store.records().preimage(last) else {
        return parent_ran.map_or(MissReason::NeverSeen, |step| MissReason::ParentRan { step });
    };
    if let Some(own) = own_change(&old, miss.preimage) {
        return own;
    }
    if let Some(step) = parent_ran {
        return MissReason::ParentRan { step };
    }
    match root.map(|root| &solve.definition.vertex(root).op) {
        Some(Op::Image(image)) => MissReason::BaseImageChanged {
            reference: image.reference.clone(),
        },
        // The step below came from the cache, but is another one than last time: a line was changed back, say.
        Some(_) => MissReason::OptionChanged {
            name: "an earlier step".to_owned(),
        },
        None => MissReason::NeverSeen,
    }
}

/// What differs beside the root, most telling first.
fn own_change(old: &Preimage, new: &Preimage) -> Option<MissReason> {
    let (old, new) = (by_name(old), by_name(new));
    let changed = |prefix: &str| -> Vec<String> {
        let names = old.keys().chain(new.keys()).filter(|name| name.starts_with(prefix));
        let mut names: Vec<String> = names
            .filter(|name| old.get(*name) != new.get(*name))
            .map(|name| (*name).to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    if !changed("op").is_empty() || !changed("argument ").is_empty() || !changed("heredoc ").is_empty() {
        return Some(MissReason::InstructionChanged {
            old: text_of(&old),
            new: text_of(&new),
        });
    }
    if let Some(name) = changed("variable ").first() {
        return Some(MissReason::VariableChanged {
            name: name["variable ".len()..].to_owned(),
        });
    }
    if let Some(reason) = files_changed(&old, &new, &changed("file ")) {
        return Some(reason);
    }
    let mut names: Vec<&&str> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let other = names
        .into_iter()
        .find(|name| **name != "root" && old.get(**name) != new.get(**name))?;
    Some(MissReason::OptionChanged {
        name: (*other).to_owned(),
    })
}

fn by_name(preimage: &Preimage) -> BTreeMap<&str, &[u8]> {
    preimage
        .fields
        .iter()
        .map(|field| (field.name.as_str(), field.value.as_slice()))
        .collect()
}

/// The instruction in few words: the last argument of a process is the shell text; a copy is its destination and sources.
fn text_of(fields: &BTreeMap<&str, &[u8]>) -> String {
    let text = |name: &str| {
        fields
            .get(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let mut last = None;
    for index in 0.. {
        match text(&format!("argument {index}")) {
            Some(argument) => last = Some(argument),
            None => break,
        }
    }
    last.or_else(|| {
        Some(format!(
            "{} {}",
            text("op")?,
            text("destination").or_else(|| text("path"))?
        ))
    })
    .unwrap_or_default()
}

fn files_changed(old: &BTreeMap<&str, &[u8]>, new: &BTreeMap<&str, &[u8]>, names: &[String]) -> Option<MissReason> {
    let what = |name: &str| match (old.get(name), new.get(name)) {
        (None, _) => "added",
        (_, None) => "removed",
        (Some(old), Some(new)) if content_part(old) == content_part(new) => "mode or owner changed",
        _ => "changed",
    };
    // `file <source> <path>`: the number of the source says nothing to the reader.
    let path = |name: &str| name.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
    let files: Vec<_> = names
        .iter()
        .take(FILES_NAMED)
        .map(|name| (path(name), what(name).to_owned()))
        .collect();
    let more = names.len().saturating_sub(FILES_NAMED) as u64;
    (!files.is_empty()).then_some(MissReason::FilesChanged { files, more })
}

/// The value of a file without its mode and owner, which are twelve bytes behind the path, the kind and what it holds: see
/// [`crate::op::select::content_fields`].
fn content_part(value: &[u8]) -> &[u8] {
    let length = |at: usize| {
        let bytes: [u8; 8] = value.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_be_bytes(bytes)).ok()
    };
    let end = || {
        let kind = 8 + length(0)?;
        let detail = kind.checked_add(1)?;
        detail.checked_add(8)?.checked_add(length(detail)?)
    };
    end().and_then(|end| value.get(..end)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preimage(fields: &[(&str, &str)]) -> Preimage {
        let mut preimage = Preimage::default();
        for (name, value) in fields {
            preimage.push(*name, *value);
        }
        preimage
    }

    fn check(old: &[(&str, &str)], new: &[(&str, &str)], expected: &str) {
        let reason = own_change(&preimage(old), &preimage(new))
            .map(|reason| reason.to_string())
            .unwrap_or_default();
        assert_eq!(reason, expected);
    }

    /// An entry as keys encode it: path, kind, what it holds, then mode and owner.
    fn file(content: &str, mode: u32) -> String {
        let length = |text: &str| String::from_utf8((text.len() as u64).to_be_bytes().to_vec()).unwrap();
        let owner = "\0".repeat(8);
        format!("{}af{}{content}{mode:04}{owner}", length("a"), length(content))
    }

    #[test]
    fn each_change_has_its_own_words() {
        let run = [("op", "exec"), ("argument 0", "sh"), ("argument 1", "make")];
        let other = [("op", "exec"), ("argument 0", "sh"), ("argument 1", "make all")];
        check(&run, &other, "instruction changed: `make` → `make all`");
        check(&[("variable A", "1")], &[("variable A", "2")], "`A` has another value");
        let [same, other, mode] = [file("x", 644), file("y", 644), file("x", 755)];
        check(&[("file 0.0 a", &same)], &[("file 0.0 a", &other)], "`a` changed");
        check(
            &[("file 0.0 a", &same)],
            &[("file 0.0 a", &mode)],
            "`a` mode or owner changed",
        );
        check(&[], &[("file 0.0 a b", &same)], "`a b` added");
        check(&[("user", "")], &[("user", "1")], "user changed");
        check(&[("root", "1")], &[("root", "2")], "");
    }

    #[test]
    fn files_beyond_three_are_counted() {
        let old: Vec<(String, String)> = (0..5).map(|n| (format!("file 0 {n}"), "f".to_owned())).collect();
        let old: Vec<(&str, &str)> = old
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        check(&old, &[], "`0` removed, `1` removed, `2` removed and 2 more");
    }
}
