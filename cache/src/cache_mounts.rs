//! Directories that steps keep from build to build. What is in them is the steps' business; here is where they are, what they
//! are for, and how they go.
//!
//! A directory appears whole, by a rename, and disappears whole, by another one. Beside it lies a sealed file that says what it
//! is; a directory without one was made by an older version and is as good as any other. What steps write to it is not durable.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prost::Message;
use proto::digest::ContentDigest;
use proto::v1;

use crate::durable::{Disk, Sync, TMP, WriteError};
use crate::index::{Index, Used};
use crate::lease::{Held, Leases};
use crate::remove::remove_tree;
use crate::sealed;
use crate::usage::{self, there};

const DIR: &str = "cachemounts";
const ABOUT: &str = ".about";
const MAX_ABOUT: u64 = 64 << 10;

/// Names a directory: what it is for, and which one of several for the same purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountName {
    identity: ContentDigest,
    copy: u32,
}

impl MountName {
    /// The first directory for `identity`.
    #[must_use]
    pub fn new(identity: ContentDigest) -> Self {
        Self { identity, copy: 0 }
    }

    /// A further directory for the same purpose.
    #[must_use]
    pub fn copy(self, copy: u32) -> Self {
        Self { copy, ..self }
    }

    fn parse(text: &str) -> Option<Self> {
        let (hex, copy) = match text.split_once('-') {
            Some((hex, copy)) => (hex, copy.parse().ok()?),
            None => (text, 0),
        };
        let identity = hex.parse().ok()?;
        Some(Self { identity, copy })
    }

    /// The name as 32 bytes.
    pub(crate) fn digest(self) -> ContentDigest {
        match self.copy {
            0 => self.identity,
            _ => ContentDigest::of(self.to_string().as_bytes()),
        }
    }
}

impl fmt::Display for MountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copy {
            0 => f.write_str(&self.identity.hex()),
            copy => write!(f, "{}-{copy}", self.identity.hex()),
        }
    }
}

/// What a directory is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// As its users call it.
    pub id: String,
    /// What it is for: `os/arch[/variant]`.
    pub platform: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The step that it was made for.
    pub step: String,
}

/// The directories of a store.
#[derive(Debug)]
pub struct CacheMounts {
    disk: Arc<Disk>,
    index: Arc<Index>,
}

/// A directory, as collection sees it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: MountName,
    pub(crate) bytes: u64,
    pub(crate) last_use_ms: u64,
    pub(crate) about: About,
}

impl CacheMounts {
    pub(crate) fn new(disk: Arc<Disk>, index: Arc<Index>) -> Self {
        Self { disk, index }
    }

    /// Where the directory is, whether it exists or not.
    #[must_use]
    pub fn path(&self, name: MountName) -> PathBuf {
        self.disk.root().join(DIR).join(name.to_string())
    }

    /// Notes that it is used now.
    pub fn touch(&self, name: MountName) {
        self.index.touch(Used::CacheMount(name));
    }

    /// Makes `filled`, a directory of the store's `tmp`, the directory `name`, which must not exist. Whoever calls this holds a
    /// lease on it.
    ///
    /// # Errors
    /// When it cannot be moved or described; then it is where it was.
    pub fn publish(&self, name: MountName, filled: &Path, about: &About) -> Result<(), WriteError> {
        let message = v1::StoredCacheMount {
            id: about.id.clone(),
            platform: about.platform.clone(),
            created_ms: about.created_ms,
            step: about.step.clone(),
        };
        sealed::write(&self.disk, &about_name(name), message.encode_to_vec(), Sync::Group)?;
        let path = self.path(name);
        let moved = self.disk.rename(filled, &path);
        moved.map_err(|source| WriteError::new(&path, 0, source))
    }

    /// What the directory is, as far as it is known.
    #[must_use]
    pub fn about(&self, name: MountName) -> Option<About> {
        sealed::read(&self.disk, &about_name(name), MAX_ABOUT, |payload| parse(&payload))
    }

    /// The files that describe directories, with their sizes in bytes.
    pub(crate) fn about_files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in there(fs::read_dir(self.disk.root().join(DIR)))?.into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if mount_of(&name).is_none() {
                continue;
            }
            if let Some(facts) = there(entry.metadata())? {
                files.push((format!("{DIR}/{name}"), facts.len()));
            }
        }
        Ok(files)
    }

    /// Whether the directory that the file `about` describes is there, or somebody is about to put it there.
    pub(crate) fn has_mount_of(&self, about: &str, leases: &Leases) -> bool {
        let name = about.rsplit('/').next().and_then(mount_of);
        name.is_some_and(|name| {
            let free = leases.unless_held(&[Held::CacheMount(name)], || self.path(name).is_dir());
            free.unwrap_or(true)
        })
    }

    pub(crate) fn list(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in there(fs::read_dir(self.disk.root().join(DIR)))?.into_iter().flatten() {
            let entry = entry?;
            let (text, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type()?);
            let Some(name) = MountName::parse(&text).filter(|_| kind.is_dir()) else {
                continue;
            };
            let Some(facts) = there(entry.metadata())? else {
                continue;
            };
            let modified = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let modified_ms = u64::try_from(modified.as_millis()).unwrap_or(u64::MAX);
            let about = self.about(name).unwrap_or_default();
            let last_use_ms = self.index.last_use_ms(Used::CacheMount(name));
            found.push(Found {
                name,
                bytes: usage::walk(&entry.path(), &mut HashSet::new())?.1,
                last_use_ms: last_use_ms.unwrap_or(modified_ms.max(about.created_ms)),
                about,
            });
        }
        Ok(found)
    }

    /// Takes a directory out of sight, which is quick. What is returned is to be removed, which is not.
    pub(crate) fn take_away(&self, name: MountName) -> io::Result<Taken> {
        let taken = self.disk.unused(&format!("removed-{name}"));
        self.disk
            .rename(&self.path(name), &self.disk.root().join(TMP).join(&taken))?;
        self.disk.remove(&about_name(name))?;
        self.index.forget(Used::CacheMount(name));
        Ok(Taken(taken))
    }

    pub(crate) fn remove(&self, Taken(name): &Taken) -> io::Result<()> {
        let tmp: OwnedFd = File::open(self.disk.root().join(TMP))?.into();
        remove_tree(&tmp, name.as_ref())
    }
}

/// A directory that nobody finds any more, by its name in `tmp`.
#[must_use]
pub(crate) struct Taken(String);

/// What a file that describes a directory says of it; one that says something else is none.
pub(crate) fn parse(payload: &[u8]) -> Option<About> {
    let message = v1::StoredCacheMount::decode(payload).ok()?;
    Some(About {
        id: message.id,
        platform: message.platform,
        created_ms: message.created_ms,
        step: message.step,
    })
}

/// The mount that a file of that name describes.
fn mount_of(file: &str) -> Option<MountName> {
    MountName::parse(file.strip_suffix(ABOUT)?)
}

fn about_name(name: MountName) -> String {
    format!("{DIR}/{name}{ABOUT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        let name = MountName::new(ContentDigest::of(b"a"));
        for name in [name, name.copy(1), name.copy(12)] {
            assert_eq!(MountName::parse(&name.to_string()), Some(name));
        }
        let about = format!("{name}.about");
        for text in ["", "lost+found", "a-1", about.as_str()] {
            assert_eq!(MountName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn copies_are_used_apart() {
        let name = MountName::new(ContentDigest::of(b"a"));
        assert_ne!(name.copy(1).digest(), name.digest());
        assert_ne!(name.copy(1).digest(), name.copy(2).digest());
    }
}
