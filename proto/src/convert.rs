//! The way between our types and their `rbuild.v1` messages.
//!
//! Towards a message nothing can fail. From a message everything is foreign: it came from a disk or from a client, so each
//! length, order and range is checked here, once, and what comes out is as good as a value we made ourselves.

use crate::digest::{ChainId, ContentDigest, DiffId, Digest};
use crate::oci::Descriptor;
use crate::record::{Alias, CacheKey, CacheRecord, Field, LayerInfo, Preimage};
use crate::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};
use crate::v1;

/// Why a message stands for no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that has to be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A digest or key is not 32 bytes long.
    #[error("`{field}` has {length} bytes instead of 32")]
    Length {
        /// The field.
        field: &'static str,
        /// What it has.
        length: usize,
    },
    /// A path has `..`, a NUL byte, or is not spelled in the one allowed way.
    #[error("`{0}` is not a clean relative path")]
    Path(String),
    /// An entry is not after the one before it, or is there twice.
    #[error("`{0}` is out of order")]
    Order(String),
    /// An entry lies below something that is not a directory.
    #[error("`{path}` is below `{parent}`, which is not a directory")]
    BelowFile {
        /// The entry.
        path: String,
        /// What it claims to be in.
        parent: String,
    },
    /// A number, name or target is outside its range.
    #[error("`{field}` of `{path}` is out of range")]
    Range {
        /// The field.
        field: &'static str,
        /// The entry.
        path: String,
    },
}

/// Exactly 32 bytes, or an error that names `field`.
///
/// # Errors
/// [`ConvertError::Length`].
pub fn array(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::Length {
        field,
        length: bytes.len(),
    })
}

fn clean_path(bytes: Vec<u8>) -> Result<RelPath, ConvertError> {
    let shown = |bytes: Vec<u8>| ConvertError::Path(String::from_utf8_lossy(&bytes).escape_debug().to_string());
    RelPath::exactly(bytes).map_err(shown)
}

impl From<&Tree> for v1::Tree {
    fn from(tree: &Tree) -> Self {
        Self {
            entries: tree.entries().iter().map(v1::TreeEntry::from).collect(),
        }
    }
}

impl From<&TreeEntry> for v1::TreeEntry {
    fn from(entry: &TreeEntry) -> Self {
        let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| v1::Xattr {
            name: name.clone(),
            value: value.clone(),
        };
        Self {
            path: entry.path.as_bytes().to_vec(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime_seconds: entry.mtime.seconds,
            mtime_nanoseconds: entry.mtime.nanoseconds,
            xattrs: entry.xattrs.iter().map(xattr).collect(),
            kind: Some(kind_message(&entry.kind)),
        }
    }
}

fn kind_message(kind: &EntryKind) -> v1::tree_entry::Kind {
    use v1::tree_entry::{Device, Directory, Fifo, File, Kind, Whiteout};
    match kind {
        EntryKind::File { size, content } => Kind::File(File {
            size: *size,
            content: content.as_bytes().to_vec(),
        }),
        EntryKind::Directory { opaque } => Kind::Directory(Directory { opaque: *opaque }),
        EntryKind::Symlink { target } => Kind::SymlinkTarget(target.clone()),
        EntryKind::Hardlink { target } => Kind::HardlinkTarget(target.as_bytes().to_vec()),
        EntryKind::CharDevice { major, minor } => Kind::CharDevice(Device {
            major: *major,
            minor: *minor,
        }),
        EntryKind::BlockDevice { major, minor } => Kind::BlockDevice(Device {
            major: *major,
            minor: *minor,
        }),
        EntryKind::Fifo => Kind::Fifo(Fifo {}),
        EntryKind::Whiteout => Kind::Whiteout(Whiteout {}),
    }
}

impl TryFrom<v1::Tree> for Tree {
    type Error = ConvertError;

    /// Refuses what [`Tree`] promises not to be: unsorted, with a path twice, or with entries below a file or a link.
    fn try_from(message: v1::Tree) -> Result<Self, ConvertError> {
        let mut entries: Vec<TreeEntry> = Vec::with_capacity(message.entries.len());
        let mut leaf: Option<usize> = None;
        for entry in message.entries {
            let entry = TreeEntry::try_from(entry)?;
            if entries.last().is_some_and(|before| before.path >= entry.path) {
                return Err(ConvertError::Order(entry.path.to_string()));
            }
            // Whatever is below a leaf comes directly after it, so remembering the last one is enough.
            let above = leaf.map(|index| &entries[index].path);
            if let Some(parent) = above.filter(|leaf| entry.path.is_inside(leaf)) {
                return Err(ConvertError::BelowFile {
                    path: entry.path.to_string(),
                    parent: parent.to_string(),
                });
            }
            // A layer may remove a path and put a directory in its place without an entry for it.
            if !matches!(entry.kind, EntryKind::Directory { .. } | EntryKind::Whiteout) {
                leaf = Some(entries.len());
            }
            entries.push(entry);
        }
        Ok(Self::new(entries))
    }
}

impl TryFrom<v1::TreeEntry> for TreeEntry {
    type Error = ConvertError;

    fn try_from(message: v1::TreeEntry) -> Result<Self, ConvertError> {
        let path = clean_path(message.path)?;
        let range = |field, good| {
            if good {
                Ok(())
            } else {
                Err(ConvertError::Range {
                    field,
                    path: path.to_string(),
                })
            }
        };
        range("mode", message.mode <= 0o7777)?;
        range("mtime_nanoseconds", message.mtime_nanoseconds < 1_000_000_000)?;
        let xattrs: Vec<(Vec<u8>, Vec<u8>)> = message.xattrs.into_iter().map(|x| (x.name, x.value)).collect();
        let named = xattrs.iter().all(|(name, _)| !name.is_empty() && !name.contains(&0));
        range("xattrs", named && xattrs.is_sorted_by(|a, b| a.0 < b.0))?;
        let kind = kind_value(message.kind.ok_or(ConvertError::Missing("kind"))?, &path)?;
        range("kind", !path.is_root() || matches!(kind, EntryKind::Directory { .. }))?;
        Ok(Self {
            kind,
            mode: message.mode,
            uid: message.uid,
            gid: message.gid,
            mtime: Timestamp {
                seconds: message.mtime_seconds,
                nanoseconds: message.mtime_nanoseconds,
            },
            xattrs,
            path,
        })
    }
}

fn kind_value(kind: v1::tree_entry::Kind, path: &RelPath) -> Result<EntryKind, ConvertError> {
    use v1::tree_entry::Kind;
    let out_of_range = |field| ConvertError::Range {
        field,
        path: path.to_string(),
    };
    Ok(match kind {
        Kind::File(file) => EntryKind::File {
            size: file.size,
            content: ContentDigest::from_bytes(array("content", &file.content)?),
        },
        Kind::Directory(directory) => EntryKind::Directory {
            opaque: directory.opaque,
        },
        Kind::SymlinkTarget(target) if target.contains(&0) => return Err(out_of_range("symlink_target")),
        Kind::SymlinkTarget(target) => EntryKind::Symlink { target },
        Kind::HardlinkTarget(target) => {
            let target = clean_path(target)?;
            if target.is_root() || target == *path {
                return Err(out_of_range("hardlink_target"));
            }
            EntryKind::Hardlink { target }
        }
        Kind::CharDevice(device) => EntryKind::CharDevice {
            major: device.major,
            minor: device.minor,
        },
        Kind::BlockDevice(device) => EntryKind::BlockDevice {
            major: device.major,
            minor: device.minor,
        },
        Kind::Fifo(_) => EntryKind::Fifo,
        Kind::Whiteout(_) => EntryKind::Whiteout,
    })
}

impl From<&Descriptor> for v1::StoredForm {
    /// The platform is left out: layers have none.
    fn from(form: &Descriptor) -> Self {
        let annotation = |(key, value): (&String, &String)| v1::stored_form::Annotation {
            key: key.clone(),
            value: value.clone(),
        };
        Self {
            media_type: form.media_type.clone(),
            digest: form.digest.as_bytes().to_vec(),
            size: form.size,
            annotations: form.annotations.iter().map(annotation).collect(),
        }
    }
}

impl TryFrom<v1::StoredForm> for Descriptor {
    type Error = ConvertError;

    fn try_from(message: v1::StoredForm) -> Result<Self, ConvertError> {
        let digest = Digest::from_bytes(array("digest", &message.digest)?);
        let mut form = Self::new(&message.media_type, digest, message.size);
        form.annotations = message.annotations.into_iter().map(|a| (a.key, a.value)).collect();
        Ok(form)
    }
}

impl From<&LayerInfo> for v1::StoredLayer {
    fn from(layer: &LayerInfo) -> Self {
        Self {
            diff_id: layer.diff_id.0.as_bytes().to_vec(),
            size_bytes: layer.size_bytes,
            forms: layer.forms.iter().map(v1::StoredForm::from).collect(),
        }
    }
}

impl TryFrom<v1::StoredLayer> for LayerInfo {
    type Error = ConvertError;

    fn try_from(message: v1::StoredLayer) -> Result<Self, ConvertError> {
        Ok(Self {
            diff_id: DiffId(Digest::from_bytes(array("diff_id", &message.diff_id)?)),
            size_bytes: message.size_bytes,
            forms: message
                .forms
                .into_iter()
                .map(Descriptor::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&CacheRecord> for v1::StoredRecord {
    fn from(record: &CacheRecord) -> Self {
        Self {
            key: record.key.0.as_bytes().to_vec(),
            layer: Some((&record.layer).into()),
            chain: record.chain.0.as_bytes().to_vec(),
            created_ms: record.created_ms,
            duration_ms: record.duration_ms,
            step: record.step.clone(),
        }
    }
}

impl TryFrom<v1::StoredRecord> for CacheRecord {
    type Error = ConvertError;

    fn try_from(message: v1::StoredRecord) -> Result<Self, ConvertError> {
        Ok(Self {
            key: CacheKey(ContentDigest::from_bytes(array("key", &message.key)?)),
            layer: message.layer.ok_or(ConvertError::Missing("layer"))?.try_into()?,
            chain: ChainId(Digest::from_bytes(array("chain", &message.chain)?)),
            created_ms: message.created_ms,
            duration_ms: message.duration_ms,
            step: message.step,
        })
    }
}

impl From<&Alias> for v1::StoredAlias {
    fn from(alias: &Alias) -> Self {
        let input = |chains: &Vec<ChainId>| v1::stored_alias::Input {
            chains: chains.iter().map(|chain| chain.0.as_bytes().to_vec()).collect(),
        };
        Self {
            key: alias.key.0.as_bytes().to_vec(),
            inputs: alias.inputs.iter().map(input).collect(),
        }
    }
}

impl TryFrom<v1::StoredAlias> for Alias {
    type Error = ConvertError;

    fn try_from(message: v1::StoredAlias) -> Result<Self, ConvertError> {
        let chain = |bytes: &Vec<u8>| Ok(ChainId(Digest::from_bytes(array("chains", bytes)?)));
        let input = |input: &v1::stored_alias::Input| input.chains.iter().map(chain).collect();
        Ok(Self {
            key: CacheKey(ContentDigest::from_bytes(array("key", &message.key)?)),
            inputs: message.inputs.iter().map(input).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Preimage> for v1::StoredPreimage {
    fn from(preimage: &Preimage) -> Self {
        let field = |field: &Field| v1::stored_preimage::Field {
            name: field.name.clone(),
            value: field.value.clone(),
        };
        Self {
            fields: preimage.fields.iter().map(field).collect(),
            listing: preimage.listing.iter().map(field).collect(),
        }
    }
}

impl From<v1::StoredPreimage> for Preimage {
    fn from(message: v1::StoredPreimage) -> Self {
        let field = |field: v1::stored_preimage::Field| Field {
            name: field.name,
            value: field.value,
        };
        Self {
            fields: message.fields.into_iter().map(field).collect(),
            listing: message.listing.into_iter().map(field).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::tree_entry::Kind;

    fn file(path: &str) -> v1::TreeEntry {
        v1::TreeEntry {
            path: path.into(),
            mode: 0o644,
            kind: Some(Kind::File(v1::tree_entry::File {
                size: 1,
                content: vec![7; 32],
            })),
            ..v1::TreeEntry::default()
        }
    }

    fn check(entries: Vec<v1::TreeEntry>, expected: Result<usize, &str>) {
        let found = Tree::try_from(v1::Tree { entries });
        let found = found
            .map(|tree| tree.entries().len())
            .map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn every_kind_of_entry_survives_the_way_there_and_back() {
        let kinds = [
            EntryKind::File {
                size: u64::MAX,
                content: ContentDigest::of(b"x"),
            },
            EntryKind::Directory { opaque: true },
            EntryKind::Symlink {
                target: b"../../\xff".to_vec(),
            },
            EntryKind::Hardlink {
                target: RelPath::clean(b"a/0"),
            },
            EntryKind::CharDevice { major: 5, minor: 1 },
            EntryKind::BlockDevice {
                major: 8,
                minor: u32::MAX,
            },
            EntryKind::Fifo,
            EntryKind::Whiteout,
        ];
        let entry = |(index, kind)| TreeEntry {
            path: RelPath::clean(format!("a/{index}").as_bytes()),
            kind,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 1,
            mtime: Timestamp {
                seconds: -1,
                nanoseconds: 999_999_999,
            },
            xattrs: vec![
                (b"security.capability".to_vec(), vec![0, 1]),
                (b"user.a".to_vec(), vec![]),
            ],
        };
        let tree = Tree::new(kinds.into_iter().enumerate().map(entry).collect());
        assert_eq!(Tree::try_from(v1::Tree::from(&tree)), Ok(tree));
    }

    #[test]
    fn paths_that_leave_the_root_or_are_spelled_twice_are_refused() {
        for path in ["../x", "a/../b", "/a", "a/", "a//b", "./a", "a\0"] {
            assert!(
                matches!(TreeEntry::try_from(file(path)), Err(ConvertError::Path(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn entries_out_of_order_or_twice_are_refused() {
        check(vec![file("a"), file("b")], Ok(2));
        check(vec![file("b"), file("a")], Err("`a` is out of order"));
        check(vec![file("a"), file("a")], Err("`a` is out of order"));
    }

    #[test]
    fn nothing_lies_below_a_file_or_a_link() {
        check(
            vec![file("a"), file("a/b")],
            Err("`a/b` is below `a`, which is not a directory"),
        );
        let mut link = file("a");
        link.kind = Some(Kind::SymlinkTarget(b"/etc".to_vec()));
        check(
            vec![link, file("a/b/c")],
            Err("`a/b/c` is below `a`, which is not a directory"),
        );
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let changes: [fn(&mut v1::TreeEntry); 8] = [
            |e| e.mode = 0o10000,
            |e| e.mtime_nanoseconds = 1_000_000_000,
            |e| e.kind = None,
            |e| e.kind = Some(Kind::SymlinkTarget(b"a\0".to_vec())),
            |e| e.kind = Some(Kind::HardlinkTarget(b"../a".to_vec())),
            |e| e.kind = Some(Kind::HardlinkTarget(b"f".to_vec())),
            |e| {
                e.kind = Some(Kind::File(v1::tree_entry::File {
                    size: 1,
                    content: vec![0; 31],
                }))
            },
            |e| e.xattrs = vec![v1::Xattr::default()],
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut entry = file("f");
            change(&mut entry);
            assert!(TreeEntry::try_from(entry).is_err(), "change {index}");
        }
        let mut root = file("");
        assert!(TreeEntry::try_from(root.clone()).is_err());
        root.kind = Some(Kind::Directory(v1::tree_entry::Directory { opaque: false }));
        assert!(TreeEntry::try_from(root).is_ok());
    }
}
