//! Reads a tar that a stranger wrote: USTAR, GNU long names and base-256 numbers, PAX.
//!
//! Strict where readers are known to disagree, since a layer must mean one thing only: a PAX size always wins over the header's,
//! a number that does not parse, a wrong checksum, two extended headers of one kind in a row, or a block of zeros that something
//! follows end the layer. Sparse members are refused: no builder writes them into layers. So is the id that means "leave it as it
//! is" to the kernel, and with it the owner that the engine has.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::header::BLOCK;
use super::limits::{LimitExceeded, Limits};

/// Why bytes are no tar that we take.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ends or fails.
    #[error("the layer cannot be read")]
    Read(#[source] io::Error),
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// A header is broken.
    #[error("entry {entry} of the layer is broken: {problem}")]
    Broken {
        /// Its number, from 1.
        entry: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What the key of a record begins with that is an extended attribute.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// What `chown` takes for "leave it as it is".
const NO_ID: u32 = u32::MAX;

/// Keys and values, or names and values of extended attributes.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// One member, its names unjudged.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) typeflag: u8,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Records,
}

/// What extended headers say about the next member.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
    seen: Vec<u8>,
}

/// The members of a tar, one after the other. The body of the current one is what [`Read`] gives.
pub(crate) struct Archive<'a, R> {
    source: R,
    limits: &'a Limits,
    globals: Records,
    body_left: u64,
    padding: u64,
    entries: u64,
    stated_bytes: u64,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(crate) fn new(source: R, limits: &'a Limits) -> Self {
        Self {
            source,
            limits,
            globals: Vec::new(),
            body_left: 0,
            padding: 0,
            entries: 0,
            stated_bytes: 0,
        }
    }

    /// The next member; nothing at the end. What is left of the body before is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extended = Extended::default();
        loop {
            let left = self.body_left + self.padding;
            self.skip(left)?;
            (self.body_left, self.padding) = (0, 0);
            let Some(block) = self.header()? else {
                return match extended.seen.is_empty() {
                    true => Ok(None),
                    false => Err(self.broken("an extended header stands before no entry")),
                };
            };
            match block[156] {
                flag @ (b'x' | b'g' | b'L' | b'K') => self.extend(&mut extended, flag, &block)?,
                b'S' => return Err(self.broken("sparse members are not supported")),
                _ => return self.member(&block, extended).map(Some),
            }
        }
    }

    /// Reads to the end of the stream: what follows the archive is part of the layer's digest.
    pub(crate) fn drain(mut self) -> Result<(), TarError> {
        let mut buffer = vec![0; 64 << 10];
        while self.read_some(&mut buffer)? != 0 {}
        Ok(())
    }

    pub(crate) fn broken(&self, problem: &'static str) -> TarError {
        TarError::Broken {
            entry: self.entries,
            problem,
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.source.read(buffer) {
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
    }

    fn skip(&mut self, length: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink()).map_err(read_error)?;
        match skipped == length {
            true => Ok(()),
            false => Err(TarError::Read(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The next block; nothing where the stream ends.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.read_some(&mut block[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into())),
                length => have += length,
            }
        }
        Ok(Some(block))
    }

    /// The next header block with a right checksum; nothing at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let zeros = |block: &[u8; BLOCK]| block.iter().all(|&byte| byte == 0);
        let Some(block) = self.block()? else { return Ok(None) };
        if zeros(&block) {
            // Two such blocks end an archive, and some writers leave the second one out. With one alone, some readers go on.
            return match self.block()?.is_none_or(|second| zeros(&second)) {
                true => Ok(None),
                false => Err(self.broken("a lone block of zeros stands behind it")),
            };
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LimitExceeded::Entries(self.limits.entries).into());
        }
        match checksum_is_right(&block) {
            true => Ok(Some(block)),
            false => Err(self.broken("the header's checksum is wrong")),
        }
    }

    fn extend(&mut self, extended: &mut Extended, flag: u8, block: &[u8; BLOCK]) -> Result<(), TarError> {
        let size = number(&block[124..136]).ok_or_else(|| self.broken("the size is no number"))?;
        if size > self.limits.extended_header_bytes {
            return Err(LimitExceeded::ExtendedHeader(self.limits.extended_header_bytes).into());
        }
        if extended.seen.contains(&flag) {
            return Err(self.broken("two extended headers of one kind stand before it"));
        }
        extended.seen.push(flag);
        let mut body = vec![0; usize::try_from(size).map_err(|_| self.broken("the size is no number"))?];
        self.source.read_exact(&mut body).map_err(read_error)?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        match flag {
            b'L' => extended.name = Some(until_nul(&body).to_vec()),
            b'K' => extended.link = Some(until_nul(&body).to_vec()),
            b'x' => extended.records = self.records(&body)?,
            _ => {
                let mut globals = self.records(&body)?;
                // Said once for all members, these make no sense but to confuse.
                let confusing = |(key, _): &(Vec<u8>, Vec<u8>)| {
                    matches!(&key[..], b"path" | b"linkpath" | b"size") || key.starts_with(XATTR)
                };
                if globals.iter().any(confusing) {
                    return Err(self.broken("a global extended header names, sizes or marks members"));
                }
                // Each member is given them anew, so nothing is kept that says nothing, or says it again.
                let mut keys = [&b"uid"[..], b"gid", b"mtime"].map(Some);
                globals.reverse();
                globals.retain(|(key, _)| {
                    let slot = keys.iter_mut().find(|wanted| **wanted == Some(&key[..]));
                    slot.is_some_and(|slot| slot.take().is_some())
                });
                self.globals = globals;
            }
        }
        Ok(())
    }

    fn records(&self, mut body: &[u8]) -> Result<Records, TarError> {
        let bad = || self.broken("an extended header has a malformed record");
        let mut records = Vec::new();
        while !body.is_empty() {
            let space = body.iter().position(|&byte| byte == b' ').ok_or_else(bad)?;
            let length = usize::try_from(decimal(&body[..space]).ok_or_else(bad)?).map_err(|_| bad())?;
            if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &body[space + 1..length - 1];
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.is_empty() || key.starts_with(b"GNU.sparse.") {
                return Err(self.broken("sparse members are not supported"));
            }
            records.push((key.to_vec(), value.to_vec()));
            body = &body[length..];
        }
        Ok(records)
    }

    fn member(&mut self, block: &[u8; BLOCK], extended: Extended) -> Result<Member, TarError> {
        let bad = |archive: &Self| archive.broken("a field of the header is no number");
        let field = |range: std::ops::Range<usize>| number(&block[range]);
        let small = |range| field(range).and_then(|value| u32::try_from(value).ok());
        let device = matches!(block[156], b'3' | b'4');
        let mut member = Member {
            name: header_name(block),
            link: until_nul(&block[157..257]).to_vec(),
            typeflag: block[156],
            size: field(124..136).ok_or_else(|| bad(self))?,
            mode: small(100..108).ok_or_else(|| bad(self))? & 0o7777,
            uid: small(108..116).ok_or_else(|| bad(self))?,
            gid: small(116..124).ok_or_else(|| bad(self))?,
            mtime: signed(&block[136..148]).ok_or_else(|| bad(self))?,
            ..Member::default()
        };
        if device {
            member.device = (
                small(329..337).ok_or_else(|| bad(self))?,
                small(337..345).ok_or_else(|| bad(self))?,
            );
        }
        member.name = extended.name.unwrap_or(member.name);
        member.link = extended.link.unwrap_or(member.link);
        for (key, value) in self.globals.iter().chain(&extended.records) {
            if !apply_record(&mut member, key, value) {
                return Err(self.broken("an extended header has a value that does not parse"));
            }
        }
        if member.uid == NO_ID || member.gid == NO_ID {
            return Err(self.broken("its owner is no user or group"));
        }
        self.take_xattrs(&mut member)?;
        // Only regular files have bodies; the size field of others is known to hold anything.
        if !matches!(member.typeflag, 0 | b'0' | b'7') {
            member.size = 0;
        }
        self.stated_bytes = self.stated_bytes.saturating_add(member.size);
        if self.stated_bytes > self.limits.unpacked_bytes {
            return Err(LimitExceeded::UnpackedBytes(self.limits.unpacked_bytes).into());
        }
        self.body_left = member.size;
        self.padding = member.size.next_multiple_of(BLOCK as u64) - member.size;
        Ok(member)
    }

    /// The last of equal names counts.
    fn take_xattrs(&self, member: &mut Member) -> Result<(), TarError> {
        let all = std::mem::take(&mut member.xattrs);
        let by_name: BTreeMap<Vec<u8>, Vec<u8>> = all.into_iter().collect();
        if by_name.len() > self.limits.xattrs {
            return Err(LimitExceeded::Xattrs(self.limits.xattrs).into());
        }
        member.xattrs = by_name.into_iter().collect();
        Ok(())
    }
}

impl<R: Read> Read for Archive<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.body_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.source.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.body_left -= length as u64;
        Ok(length)
    }
}

/// Whether `block` says itself that it is a header.
pub(crate) fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u64::from(byte) })
        .sum();
    octal(&block[148..156]) == Some(sum)
}

/// A limit keeps its name on its way through `std::io`.
pub(crate) fn read_error(error: io::Error) -> TarError {
    match LimitExceeded::from_io(&error) {
        Some(limit) => TarError::Limit(limit),
        None => TarError::Read(error),
    }
}

fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    // GNU's old format keeps times where USTAR keeps the prefix.
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// Returns false if the value does not parse.
fn apply_record(member: &mut Member, key: &[u8], value: &[u8]) -> bool {
    let small = || decimal(value).and_then(|value| u32::try_from(value).ok());
    match key {
        // An empty value takes back what an earlier header said.
        b"path" | b"linkpath" if value.is_empty() => {}
        b"path" => member.name = value.to_vec(),
        b"linkpath" => member.link = value.to_vec(),
        b"size" => return decimal(value).map(|size| member.size = size).is_some(),
        b"uid" => return small().map(|uid| member.uid = uid).is_some(),
        b"gid" => return small().map(|gid| member.gid = gid).is_some(),
        b"mtime" => return seconds(value).map(|mtime| member.mtime = mtime).is_some(),
        _ => {
            if let Some(name) = key.strip_prefix(XATTR) {
                member.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    true
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Whole seconds of a PAX time, rounded down.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let round_down = text.starts_with('-') && fraction.bytes().any(|byte| byte != b'0');
    seconds.checked_sub(i64::from(round_down))
}

/// A numeric field: octal, or GNU's base 256 if its first bit is set. Nothing if it is negative.
fn number(field: &[u8]) -> Option<u64> {
    u64::try_from(signed(field)?).ok()
}

fn signed(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    // Two's complement over all bits but the first.
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        let bits = if at == 0 {
            i128::from(byte & 0x7f) | if negative { 0x80 } else { 0 }
        } else {
            i128::from(byte)
        };
        value = value.checked_mul(256)? | bits;
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0_u64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"     644"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(signed(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some((2 << 32) + 1));
        assert_eq!(signed(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff; 12]), None);
    }

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(seconds(b"12.9"), Some(12));
        assert_eq!(seconds(b"-1.5"), Some(-2));
        assert_eq!(seconds(b"-1.0"), Some(-1));
        assert_eq!(seconds(b"1e9"), None);
    }

    #[test]
    fn sizes_and_owners_beyond_ustar_come_back() {
        let content = proto::digest::ContentDigest::from_bytes([0; 32]);
        let entry = proto::tree::TreeEntry {
            kind: proto::tree::EntryKind::File { size: 9 << 30, content },
            uid: u32::MAX - 1,
            mode: 0o4755,
            ..super::super::lower::default_directory(&proto::tree::RelPath::root())
        };
        let mut tar = Vec::new();
        assert!(super::super::header::append(&mut tar, &entry, b"big"));
        let limits = Limits::default();
        let member = Archive::new(&tar[..], &limits).next().unwrap().unwrap();
        assert_eq!((member.size, member.uid, member.mode), (9 << 30, u32::MAX - 1, 0o4755));
    }
}
