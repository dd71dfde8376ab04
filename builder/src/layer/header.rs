//! One tar header on its way out: USTAR, and PAX records before it only where USTAR cannot say it.

use proto::tree::{EntryKind, TreeEntry};

/// The unit of a tar.
pub(super) const BLOCK: usize = 512;

/// Largest number in a field of seven octal digits, for device numbers: PAX has no record for these.
const SEVEN_DIGITS: u64 = 0o777_7777;

/// Appends to `out` the header of `entry` under `name`, preceded by PAX records if there is need for any.
///
/// Returns false, with nothing appended, if a device number fits in no tar.
pub(super) fn append(out: &mut Vec<u8>, entry: &TreeEntry, name: &[u8]) -> bool {
    let whiteout = entry.kind == EntryKind::Whiteout;
    let (typeflag, link, size, device) = describe(&entry.kind);
    let (mode, uid, gid, mtime) = match whiteout {
        true => (0, 0, 0, 0),
        false => (entry.mode, entry.uid, entry.gid, entry.mtime.seconds),
    };
    if device.0 > SEVEN_DIGITS || device.1 > SEVEN_DIGITS {
        return false;
    }
    let mut header = Header::new(typeflag);
    let mut records = Vec::new();
    match split(name) {
        Some((prefix, rest)) => {
            header.text(0, 100, rest);
            header.text(345, 155, prefix);
        }
        None => {
            record(&mut records, b"path", name);
            header.text(0, 100, &ascii(name, 100));
        }
    }
    if link.len() <= 100 && link.is_ascii() {
        header.text(157, 100, link);
    } else {
        record(&mut records, b"linkpath", link);
        header.text(157, 100, &ascii(link, 100));
    }
    header.octal(100, 8, u64::from(mode & 0o7777));
    header.number(108, 8, u64::from(uid), (&mut records, b"uid"));
    header.number(116, 8, u64::from(gid), (&mut records, b"gid"));
    header.number(124, 12, size, (&mut records, b"size"));
    match u64::try_from(mtime) {
        Ok(seconds) => header.number(136, 12, seconds, (&mut records, b"mtime")),
        Err(_) => {
            record(&mut records, b"mtime", mtime.to_string().as_bytes());
            header.octal(136, 12, 0);
        }
    }
    if matches!(typeflag, b'3' | b'4') {
        header.octal(329, 8, device.0);
        header.octal(337, 8, device.1);
    }
    if matches!(typeflag, b'0' | b'5') && !whiteout {
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| key == b"security.capability") {
            record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
    }
    if !records.is_empty() {
        append_records(out, &records);
    }
    out.extend_from_slice(&header.finish());
    true
}

/// Type flag, link target, size of the body and device number of a kind.
fn describe(kind: &EntryKind) -> (u8, &[u8], u64, (u64, u64)) {
    match kind {
        EntryKind::File { size, .. } => (b'0', b"", *size, (0, 0)),
        EntryKind::Whiteout => (b'0', b"", 0, (0, 0)),
        EntryKind::Hardlink { target } => (b'1', target.as_bytes(), 0, (0, 0)),
        EntryKind::Symlink { target } => (b'2', target, 0, (0, 0)),
        EntryKind::CharDevice { major, minor } => (b'3', b"", 0, (u64::from(*major), u64::from(*minor))),
        EntryKind::BlockDevice { major, minor } => (b'4', b"", 0, (u64::from(*major), u64::from(*minor))),
        EntryKind::Directory { .. } => (b'5', b"", 0, (0, 0)),
        EntryKind::Fifo => (b'6', b"", 0, (0, 0)),
    }
}

/// USTAR's `prefix` and `name`, or nothing if `path` does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The slash between both is not stored; the last byte may be the slash of a directory name and cannot be the one.
    let first = path.len().checked_sub(101)?;
    let last = (path.len() - 2).min(155);
    let at = (first.max(1)..=last).find(|&at| path[at] == b'/')?;
    Some((&path[..at], &path[at + 1..]))
}

/// A short look-alike for readers that know no PAX.
fn ascii(name: &[u8], length: usize) -> Vec<u8> {
    name.iter()
        .filter(|byte| byte.is_ascii())
        .take(length)
        .copied()
        .collect()
}

/// `length key=value\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    loop {
        let total = rest + length.to_string().len();
        if total == length {
            break;
        }
        length = total;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn append_records(out: &mut Vec<u8>, records: &[u8]) {
    let mut header = Header::new(b'x');
    header.text(0, 100, b"PaxHeaders/0");
    header.octal(100, 8, 0o644);
    header.octal(108, 8, 0);
    header.octal(116, 8, 0);
    header.octal(124, 12, records.len() as u64);
    header.octal(136, 12, 0);
    out.extend_from_slice(&header.finish());
    out.extend_from_slice(records);
    // What is in `out` already may begin and end anywhere.
    out.resize(out.len() + records.len().next_multiple_of(BLOCK) - records.len(), 0);
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(typeflag: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[156] = typeflag;
        header.text(257, 8, b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, room: usize, text: &[u8]) {
        let length = text.len().min(room);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    /// `room - 1` octal digits and a NUL.
    fn octal(&mut self, at: usize, room: usize, value: u64) {
        let digits = format!("{value:0width$o}\0", width = room - 1);
        self.text(at, room, digits.as_bytes());
    }

    /// The number in its field, or zero there and a PAX record if the field has too few digits.
    fn number(&mut self, at: usize, room: usize, value: u64, pax: (&mut Vec<u8>, &[u8])) {
        let most = 8_u64.pow(if room == 8 { 7 } else { 11 }) - 1;
        if value > most {
            record(pax.0, pax.1, value.to_string().as_bytes());
        }
        self.octal(at, room, if value > most { 0 } else { value });
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&byte| u64::from(byte)).sum();
        self.text(148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 80..110 {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; length]);
            let stated: usize = String::from_utf8_lossy(&out)
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(stated, out.len());
        }
    }

    #[test]
    fn long_names_are_split_at_a_slash_if_both_sides_fit() {
        let name = [vec![b'p'; 120], b"/".to_vec(), vec![b'n'; 100]].concat();
        assert_eq!(split(&name), Some((&name[..120], &name[121..])));
        let name = [vec![b'p'; 156], b"/n".to_vec()].concat();
        assert_eq!(split(&name), None);
        let name = [vec![b'n'; 101], b"/".to_vec()].concat();
        assert_eq!(split(&name), None);
        assert_eq!(split("ä".as_bytes()), None);
    }
}
