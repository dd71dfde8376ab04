//! A store as this version writes it, for all later ones to open: `testdata/stores/<name>.tar.gz`.
//!
//! It is made once for each version whose stores are to be read, and never again: a test opens what versions before left. The archive
//! has three directories: `work`, what was built; `base`, what it was built on; `store`, what it left, with a file of every kind that
//! needs no network. Nothing in it needs a program of the machine: the base image has one program of its own, of 170 bytes, which
//! makes a file.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{check, command, repository, say, target_dir};

/// What the base image is made of.
const BASE: &str = "FROM scratch\nCOPY --chmod=755 make /make\nCOPY passwd /etc/passwd\n";

/// Something of every kind: a step with a snapshot and a cache mount, a copy out of it, a copy from the context.
const DOCKERFILE: &str = "FROM base AS made\n\
                          RUN --mount=type=cache,target=/kept [\"/make\"]\n\
                          FROM base\n\
                          COPY --from=made /made /copy\n\
                          COPY --chown=alice x /x\n\
                          ENV OLD=store\n";

/// What is left out: it says who had the store, not what is in it.
const NOT_STORED: [&str; 4] = ["lock", "server.lock", "server.log", "usage"];

/// Makes the archive `name`. `RBUILD` names another program than the one in the release directory.
pub(crate) fn run(name: &str) -> Result<()> {
    let archive = repository().join(format!("testdata/stores/{name}.tar.gz"));
    if archive.exists() {
        bail!(
            "`{}` is there: what older versions wrote stays as it is",
            archive.display()
        );
    }
    let place = tempfile::tempdir()?;
    let (work, store) = (place.path().join("work"), place.path().join("store"));
    fs::create_dir(&work)?;
    fs::write(work.join("make"), program())?;
    fs::write(work.join("passwd"), "root:x:0:0::/:/make\nalice:x:1000:1001::/:/make\n")?;
    fs::write(work.join("x"), "x\n")?;
    fs::write(work.join("base.dockerfile"), BASE)?;
    fs::write(work.join("Dockerfile"), DOCKERFILE)?;
    let other = place.path().join("other");
    let base = "--output=type=oci,tar=false,dest=../base";
    check(rbuild(&other, &["--file=base.dockerfile", base, "."]).current_dir(&work))?;
    let arguments = [
        "--build-context=base=oci-layout://../base",
        "--tag=app:1",
        "--output=type=image",
        "--output=type=oci,dest=../image.tar,compression=gzip",
        ".",
    ];
    check(rbuild(&store, &arguments).current_dir(&work))?;
    for name in NOT_STORED {
        if store.join(name).exists() {
            fs::remove_file(store.join(name))?;
        }
    }
    pack(place.path(), &archive)?;
    say(&format!(
        "{} has {} bytes",
        archive.display(),
        fs::metadata(&archive)?.len()
    ));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "as for `bench`: which program is asked")]
fn rbuild(store: &Path, arguments: &[&str]) -> Command {
    let program = std::env::var_os("RBUILD").map_or_else(|| target_dir().join("release/rbuild"), Into::into);
    let mut all = vec!["build", "--in-process", "--platform=linux/amd64"];
    all.extend_from_slice(arguments);
    let mut command = command(program, &all);
    command.env("RBUILD_ROOT", store).env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

fn pack(place: &Path, archive: &Path) -> Result<()> {
    if let Some(directory) = archive.parent() {
        fs::create_dir_all(directory)?;
    }
    // In order of names, so that an archive can be compared with another one.
    let options = [
        "--sort=name",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "-czf",
    ];
    let tar = command("tar", &options);
    check(
        { tar }
            .arg(archive)
            .args(["-C"])
            .arg(place)
            .args(["base", "store", "work"]),
    )
}

/// A program for Linux on amd64 that writes `/made`: open, write, exit.
fn program() -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const ADDRESS: u64 = 0x40_0000;
    // `mov eax, 2; lea rdi, [rip + 42]; mov esi, O_WRONLY | O_CREAT; mov edx, 0o644; syscall`
    let mut code = vec![0xb8, 2, 0, 0, 0, 0x48, 0x8d, 0x3d, 42, 0, 0, 0];
    code.extend([0xbe, 0x41, 0, 0, 0, 0xba, 0xa4, 1, 0, 0, 0x0f, 0x05]);
    // `mov edi, eax; lea rsi, [rip + 27]; mov edx, 5; mov eax, 1; syscall`
    code.extend([
        0x89, 0xc7, 0x48, 0x8d, 0x35, 27, 0, 0, 0, 0xba, 5, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0x0f, 0x05,
    ]);
    // `xor edi, edi; mov eax, 60; syscall`
    code.extend([0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    code.extend(b"/made\0made\n");
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // An executable for this machine, version 1; where it starts, its one segment right behind this header, no sections.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend((ADDRESS + HEADERS).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // One segment: all of the file, to be read and run.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}
