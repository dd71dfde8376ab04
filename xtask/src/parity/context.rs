//! The build context of every case: files, directories and links of all kinds, with fixed times and modes.

use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use flate2::write::GzEncoder;

use crate::parity::cases::{Case, OWN_IGNORE_FILE};
use crate::run::{command, output};

/// Modification time of everything in the build context, in seconds since 1970: the first second of 2001.
const TIME: u64 = 978_307_200;

/// Path, mode, content.
const FILES: &[(&str, u32, &str)] = &[
    ("f", 0o644, "hello"),
    ("x/a.txt", 0o644, "xa"),
    ("x/sub/s.txt", 0o644, "s"),
    ("x/c.md", 0o644, "c"),
    ("x/d1.log", 0o644, "l"),
    ("y/a.txt", 0o644, "ya"),
    ("empty", 0o644, ""),
    ("suid", 0o4755, "s"),
    ("mode0", 0, "0"),
    ("sticky", 0o1644, "t"),
    ("exe.sh", 0o755, "#!/bin/sh\necho hi\n"),
    ("sp ace/a b.txt", 0o644, "sp"),
    ("uni/ünï-日本.txt", 0o644, "u"),
    (".dot", 0o644, "dot"),
    ("d1/.hid", 0o644, "h"),
    ("d1/v", 0o644, "v"),
    ("d2/w", 0o644, "w"),
    ("d2/v", 0o644, "v2"),
    ("deep/1/2/3/4/5/6/7/8/9/z", 0o644, "z"),
    ("[br]/q", 0o644, "q"),
    ("star*name", 0o644, "st"),
    ("q?x", 0o644, "q"),
    ("back\\slash", 0o644, "bs"),
];

const LINKS: &[(&str, &str)] = &[
    ("x/l", "a.txt"),
    ("x/up", "../f"),
    ("x/out", "../../../f"),
    ("dangle", "nowhere"),
    ("dl", "x"),
    ("abs", "/etc/passwd"),
];

const DIRECTORIES: &[(&str, u32)] = &[("emptyd", 0o700), ("x/sub", 0o700), ("stk", 0o2775)];

/// Makes the build context of `case` in `context` and its Dockerfile in `beside`.
pub(crate) fn make(case: &Case, context: &Path, beside: &Path) -> Result<()> {
    fs::create_dir_all(beside)?;
    for (path, mode, content) in FILES {
        write(&context.join(path), content.as_bytes(), *mode)?;
    }
    write(&context.join("big"), &[b'B'; 100_000], 0o644)?;
    for number in 0..60 {
        let content = number.to_string();
        write(&context.join(format!("many/{number:03}")), content.as_bytes(), 0o644)?;
    }
    for (path, target) in LINKS {
        symlink(target, context.join(path))?;
    }
    for (path, mode) in DIRECTORIES {
        fs::create_dir_all(context.join(path))?;
        fs::set_permissions(context.join(path), Permissions::from_mode(*mode))?;
    }
    fs::hard_link(context.join("d2/w"), context.join("d2/hl"))?;
    let mut sparse = File::create(context.join("sparse"))?;
    sparse.set_len(1 << 20)?;
    sparse.seek(SeekFrom::Start(500_000))?;
    sparse.write_all(b"x")?;
    output(command("mkfifo", &["--mode=644"]).arg(context.join("fifo")))?;
    archives(context)?;
    own_files(case, context, beside)?;
    let mut touch = command("find", &[context]);
    touch.args([
        "-exec",
        "touch",
        "--no-dereference",
        "--date",
        &format!("@{TIME}"),
        "{}",
        "+",
    ]);
    output(&mut touch)?;
    for (path, content) in case.files.iter().filter(|(path, _)| path != OWN_IGNORE_FILE) {
        let file = File::options().write(true).open(context.join(path))?;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(TIME + seconds_of(content)))?;
    }
    Ok(())
}

/// A time for a content. The reference takes files of the same path, size and time for the same, whatever case they are of.
fn seconds_of(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish() % 100_000_000
}

/// What only this case has.
fn own_files(case: &Case, context: &Path, beside: &Path) -> Result<()> {
    fs::write(beside.join("Dockerfile"), &case.dockerfile)?;
    for (path, content) in &case.files {
        let folder = if path == OWN_IGNORE_FILE { beside } else { context };
        write(&folder.join(path), content, 0o644)?;
    }
    if let Some(commands) = &case.prepare {
        output(command("sh", &["-ec", commands]).current_dir(context)).context("preparing the build context")?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(())
}

/// The same archive in every compression, what only looks like one, and one that ends early.
fn archives(context: &Path) -> Result<()> {
    let plain = archive()?;
    write(&context.join("t.tar"), &plain, 0o644)?;
    write(&context.join("t.tar.gz"), &gzip(&plain)?, 0o644)?;
    write(&context.join("t.zst"), &zstd::encode_all(plain.as_slice(), 3)?, 0o644)?;
    write(&context.join("plain.gz"), &gzip(b"notatar")?, 0o644)?;
    let cut = plain.get(..600).unwrap_or(&plain);
    write(&context.join("bad.tar"), &[cut, b"zzz"].concat(), 0o644)?;
    for (program, suffix) in [("bzip2", "bz2"), ("xz", "xz")] {
        let tar = context.join("t.tar");
        output(command(program, &["--keep"]).arg(&tar))?;
        let made = context.join(format!("t.tar.{suffix}"));
        fs::set_permissions(made, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A directory with owner, mode and time; a file, links to it, and a file whose directory has no entry.
fn archive() -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let entries = [
        ("td", tar::EntryType::Directory, ""),
        ("td/a.txt", tar::EntryType::Regular, ""),
        ("td/ln", tar::EntryType::Symlink, "a.txt"),
        ("td/hl", tar::EntryType::Link, "td/a.txt"),
        ("deep/er/x", tar::EntryType::Regular, ""),
    ];
    for (path, kind, target) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o640 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(978_300_000);
        let content: &[u8] = if kind.is_file() { b"abc" } else { b"" };
        header.set_size(content.len() as u64);
        if target.is_empty() {
            archive.append_data(&mut header, path, content)?;
        } else {
            archive.append_link(&mut header, path, target)?;
        }
    }
    Ok(archive.into_inner()?)
}
