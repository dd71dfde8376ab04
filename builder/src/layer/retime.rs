//! Lowers times in a layer tar while it is read: the same entries, other `mtime` fields, everything else byte for byte.
//!
//! Works on tars as [`super::tar`] writes them: times stand in the header's octal field, never in PAX records.

use std::io::{self, Read};

/// Bytes of a tar block.
const BLOCK: usize = 512;
/// Where the header keeps the time, twelve bytes of octal digits.
const MTIME: std::ops::Range<usize> = 136..148;
/// Where the header keeps its checksum.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Where the header keeps the size of what follows.
const SIZE: std::ops::Range<usize> = 124..136;

/// A tar whose times are at most `epoch`.
#[derive(Debug)]
pub struct Retime<R> {
    inner: R,
    epoch: i64,
    /// The block that is being handed out, and how much of it was.
    block: Vec<u8>,
    given: usize,
    /// Bytes of content, padding counted in, before the next header.
    content: u64,
}

impl<R: Read> Retime<R> {
    /// Lowers times of `inner` to `epoch`, in seconds since 1970.
    #[must_use]
    pub const fn new(inner: R, epoch: i64) -> Self {
        Self {
            inner,
            epoch,
            block: Vec::new(),
            given: 0,
            content: 0,
        }
    }

    /// Reads the next header and changes it. False at the end of the tar.
    fn next_header(&mut self) -> io::Result<bool> {
        let mut block = vec![0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        if block.iter().any(|byte| *byte != 0) {
            let size = number(&block[SIZE]).ok_or_else(|| io::Error::other("a tar header states no size"))?;
            self.content = size.div_ceil(BLOCK as u64) * BLOCK as u64;
            self.lower(&mut block);
        }
        self.block = block;
        self.given = 0;
        Ok(true)
    }

    fn lower(&self, block: &mut [u8]) {
        let limit = u64::try_from(self.epoch).unwrap_or(0);
        let is_later = number(&block[MTIME]).is_some_and(|mtime| mtime > limit);
        if !is_later {
            return;
        }
        block[MTIME].copy_from_slice(format!("{limit:011o}\0").as_bytes());
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    }
}

impl<R: Read> Read for Retime<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.given == self.block.len() {
            if self.content > 0 {
                let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
                let count = self.inner.read(&mut buffer[..wanted])?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.content -= count as u64;
                return Ok(count);
            }
            if !self.next_header()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.given);
        buffer[..count].copy_from_slice(&self.block[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// An octal or, with the high bit set, a big-endian binary field.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let digits = field[1..].iter().skip_while(|byte| **byte == 0);
        return digits
            .clone()
            .count()
            .le(&8)
            .then(|| digits.fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(['\0', ' ']);
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, 8).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, mtime, bytes) in files {
            let mut header = ::tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mtime(*mtime);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn retimed(bytes: &[u8], epoch: i64) -> Vec<u8> {
        let mut out = Vec::new();
        Retime::new(bytes, epoch).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn later_times_are_lowered_and_earlier_ones_stay() {
        let content = vec![7; 1000];
        let out = retimed(
            &archive(&[("late", 500, &content), ("early", 5, b"x"), ("empty", 501, b"")]),
            100,
        );
        let expected = archive(&[("late", 100, &content), ("early", 5, b"x"), ("empty", 100, b"")]);
        assert!(out == expected);
    }

    #[test]
    fn a_tar_without_later_times_stays_as_it_is() {
        let bytes = archive(&[("a", 1, b"abc")]);
        assert!(retimed(&bytes, 100) == bytes);
    }

    #[test]
    fn a_tar_that_ends_early_is_an_error() {
        let bytes = archive(&[("a", 1, b"abc")]);
        assert!(Retime::new(&bytes[..600], 0).read_to_end(&mut Vec::new()).is_err());
    }
}
