//! Hard links that stand before their files: an archive may name them in any order.

use std::collections::{BTreeMap, VecDeque};

use proto::tree::{RelPath, TreeEntry};

use super::merge::{EntryError, Merged, Refusal};

/// Rounds over what is left. More than one is needed only where a link to a link changes what other names lead to.
const MOST_ROUNDS: usize = 40;

/// A hard link, and its target as it was named.
pub(crate) type Link = (TreeEntry, RelPath);

/// Who takes hard links.
pub(crate) trait TakesLinks {
    /// What is there so far.
    fn merged(&self) -> &Merged<'_>;

    /// Counts bytes that stay in memory until the layer ends.
    ///
    /// # Errors
    /// More than there may be.
    fn keep(&mut self, bytes: usize) -> Result<(), EntryError>;

    /// Makes `link` a further name of `found`, which has another one and is of a layer below if `from_below`.
    ///
    /// # Errors
    /// Targets that no link may have; a disk that fails.
    fn make_link(&mut self, link: TreeEntry, found: TreeEntry, from_below: bool) -> Result<(), EntryError>;
}

/// Makes a link, or gives it back if its target has not come yet.
///
/// # Errors
/// Targets that no link may have; a disk that fails.
pub(crate) fn take(layer: &mut impl TakesLinks, (link, named): Link) -> Result<Option<Link>, EntryError> {
    let target = layer.merged().locate(&named)?;
    if target == link.path {
        return Err(Refusal::HardLink.into());
    }
    match layer.merged().link_target(&target)? {
        // A further name of the file itself: it is there already.
        Some((found, _)) if found.path == link.path => Ok(None),
        Some((found, from_below)) => layer.make_link(link, found, from_below).map(|()| None),
        None => Ok(Some((link, named))),
    }
}

/// As [`take`], for a link that has just come: one that is given back is kept in memory until its target comes.
///
/// # Errors
/// Those of [`take`]; more in memory than there may be.
pub(crate) fn take_or_keep(layer: &mut impl TakesLinks, link: Link) -> Result<Option<Link>, EntryError> {
    let waits = take(layer, link)?;
    if let Some((entry, target)) = &waits {
        layer.keep(entry.path.as_bytes().len() + target.as_bytes().len())?;
    }
    Ok(waits)
}

/// Makes all of `waiting`, now that everything else has come, each as soon as its target is there. The work grows with the number
/// of links and no faster.
///
/// # Errors
/// The link that cannot be made, and why; of those whose target does not come at all, one.
pub(crate) fn take_all(layer: &mut impl TakesLinks, waiting: Vec<Link>) -> Result<(), (RelPath, EntryError)> {
    let mut queue = VecDeque::from(waiting);
    for _ in 0..MOST_ROUNDS {
        let before = queue.len();
        queue = one_round(layer, queue)?;
        if queue.is_empty() {
            return Ok(());
        }
        if queue.len() == before {
            break;
        }
    }
    match queue.pop_front() {
        Some((link, _)) => Err((link.path, Refusal::HardLink.into())),
        None => Ok(()),
    }
}

/// Tries each link, and again when what it waits for was made; returns those that still wait.
fn one_round(layer: &mut impl TakesLinks, mut queue: VecDeque<Link>) -> Result<VecDeque<Link>, (RelPath, EntryError)> {
    let mut waiting_for: BTreeMap<RelPath, Vec<Link>> = BTreeMap::new();
    while let Some(link) = queue.pop_front() {
        let path = link.0.path.clone();
        let taken = take(layer, link).and_then(|back| {
            let place = |link: Link| Ok((layer.merged().locate(&link.1)?, link));
            back.map(place).transpose()
        });
        match taken.map_err(|error| (path.clone(), error))? {
            Some((target, link)) => waiting_for.entry(target).or_default().push(link),
            None => queue.extend(waiting_for.remove(&path).unwrap_or_default()),
        }
    }
    Ok(waiting_for.into_values().flatten().collect())
}
