//! Archives made here, in every form that `ADD` knows, and what is found in them; broken and hostile ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test as the tests do")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use builder::layer::apply::Refusal;
use builder::layer::entry::Content;
use builder::layer::limits::{LimitExceeded, Limits};
use builder::op::archive::{Archive, ArchiveError, open, open_limited};
use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath};
use tar::EntryType;

fn path(text: &str) -> RelPath {
    RelPath::clean(text.as_bytes())
}

/// A tar from words: `d/` a directory, `a>b` a symlink, `a=b` a hard link, `a:text` a file, `a%` the device 1:3.
fn tar_of(words: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (number, word) in (1_u8..).zip(words.split_whitespace()) {
        let (name, kind, link, body) = if let Some((name, target)) = word.split_once('>') {
            (name, EntryType::Symlink, target, "")
        } else if let Some((name, target)) = word.split_once('=') {
            (name, EntryType::Link, target, "")
        } else if let Some((name, body)) = word.split_once(':') {
            (name, EntryType::Regular, "", body)
        } else if let Some(name) = word.strip_suffix('%') {
            (name, EntryType::Char, "", "")
        } else {
            (word, EntryType::Directory, "", "")
        };
        let mut header = tar::Header::new_ustar();
        // Written by hand, since the crate refuses hostile names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o4750);
        header.set_uid(number.into());
        header.set_gid(100);
        header.set_mtime(77);
        header.set_size(body.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    // Whoever hands a file over may have read some of it.
    file.seek(SeekFrom::End(0)).unwrap();
    file
}

fn opened(bytes: &[u8]) -> Result<Option<Archive>, ArchiveError> {
    open(file_of(bytes), &std::env::temp_dir())
}

fn show(archive: &Archive) -> String {
    let shown: Vec<String> = archive
        .tree
        .entries()
        .iter()
        .map(|entry| {
            let path = &entry.path;
            match &entry.kind {
                EntryKind::Directory { .. } => format!("{path}/"),
                EntryKind::Symlink { target } => format!("{path}>{}", String::from_utf8_lossy(target)),
                EntryKind::Hardlink { target } => format!("{path}={target}"),
                EntryKind::CharDevice { major, minor } => format!("{path}%{major}.{minor}"),
                _ => format!("{path}:{}", bytes_at(archive, path)),
            }
        })
        .collect();
    shown.join(" ")
}

fn bytes_at(archive: &Archive, path: &RelPath) -> String {
    let Content::Stream(stream) = archive.content(path) else {
        panic!("{path} has no bytes");
    };
    let mut text = String::new();
    stream.open().unwrap().read_to_string(&mut text).unwrap();
    let expected = EntryKind::File {
        size: text.len() as u64,
        content: ContentDigest::of(text.as_bytes()),
    };
    assert_eq!(archive.tree.get(path).unwrap().kind, expected);
    text
}

#[track_caller]
fn check(words: &str, expected: &str) {
    assert_eq!(show(&opened(&tar_of(words)).unwrap().unwrap()), expected);
}

#[track_caller]
fn refused(words: &str) -> (String, Refusal) {
    match opened(&tar_of(words)) {
        Err(ArchiveError::Refused { name, refusal }) => (name, refusal),
        other => panic!("{other:?}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

type Encoder = fn(&[u8]) -> Vec<u8>;
const FORMS: [(&str, Encoder); 4] = [("gzip", gzip), ("bzip2", bzip2), ("xz", xz), ("zstd", zstd)];

#[test]
fn every_form_holds_the_same_archive() {
    let tar = tar_of("sub/ a.txt:hello sub/s.txt:deep empty:");
    let expected = "a.txt:hello empty: sub/ sub/s.txt:deep";
    assert_eq!(show(&opened(&tar).unwrap().unwrap()), expected);
    for (form, encode) in FORMS {
        assert_eq!(show(&opened(&encode(&tar)).unwrap().unwrap()), expected, "{form}");
        let (one, two) = tar.split_at(700);
        let parts = [encode(one), encode(two)].concat();
        assert_eq!(show(&opened(&parts).unwrap().unwrap()), expected, "{form} in two parts");
    }
}

#[test]
fn what_is_no_archive_is_none() {
    for plain in [&b""[..], b"hello", &[b'x'; 2000], &[0; 2000], &tar_of("a:x")[..511]] {
        assert!(opened(plain).unwrap().is_none());
        for (form, encode) in FORMS {
            assert!(opened(&encode(plain)).unwrap().is_none(), "{form}");
        }
    }
    for magic in [&b"\x1f\x8b\x08"[..], b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"] {
        assert!(opened(&[magic, &[7; 600]].concat()).unwrap().is_none(), "{magic:?}");
    }
}

#[test]
fn an_archive_that_breaks_later_is_an_error() {
    let tar = tar_of("a:hello b:world");
    assert!(matches!(opened(&tar[..520]).unwrap_err(), ArchiveError::Read(_)));
    let mut broken = tar.clone();
    broken[1024] ^= 1;
    let error = opened(&broken).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 2 of the archive is broken: the header's checksum is wrong"
    );
    for (form, encode) in FORMS {
        let error = opened(&encode(&tar[..700])).unwrap_err();
        assert!(matches!(error, ArchiveError::Read(_)), "{form}: {error}");
    }
    let mut noise = vec![0; 40_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let cut: String = noise.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    for (form, encode) in FORMS {
        let whole = encode(&tar_of(&format!("a:{cut}")));
        let half = opened(&whole[..whole.len() - 9]);
        assert!(matches!(half, Err(ArchiveError::Read(_)) | Ok(None)), "{form}");
        assert!(opened(&whole).unwrap().is_some(), "{form}");
    }
    let mut flipped = gzip(&tar);
    let checksum = flipped.len() - 8;
    flipped[checksum] ^= 1;
    assert!(matches!(opened(&flipped), Err(ArchiveError::Read(_)) | Ok(None)));
}

#[test]
fn metadata_is_what_the_archive_says() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut capability = vec![1, 0, 0, 2];
    capability.extend([0; 16]);
    let records = [
        ("SCHILY.xattr.security.capability", &capability[..]),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.note", b"x"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let tar = [builder.get_ref().clone(), tar_of("bin:x dev%")].concat();
    let archive = opened(&tar).unwrap().unwrap();
    let entry = archive.tree.get(&path("bin")).unwrap();
    assert_eq!(
        (entry.mode, entry.uid, entry.gid, entry.mtime.seconds),
        (0o4750, 1, 100, 77)
    );
    assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), capability)]);
    assert_eq!(show(&archive), "bin:x dev%1.3");
    assert!(matches!(archive.content(&path("dev")), Content::None));
}

#[test]
fn names_stay_inside_and_marks_of_layers_are_ordinary() {
    check(
        "/etc/x:y ./z:w .wh.gone:v d/.wh..wh..opq:u",
        ".wh.gone:v d/.wh..wh..opq:u etc/x:y z:w",
    );
    assert_eq!(refused("a:x ../../up:y"), ("up".to_owned(), Refusal::Name));
    assert_eq!(refused("a:x d/../b:y").1, Refusal::Name);
    assert_eq!(refused("a:x b=../../etc/passwd").1, Refusal::HardLink);
    assert_eq!(refused("a:x b=nowhere").1, Refusal::HardLink);
    assert_eq!(refused("a:x a/b:y").1, Refusal::Parent(path("a")));
}

#[test]
fn links_of_the_archive_are_followed_inside_it() {
    check("real/ ln>real ln/x:y", "ln>real real/ real/x:y");
    check("out>../../etc out/passwd:x", "etc/passwd:x out>../../etc");
    check("abs>/etc abs/shadow:x", "abs>/etc etc/shadow:x");
    check("l>target l:file", "l:file");
    assert_eq!(refused("a>b b>a a/x:y").1, Refusal::LinkLoop);
}

#[test]
fn hard_links_may_come_early_and_the_last_of_a_name_wins() {
    check("b=z z:text", "b:text z=b");
    check("a:one b=a a:two", "a:two b:one");
    check("a:one a:two", "a:two");
    check("d/ d/x:y d:file", "d:file");
}

#[test]
fn limits_end_an_archive_by_name() {
    let limited =
        |words: &str, limits: Limits| match open_limited(file_of(&tar_of(words)), &std::env::temp_dir(), &limits) {
            Err(ArchiveError::Limit(limit)) => limit,
            other => panic!("{other:?}"),
        };
    let limits = Limits::default();
    assert_eq!(
        limited("a:x b:y c:z", Limits { entries: 2, ..limits }),
        LimitExceeded::Entries(2)
    );
    assert_eq!(
        limited("a/b/c/d:x", Limits { depth: 3, ..limits }),
        LimitExceeded::Depth(3)
    );
    assert_eq!(
        limited(
            "a:x longer:x",
            Limits {
                component_bytes: 5,
                ..limits
            }
        ),
        LimitExceeded::ComponentBytes(5)
    );
    let bomb = gzip(&tar_of(&format!("a:{}", "x".repeat(60_000))));
    let limits = Limits {
        ratio: 20,
        ratio_from_bytes: 10_000,
        ..limits
    };
    let error = open_limited(file_of(&bomb), &std::env::temp_dir(), &limits).unwrap_err();
    assert!(
        matches!(error, ArchiveError::Limit(LimitExceeded::Ratio(20))),
        "{error:?}"
    );
}
