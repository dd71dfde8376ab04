//! How much of a stranger's layer we are willing to take. Every limit has a name and is named in the error.

use std::io;

/// Limits on one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed size.
    pub unpacked_bytes: u64,
    /// Uncompressed bytes per compressed byte, once [`Limits::ratio_from_bytes`] came out.
    pub ratio: u64,
    /// Where the ratio begins to count: small files of zeros compress well and harm nobody.
    pub ratio_from_bytes: u64,
    /// Members of the archive.
    pub entries: u64,
    /// One extended header (PAX or GNU long name).
    pub extended_header_bytes: u64,
    /// Names, link targets and extended attributes of all entries: they are held in memory.
    pub metadata_bytes: u64,
    /// Extended attributes of one entry.
    pub xattrs: usize,
    /// Components of the targets of all links that are followed on the way to entries.
    pub link_steps: u64,
    /// A path.
    pub path_bytes: usize,
    /// One component of a path.
    pub component_bytes: usize,
    /// Components of a path.
    pub depth: usize,
    /// Binary logarithm of zstd's window.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 64 << 30,
            ratio: 1000,
            ratio_from_bytes: 1 << 30,
            entries: 10_000_000,
            extended_header_bytes: 1 << 20,
            metadata_bytes: 512 << 20,
            xattrs: 256,
            link_steps: 50_000_000,
            path_bytes: 4096 - 1,
            component_bytes: 255,
            depth: 512,
            zstd_window_log: 27,
        }
    }
}

/// Which limit a layer ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// [`Limits::unpacked_bytes`].
    #[error("the layer is larger than the limit of {0} bytes unpacked")]
    UnpackedBytes(u64),
    /// [`Limits::ratio`].
    #[error("the layer grows more than {0} times when decompressed, which is the limit")]
    Ratio(u64),
    /// [`Limits::entries`].
    #[error("the layer has more than {0} entries, which is the limit")]
    Entries(u64),
    /// [`Limits::extended_header_bytes`].
    #[error("an extended header is larger than the limit of {0} bytes")]
    ExtendedHeader(u64),
    /// [`Limits::metadata_bytes`].
    #[error("names, links and attributes of the layer's entries are larger than the limit of {0} bytes")]
    MetadataBytes(u64),
    /// [`Limits::xattrs`].
    #[error("an entry has more than {0} extended attributes, which is the limit")]
    Xattrs(usize),
    /// [`Limits::link_steps`].
    #[error("the links on the way to the layer's entries have more than {0} components, which is the limit")]
    LinkSteps(u64),
    /// [`Limits::path_bytes`].
    #[error("a path is longer than the limit of {0} bytes")]
    PathBytes(usize),
    /// [`Limits::component_bytes`].
    #[error("a file name is longer than the limit of {0} bytes")]
    ComponentBytes(usize),
    /// [`Limits::depth`].
    #[error("a path is deeper than the limit of {0} directories")]
    Depth(usize),
}

impl LimitExceeded {
    /// Wraps the limit, to pass it through interfaces of `std::io`.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::QuotaExceeded, self)
    }

    /// The limit in an error made by [`LimitExceeded::into_io`].
    pub(crate) fn from_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}
