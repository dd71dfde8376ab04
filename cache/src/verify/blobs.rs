//! Blobs: each is read whole, and its digest compared.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use proto::digest::{Digest, Hasher};

use super::finding::{Finding, Part, Remedy, Wrong};
use super::{Run, VerifyError};

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 18;

impl Run<'_> {
    pub(super) fn blobs(&mut self) -> Result<(), VerifyError> {
        let blobs: Vec<(String, Digest)> = self
            .store
            .disk()
            .files("blobs/sha256")?
            .into_iter()
            .filter_map(|(name, _)| Some((digest_of(&name)?, name)))
            .map(|(digest, name)| (name, digest))
            .collect();
        let total = blobs.len();
        let mut buffer = vec![0; CHUNK_BYTES];
        for (done, (name, digest)) in blobs.into_iter().enumerate() {
            self.progress(Part::Blob, done, total)?;
            let file = match self.store.disk().open_file(&name) {
                Ok(Some(file)) => file,
                // Collected meanwhile.
                Ok(None) => continue,
                Err(error) => {
                    self.bad_blob(&name, digest, None, format!("it cannot be read: {error}"))?;
                    continue;
                }
            };
            self.summary.files += 1;
            self.blob((&name, digest), &file, (done, total), &mut buffer)?;
        }
        Ok(())
    }

    fn blob(
        &mut self,
        (name, digest): (&str, Digest),
        file: &File,
        (done, total): (usize, usize),
        buffer: &mut [u8],
    ) -> Result<(), VerifyError> {
        let mut hasher = Hasher::new();
        let mut reader = file;
        loop {
            match reader.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    self.summary.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.bad_blob(name, digest, Some(file), format!("it cannot be read: {error}")),
            }
            self.progress(Part::Blob, done, total)?;
        }
        let found = hasher.finish();
        if found == digest {
            return Ok(());
        }
        self.bad_blob(name, digest, Some(file), format!("its bytes are those of {found}"))
    }

    fn bad_blob(&mut self, name: &str, digest: Digest, file: Option<&File>, detail: String) -> Result<(), VerifyError> {
        let disk = self.store.disk();
        let facts = file.and_then(|file| match file.metadata() {
            Ok(facts) => Some(facts),
            Err(error) => {
                tracing::debug!(%digest, %error, "a damaged blob cannot be told from one that replaces it");
                None
            }
        });
        let remedy = self.mend(Remedy::SetAside, || match &facts {
            Some(facts) => disk.set_aside_this(name, facts),
            None => disk.set_aside(name).map(|()| true),
        });
        let inode = facts.map_or(0, |facts| facts.ino());
        self.known.bad_blobs.insert(digest, inode);
        let needed_by = self.known.users_of_blob(digest);
        self.found(Finding {
            detail,
            needed_by,
            remedy,
            ..Finding::new(Part::Blob, Wrong::Damaged, digest.to_string())
        })
    }
}

/// The digest of the blob in the file `name`; nothing for other files that lie there.
fn digest_of(name: &str) -> Option<Digest> {
    let mut parts = name.rsplit('/');
    let (rest, shard) = (parts.next()?, parts.next()?);
    let digest: Digest = format!("sha256:{shard}{rest}").parse().ok()?;
    (crate::blob::disk::file_name(digest) == name).then_some(digest)
}
