//! `WORKDIR`: a directory and its missing parents.

use proto::definition::MakeDirAction;
use proto::tree::{RelPath, Timestamp, TreeEntry};

use super::copy::CopyError;
use super::destination::{Destination, made_directory};
use super::owner::{self, Lookup};
use crate::tree::MergedTree;

/// The entries that make the directory, parents first; nothing to make gives no entry.
///
/// # Errors
/// A file in the way, a loop of links, or an owner that cannot be looked up.
pub fn plan(
    parent: &MergedTree,
    action: &MakeDirAction,
    lookup: Option<Lookup<'_>>,
    now: Timestamp,
) -> Result<Vec<TreeEntry>, CopyError> {
    let (uid, gid) = match &action.owner {
        Some(owner) => owner::numbers(owner, lookup)?,
        None => (0, 0),
    };
    let mut destination = Destination::on(parent);
    let path = destination.resolve(&RelPath::clean(action.path.as_bytes()))?;
    destination.make_directories(&path, &made_directory(uid, gid, now))?;
    if !destination.has_changes() {
        return Ok(Vec::new());
    }
    Ok(destination.finish().into_iter().map(|planned| planned.entry).collect())
}
