//! Reading a blob, and knowing at its end that it was the blob.
//!
//! A blob has its SHA-256 for a name and, beside its bytes, BLAKE3 of the same bytes: the *check digest*, computed in the pass in
//! which they came and were named. Reading compares the check digest alone. If that is missing, SHA-256 is compared as well, and
//! the check digest kept for the next reader. If it does not match, SHA-256 decides on a second look at the bytes, since it may be
//! the check digest that went bad. Why this finds what SHA-256 would find is said in [`crate::store_format`].

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;

use proto::digest::{ContentDigest, Digest, Hasher};

use super::Damaged;

/// Bytes of a second look that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// The bytes of a blob in their place.
pub trait Stored: Read + Seek + Send {
    /// The check digest that is kept beside the bytes.
    fn check(&self) -> Option<ContentDigest>;

    /// The file that holds the bytes, if one does.
    fn file(&self) -> Option<BorrowedFd<'_>>;

    /// Keeps another one. A place that cannot may lose it.
    fn set_check(&mut self, check: ContentDigest);
}

/// Reads a blob and compares its digest: the read that would hand out its last bytes fails instead if they are not those of
/// the digest ([`super::damaged`] tells), and the blob is set aside. Whoever does not read to the end has nothing verified.
pub struct VerifiedReader {
    source: Box<dyn Stored>,
    state: State,
    digest: Digest,
    size_bytes: u64,
    set_aside: Box<dyn Fn() + Send>,
}

enum State {
    Reading { pass: Box<Pass>, left: u64 },
    Good,
    Bad,
}

/// What is computed of the bytes while they are read.
struct Pass {
    check: blake3::Hasher,
    /// Nothing: there is a check digest to compare with.
    name: Option<Hasher>,
}

impl Pass {
    fn update(&mut self, bytes: &[u8]) {
        self.check.update(bytes);
        if let Some(name) = &mut self.name {
            name.update(bytes);
        }
    }
}

impl fmt::Debug for VerifiedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedReader")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl VerifiedReader {
    /// Reads `size_bytes` bytes from `source`; calls `set_aside` when they are not those of `digest`.
    #[must_use]
    pub fn new(digest: Digest, size_bytes: u64, source: Box<dyn Stored>, set_aside: Box<dyn Fn() + Send>) -> Self {
        let pass = Box::new(Pass {
            check: blake3::Hasher::new(),
            name: source.check().is_none().then(Hasher::new),
        });
        Self {
            source,
            state: State::Reading { pass, left: size_bytes },
            digest,
            size_bytes,
            set_aside,
        }
    }

    /// Size of the whole blob.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The file that holds the bytes, if one does. Its position is the reader's.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.source.file()
    }

    fn bad(&mut self) -> io::Error {
        if !matches!(self.state, State::Bad) {
            self.state = State::Bad;
            (self.set_aside)();
        }
        io::Error::new(io::ErrorKind::InvalidData, Damaged(self.digest))
    }

    /// Whether the bytes of a whole `pass` were those of the digest.
    fn is_good(&mut self, pass: Pass) -> io::Result<bool> {
        let check = ContentDigest::from(pass.check.finalize());
        if let Some(name) = pass.name {
            let good = name.finish() == self.digest;
            if good {
                self.source.set_check(check);
            }
            return Ok(good);
        }
        if self.source.check() == Some(check) {
            return Ok(true);
        }
        let good = self.second_look()? == (self.digest, check);
        if good {
            tracing::warn!(digest = %self.digest, "a blob was whole and its check digest was not: it has a new one");
            self.source.set_check(check);
        }
        Ok(good)
    }

    /// Both digests of the bytes as they are now. The caller compares both: what was handed out must be what is looked at here.
    fn second_look(&mut self) -> io::Result<(Digest, ContentDigest)> {
        self.source.seek(SeekFrom::Start(0))?;
        let (mut name, mut check) = (Hasher::new(), blake3::Hasher::new());
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.source.read(&mut piece)? {
                0 => return Ok((name.finish(), check.finalize().into())),
                count => {
                    name.update(&piece[..count]);
                    check.update(&piece[..count]);
                }
            }
        }
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let State::Reading { pass, left } = &mut self.state else {
            return if matches!(self.state, State::Good) {
                Ok(0)
            } else {
                Err(self.bad())
            };
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 && *left > 0 {
            return Err(self.bad());
        }
        pass.update(&buffer[..count]);
        *left -= count as u64;
        if *left > 0 {
            return Ok(count);
        }
        // Whoever asks again after an error in here gets the blob's error: it was not verified.
        let State::Reading { pass, .. } = std::mem::replace(&mut self.state, State::Good) else {
            return Ok(count);
        };
        match self.is_good(*pass) {
            Ok(true) => Ok(count),
            Ok(false) => {
                buffer[..count].fill(0);
                Err(self.bad())
            }
            Err(error) => {
                buffer[..count].fill(0);
                self.state = State::Bad;
                Err(error)
            }
        }
    }
}
