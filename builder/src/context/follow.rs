//! From sources as instructions name them to paths: wildcards expanded, links resolved inside the root.

use std::collections::{BTreeSet, HashSet};

use frontend::patterns::{Patterns, check_wildcard, is_wildcard, unescape, wildcard_matches};
use proto::tree::RelPath;
use rustix::fs::FileType;

use super::WalkError;
use super::dir::{Directory, Root, file_type};

/// As many as Linux follows in one path.
const MAX_LINKS: u32 = 40;

/// What the includes come to.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Existing paths; each stands for itself and everything below it.
    pub(super) paths: BTreeSet<RelPath>,
    /// The includes without wildcards that exist.
    pub(super) named: Vec<Named>,
}

/// An include that names one path.
#[derive(Debug)]
pub(super) struct Named {
    /// As given, cleaned.
    pub(super) include: RelPath,
    /// Where its links lead, or the excluded link at which following ended.
    pub(super) leads_to: RelPath,
}

/// One component still to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    Name(Vec<u8>),
    Wildcard(String),
    Up,
}

/// A place that has been reached; no component of `at` is a link.
#[derive(Debug)]
struct Step {
    at: RelPath,
    /// The next segment is the last one.
    rest: Vec<Segment>,
    links: u32,
}

#[derive(Debug)]
struct Follower<'a> {
    root: &'a Root,
    ignore: &'a Patterns,
    paths: BTreeSet<RelPath>,
    open: Vec<Step>,
    /// Links to directories can lead to one place in very many ways.
    seen: HashSet<(RelPath, Vec<Segment>)>,
    ended_at: Option<RelPath>,
}

/// Finds what `includes` name.
pub(super) fn select(root: &Root, ignore: &Patterns, includes: &[String]) -> Result<Selection, WalkError> {
    let mut selection = Selection::default();
    if includes.is_empty() {
        selection.paths.insert(RelPath::root());
    }
    for include in includes {
        let mut follower = Follower {
            root,
            ignore,
            paths: std::mem::take(&mut selection.paths),
            open: vec![Step {
                at: RelPath::root(),
                rest: segments(include)?,
                links: 0,
            }],
            seen: HashSet::new(),
            ended_at: None,
        };
        while let Some(step) = follower.open.pop() {
            follower.advance(step)?;
        }
        selection.paths = follower.paths;
        if let Some(leads_to) = follower.ended_at.filter(|_| !is_wildcard(include)) {
            let include = RelPath::clean(include.as_bytes());
            selection.named.push(Named { include, leads_to });
        }
    }
    Ok(selection)
}

fn segments(include: &str) -> Result<Vec<Segment>, WalkError> {
    // An escape has a meaning only in a pattern: `a\b` is a file name, `a\b*` is not.
    let pattern = is_wildcard(include);
    if pattern {
        check_wildcard(include).map_err(|problem| WalkError::Include {
            include: include.to_owned(),
            problem,
        })?;
    }
    let cleaned = RelPath::clean(include.as_bytes());
    // `**` may reach any depth, so everything from there on is looked at; whoever asked picks from it.
    let deep = |bytes: &&[u8]| pattern && bytes.windows(2).any(|pair| pair == b"**");
    let shallow = cleaned.components().take_while(|bytes| !deep(bytes)).count();
    let segment = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match pattern {
            true if is_wildcard(&text) => Segment::Wildcard(text.into_owned()),
            true => Segment::Name(unescape(&text).into_owned().into_bytes()),
            false => Segment::Name(bytes.to_owned()),
        }
    };
    let mut segments: Vec<Segment> = cleaned.components().take(shallow).map(segment).collect();
    segments.reverse();
    Ok(segments)
}

impl Follower<'_> {
    fn advance(&mut self, mut step: Step) -> Result<(), WalkError> {
        if !self.seen.insert((step.at.clone(), step.rest.clone())) {
            return Ok(());
        }
        match step.rest.pop() {
            None => {
                self.paths.insert(step.at.clone());
                self.ended_at = Some(step.at);
                Ok(())
            }
            Some(Segment::Up) => {
                // `at` has no links, so the parent by name is the parent; the root is its own parent.
                step.at = step.at.parent().unwrap_or_default();
                self.open.push(step);
                Ok(())
            }
            Some(Segment::Name(name)) => {
                let directory = self.root.directory(&step.at)?;
                self.enter(&directory, &name, step)
            }
            Some(Segment::Wildcard(pattern)) => self.expand(&pattern, &step),
        }
    }

    fn expand(&mut self, pattern: &str, step: &Step) -> Result<(), WalkError> {
        if self.hides(&step.at) {
            return Ok(()); // Excluded and perhaps unreadable: nobody asked for just this directory.
        }
        let directory = self.root.directory(&step.at)?;
        for name in directory.names()? {
            let matched = wildcard_matches(pattern, &String::from_utf8_lossy(&name));
            let matched = matched.map_err(|problem| WalkError::Include {
                include: pattern.to_owned(),
                problem,
            })?;
            if matched && !self.hides(&directory.child(&name)) {
                let (at, rest, links) = (step.at.clone(), step.rest.clone(), step.links);
                self.enter(&directory, &name, Step { at, rest, links })?;
            }
        }
        Ok(())
    }

    /// Goes on from `step` to `name` in `directory`, which is the step's place, or ends where there is no way on.
    fn enter(&mut self, directory: &Directory, name: &[u8], mut step: Step) -> Result<(), WalkError> {
        let Some(stat) = directory.stat(name)? else {
            return Ok(());
        };
        let path = directory.child(name);
        match file_type(&stat) {
            FileType::Symlink if self.hides(&path) => {
                // The link is not in the context, so nothing follows it there.
                self.ended_at = Some(path);
                return Ok(());
            }
            FileType::Symlink => {
                let target = directory.link_target(name)?;
                self.paths.insert(path);
                // With more links, whoever copies from the tree meets the same loop and can name the instruction.
                if step.links == MAX_LINKS {
                    return Ok(());
                }
                step.links += 1;
                step.follow(&target);
            }
            FileType::Directory => step.at = path,
            _ if step.rest.is_empty() => step.at = path,
            _ => return Ok(()),
        }
        self.open.push(step);
        Ok(())
    }

    fn hides(&self, path: &RelPath) -> bool {
        let path = path.as_bytes();
        !path.is_empty() && self.ignore.matches(path) && !self.ignore.may_match_below(path)
    }
}

impl Step {
    fn follow(&mut self, target: &[u8]) {
        if target.starts_with(b"/") {
            self.at = RelPath::root();
        }
        for component in target.split(|byte| *byte == b'/').rev() {
            match component {
                b"" | b"." => {}
                b".." => self.rest.push(Segment::Up),
                name => self.rest.push(Segment::Name(name.to_owned())),
            }
        }
    }
}
