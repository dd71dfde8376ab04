//! Trees of contexts: named by their digest first, and sent as far as the server does not have them already.
//!
//! A context that did not change is one short answer. Of one that did, a client that is elsewhere sends the digests of its
//! directories, and then what those of them hold that no tree in memory has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::convert::{ConvertError, array};
use proto::digest::ContentDigest;
use proto::tree::{RelPath, Tree, TreeEntry};
use proto::v1::{self, client_message::Body as Answer, server_message::Body as Question};
use proto::{tree_digest, tree_nodes};

use super::{Session, unexpected};
use crate::context::ContextModes;
use crate::context_trees::ContextTrees;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::tree::MergedTree;

/// What is wanted of a context.
#[derive(Debug, Clone, Copy)]
pub struct WantedContext<'a> {
    /// Its name in the session.
    pub name: &'a str,
    /// Paths and patterns.
    pub include: &'a [String],
    /// Which modes its files have.
    pub modes: ContextModes,
}

/// What a walk of a context found.
#[derive(Debug, Clone)]
pub struct WalkedContext {
    /// What was selected.
    pub tree: Arc<MergedTree>,
    /// What was asked for and exists, but the ignore file excludes: path, pattern, line.
    pub excluded: Vec<(String, String, u32)>,
}

/// All messages of an answer with a tree, or its digest.
#[derive(Debug, Default)]
struct TreeAnswer {
    entries: Vec<v1::TreeEntry>,
    digest: Vec<u8>,
    directories: Vec<u8>,
    excluded: Vec<(String, String, u32)>,
}

impl TreeAnswer {
    /// The tree that was sent, under a digest that is computed here: what the client says it to be is not what others are told by.
    fn into_tree(self) -> Result<(ContentDigest, Tree), BuildError> {
        let tree = Tree::try_from(v1::Tree { entries: self.entries }).map_err(|error| broken_tree(&error))?;
        Ok((tree_digest::digest(&tree), tree))
    }
}

/// Keeps a tree under its digest.
fn kept((digest, tree): (ContentDigest, Tree), trees: &ContextTrees) -> Arc<MergedTree> {
    let tree = Arc::new(MergedTree::new(vec![Arc::new(tree)]));
    trees.keep(digest, &tree);
    tree
}

fn broken_tree(error: &ConvertError) -> BuildError {
    BuildError::bug(format!("the client sent a broken context tree: {error}"))
}

impl Session {
    /// The tree of a context, as far as `wanted` selects it. A tree that is among `trees` is not sent; one that is sent is kept there.
    ///
    /// # Errors
    /// What the client says; trees that break their own rules.
    pub async fn walk(&self, wanted: &WantedContext<'_>, trees: &ContextTrees) -> Result<WalkedContext, BuildError> {
        let question = v1::WalkContext {
            context: wanted.name.to_owned(),
            include: wanted.include.to_vec(),
            digest_first: true,
            modes: v1::ContextModes::from(wanted.modes).into(),
        };
        let _phase = Phase::Context.start();
        let mut walked = self.read_tree(Question::Walk(question)).await?;
        let excluded = std::mem::take(&mut walked.excluded);
        if walked.digest.is_empty() {
            let tree = kept(walked.into_tree()?, trees);
            return Ok(WalkedContext { tree, excluded });
        }
        let digest = array("digest", &walked.digest).map(ContentDigest::from_bytes);
        let digest = digest.map_err(|error| broken_tree(&error))?;
        if let Some(tree) = trees.get(&digest) {
            return Ok(WalkedContext { tree, excluded });
        }
        let whole = v1::ReadTree {
            context: wanted.name.to_owned(),
            digest: walked.digest,
            ..v1::ReadTree::default()
        };
        // Here, sending a tree is faster than comparing it.
        let known = match self.in_place(wanted.name) {
            Some(_) => None,
            None => self.changed_tree(&whole, trees).await?,
        };
        let tree = match known.filter(|tree| tree_digest::digest(tree) == digest) {
            Some(tree) => (digest, tree),
            None => self.read_tree(Question::ReadTree(whole)).await?.into_tree()?,
        };
        let tree = kept(tree, trees);
        Ok(WalkedContext { tree, excluded })
    }

    /// The tree, put together of directories that are known and those that are not, which are read. Nothing if it cannot be, or
    /// if nothing of it is known.
    async fn changed_tree(&self, tree: &v1::ReadTree, trees: &ContextTrees) -> Result<Option<Tree>, BuildError> {
        let question = v1::ReadTree {
            directories_first: true,
            ..tree.clone()
        };
        let digests = self.read_tree(Question::ReadTree(question)).await?.directories;
        let wanted: Vec<ContentDigest> = digests
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(ContentDigest::from_bytes)
            .collect();
        let known = trees.nodes(&wanted);
        let missing: Vec<usize> = (0..wanted.len())
            .filter(|at| !known.contains_key(&wanted[*at]))
            .collect();
        tracing::debug!(
            directories = wanted.len(),
            new = missing.len(),
            "the client is asked for directories"
        );
        if missing.len() == wanted.len() {
            return Ok(None);
        }
        let mut new = HashMap::new();
        if !missing.is_empty() {
            let places = missing.iter().filter_map(|at| u32::try_from(*at).ok());
            let question = v1::ReadTree {
                directories: places.collect(),
                ..tree.clone()
            };
            let entries = self.read_tree(Question::ReadTree(question)).await?.entries;
            new = by_directory(entries)?
                .into_iter()
                .zip(&missing)
                .map(|(node, at)| (wanted[*at], node))
                .collect();
        }
        let entries = |digest: &ContentDigest| -> Option<Vec<&TreeEntry>> {
            let node = known.get(digest).or_else(|| new.get(digest))?;
            Some(node.iter().collect())
        };
        let nodes: Option<Vec<Vec<&TreeEntry>>> = wanted.iter().map(entries).collect();
        Ok(nodes.and_then(|nodes| tree_nodes::assemble(&nodes)).map(Tree::new))
    }

    async fn read_tree(&self, question: Question) -> Result<TreeAnswer, BuildError> {
        let mut answers = self.ask(question).await?;
        let mut walked = TreeAnswer::default();
        while let Some(answer) = answers.next().await? {
            let Answer::Tree(part) = answer else {
                return Err(unexpected("WalkContext"));
            };
            if part.walk_ms > 0 {
                Phase::Walk.took(Duration::from_millis(part.walk_ms));
            }
            walked.entries.extend(part.tree.unwrap_or_default().entries);
            walked.digest.extend(part.digest);
            walked.directories.extend(part.directories);
            walked.excluded.extend(part.excluded.into_iter().map(|excluded| {
                (
                    String::from_utf8_lossy(&excluded.path).into_owned(),
                    excluded.pattern,
                    excluded.line,
                )
            }));
        }
        Ok(walked)
    }
}

/// Entries that come directory by directory, as such.
fn by_directory(entries: Vec<v1::TreeEntry>) -> Result<Vec<Vec<TreeEntry>>, BuildError> {
    let mut nodes: Vec<(Option<RelPath>, Vec<TreeEntry>)> = Vec::new();
    for entry in entries {
        let entry = TreeEntry::try_from(entry).map_err(|error| broken_tree(&error))?;
        let directory = entry.path.parent();
        match nodes.last_mut() {
            Some((last, node)) if *last == directory => node.push(entry),
            _ => nodes.push((directory, vec![entry])),
        }
    }
    Ok(nodes.into_iter().map(|(_, node)| node).collect())
}
