//! The members of a tar, one after the other, into the tree that unpacking them in this order makes.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

use super::{ArchiveError, Body};
use crate::layer::apply::{Refusal, allowed_xattr};
use crate::layer::early::{self, Link, TakesLinks};
use crate::layer::limits::Limits;
use crate::layer::lower::LowerTrees;
use crate::layer::merge::{EntryError, Merged};
use crate::layer::read::{Archive, Member, read_error};

type Bodies = HashMap<ContentDigest, Body>;

/// The tree, and where in the tar its bytes are. What is read of `tar` is written to `spool`.
pub(super) fn read(
    tar: Box<dyn Read + Send>,
    spool: Option<&File>,
    limits: &Limits,
) -> Result<(Tree, Bodies), ArchiveError> {
    let (position, spool_error) = (Cell::new(0), Cell::new(None));
    let source = Tee {
        inner: tar,
        spool,
        position: &position,
        error: &spool_error,
    };
    let outcome = read_all(Archive::new(source, limits), &position, limits);
    match spool_error.take() {
        // A full disk is no fault of the archive.
        Some(error) => Err(ArchiveError::Spool(error)),
        None => outcome,
    }
}

fn read_all<R: Read>(
    mut archive: Archive<'_, R>,
    position: &Cell<u64>,
    limits: &Limits,
) -> Result<(Tree, Bodies), ArchiveError> {
    let nothing = LowerTrees::default();
    let mut members = Members {
        merged: Merged::in_memory(&nothing, limits).map_err(|error| named(b"/", error))?,
        early_links: Vec::new(),
        bodies: HashMap::new(),
    };
    while let Some(member) = archive.next()? {
        let offset = position.get();
        let path = members.take(&member).map_err(|error| named(&member.name, error))?;
        if let Some(path) = path {
            let content = hash(&mut archive)?;
            let size = member.size;
            members.merged.set_kind(&path, EntryKind::File { size, content });
            members.bodies.insert(content, Body { offset, size });
        }
    }
    // Checksums of compressed forms come last: without them the bytes may be anything.
    archive.drain()?;
    members.finish()
}

fn hash(body: &mut impl Read) -> Result<ContentDigest, ArchiveError> {
    let mut hasher = blake3::Hasher::new();
    io::copy(body, &mut hasher).map_err(read_error)?;
    Ok(hasher.finalize().into())
}

fn named(name: &[u8], error: EntryError) -> ArchiveError {
    match error {
        EntryError::Refused(refusal) => ArchiveError::Refused {
            name: RelPath::clean(name).to_string(),
            refusal,
        },
        EntryError::Limit(limit) => ArchiveError::Limit(limit),
        // There is nothing below an archive, and nothing is written but the spool.
        EntryError::Lower(error) | EntryError::Write(error) => ArchiveError::Read(error),
    }
}

struct Members<'a> {
    merged: Merged<'a>,
    /// Hard links whose target has not come yet.
    early_links: Vec<Link>,
    bodies: Bodies,
}

impl Members<'_> {
    /// Notes a member; returns its path if it is a file whose bytes follow.
    fn take(&mut self, member: &Member) -> Result<Option<RelPath>, EntryError> {
        let named = RelPath::parse(&member.name).map_err(|_| Refusal::Name)?;
        if member.link.contains(&0) {
            return Err(Refusal::Name.into());
        }
        self.merged.check_link(&member.link)?;
        let path = self.merged.locate(&named)?;
        if let b'1' = member.typeflag {
            let target = RelPath::parse(&member.link).map_err(|_| Refusal::HardLink)?;
            let link = early::take_or_keep(self, (entry(member, path, EntryKind::Fifo), target))?;
            self.early_links.extend(link);
            return Ok(None);
        }
        let entry = entry(member, path, kind(member)?);
        let file = matches!(entry.kind, EntryKind::File { .. }).then(|| entry.path.clone());
        self.merged.add(entry)?;
        Ok(file)
    }

    fn finish(mut self) -> Result<(Tree, Bodies), ArchiveError> {
        let waiting = std::mem::take(&mut self.early_links);
        let taken = early::take_all(&mut self, waiting);
        let tree = taken.and_then(|()| self.merged.finish());
        let tree = tree.map_err(|(path, error)| named(path.as_bytes(), error))?;
        Ok((tree, self.bodies))
    }
}

impl TakesLinks for Members<'_> {
    fn merged(&self) -> &Merged<'_> {
        &self.merged
    }

    fn keep(&mut self, bytes: usize) -> Result<(), EntryError> {
        self.merged.keep(bytes)
    }

    fn make_link(&mut self, link: TreeEntry, found: TreeEntry, _: bool) -> Result<(), EntryError> {
        if found.path.below(&link.path).is_some() {
            // To make room for the link would remove its target.
            return Err(Refusal::HardLink.into());
        }
        let kind = match found.kind {
            EntryKind::File { .. } => EntryKind::Hardlink {
                target: found.path.clone(),
            },
            ref other => other.clone(),
        };
        let entry = TreeEntry {
            path: link.path,
            kind,
            ..found
        };
        self.merged.add(entry)
    }
}

fn kind(member: &Member) -> Result<EntryKind, Refusal> {
    let (major, minor) = member.device;
    Ok(match member.typeflag {
        0 | b'0' if member.name.ends_with(b"/") && member.size == 0 => EntryKind::Directory { opaque: false },
        0 | b'0' | b'7' => EntryKind::File {
            size: member.size,
            content: ContentDigest::from_bytes([0; 32]),
        },
        b'2' => EntryKind::Symlink {
            target: member.link.clone(),
        },
        b'3' if (major, minor) == (0, 0) => return Err(Refusal::Device),
        b'3' => EntryKind::CharDevice { major, minor },
        b'4' => EntryKind::BlockDevice { major, minor },
        b'5' => EntryKind::Directory { opaque: false },
        b'6' => EntryKind::Fifo,
        _ => return Err(Refusal::Type),
    })
}

fn entry(member: &Member, path: RelPath, kind: EntryKind) -> TreeEntry {
    let file = matches!(kind, EntryKind::File { .. });
    let capability = member
        .xattrs
        .iter()
        .filter(|(name, _)| file && name == b"security.capability");
    let xattrs = capability.filter_map(|(name, value)| Some((name.clone(), allowed_xattr(name, value)?)));
    TreeEntry {
        path,
        mode: match kind {
            EntryKind::Symlink { .. } => 0o777,
            _ => member.mode,
        },
        kind,
        uid: member.uid,
        gid: member.gid,
        mtime: Timestamp {
            seconds: member.mtime,
            nanoseconds: 0,
        },
        xattrs: xattrs.collect(),
    }
}

/// Writes what is read to the spool and knows how much it was.
struct Tee<'a> {
    inner: Box<dyn Read + Send>,
    spool: Option<&'a File>,
    position: &'a Cell<u64>,
    error: &'a Cell<Option<io::Error>>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(mut spool) = self.spool
            && let Err(error) = spool.write_all(&buffer[..length])
        {
            let kind = error.kind();
            self.error.set(Some(error));
            return Err(kind.into());
        }
        self.position.set(self.position.get() + length as u64);
        Ok(length)
    }
}
