//! Small files with a checksum: payload, then 32 bytes of BLAKE3 over the file's name and the payload.
//!
//! The name is part of the checksum, so a file that was moved to another's place is as bad as one with a flipped bit. A bad
//! file is never an error of a build: it is set aside and counts as absent.

use std::fs::{File, Metadata};
use std::io::{self, Read};

use prost::Message;

use crate::durable::{Disk, Sync, WriteError};

/// Most bytes of a small file. Trees have their own limit.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
const TRAILER: usize = 32;

/// `payload` with its checksum as the file `name`.
pub(crate) fn seal(name: &str, mut payload: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(name, &payload);
    payload.extend_from_slice(checksum.as_bytes());
    payload
}

/// The payload of a sealed file, or nothing if it is not what was written as `name`.
pub(crate) fn unseal(name: &str, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let end = bytes.len().checked_sub(TRAILER)?;
    let trailer: [u8; TRAILER] = bytes[end..].try_into().ok()?;
    let good = checksum(name, &bytes[..end]) == trailer;
    bytes.truncate(end);
    good.then_some(bytes)
}

fn checksum(name: &str, payload: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rbuild store 1\0");
    hasher.update(name.as_bytes());
    hasher.update(b"\0");
    hasher.update(payload);
    hasher.finalize()
}

/// Writes `payload`, sealed, as the file `name`.
pub(crate) fn write(disk: &Disk, name: &str, payload: Vec<u8>, sync: Sync) -> Result<(), WriteError> {
    disk.write(name, &seal(name, payload), sync)
}

/// Reads the file `name` and makes a value of its payload. Whatever is wrong with it ends as "not there": a file with bad
/// bytes is set aside, one that cannot be read is named in a warning.
pub(crate) fn read<T>(disk: &Disk, name: &str, limit: u64, parse: impl FnOnce(Vec<u8>) -> Option<T>) -> Option<T> {
    let bytes = match disk.read(name, limit) {
        Ok(bytes) => bytes?,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
        Err(error) => {
            tracing::warn!(file = name, %error, "a file of the store cannot be read and counts as absent");
            return None;
        }
    };
    let value = unseal(name, bytes).and_then(parse);
    if value.is_none()
        && let Err(error) = disk.set_aside(name)
    {
        tracing::warn!(file = name, %error, "a damaged file of the store cannot be set aside");
    }
    value
}

/// What a look at a sealed file found.
pub(crate) enum Inspected<T> {
    /// It is whole.
    Good(T),
    /// It is not there.
    Absent,
    /// It is not what was written; this is the file that was read.
    Damaged(Metadata),
    /// It is there and cannot be read.
    Unreadable(io::Error),
}

/// As [`read`], but changes nothing.
pub(crate) fn inspect<T>(
    disk: &Disk,
    name: &str,
    limit: u64,
    parse: impl FnOnce(Vec<u8>) -> Option<T>,
) -> Inspected<T> {
    let read = |file: File| {
        let (facts, mut bytes) = (file.metadata()?, Vec::new());
        file.take(limit + 1).read_to_end(&mut bytes)?;
        Ok((facts, bytes))
    };
    let (facts, bytes) = match disk.open_file(name).and_then(|file| file.map(read).transpose()) {
        Ok(Some(found)) => found,
        Ok(None) => return Inspected::Absent,
        Err(error) => return Inspected::Unreadable(error),
    };
    let whole = Some(bytes).filter(|bytes| bytes.len() as u64 <= limit);
    match whole.and_then(|bytes| unseal(name, bytes)).and_then(parse) {
        Some(value) => Inspected::Good(value),
        None => Inspected::Damaged(facts),
    }
}

/// A message that is a `T`: both the encoding and what it says are checked.
pub(crate) fn decode<M: Message + Default, T: TryFrom<M>>(payload: &[u8]) -> Option<T> {
    // Why it is none of ours does not matter: its checksum is right, so another version wrote it, and it counts as absent.
    M::decode(payload).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_sealed_file() {
        let sealed = seal("steps/00/0", b"abc".to_vec());
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "616263923cf18e7bbf043feb943f7ad13a2faf881e4e8687e48481cabc186f244f2bbf"
        );
    }

    #[test]
    fn a_flipped_bit_a_cut_or_another_name_is_noticed() {
        let sealed = seal("a", b"payload".to_vec());
        assert_eq!(unseal("a", sealed.clone()), Some(b"payload".to_vec()));
        assert_eq!(unseal("b", sealed.clone()), None);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(unseal("a", bad), None, "byte {at}");
            assert_eq!(unseal("a", sealed[..at].to_vec()), None, "cut at {at}");
        }
    }
}
