//! Base images made from Debian's packages: what apps and benchmarks build on.
//!
//! They are built by rbuild itself from a root filesystem: `FROM scratch`, `ADD rootfs.tar /`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{check, command, output, rbuild, repository, say, target_dir};

/// Makes the base images that are not there yet.
pub(crate) fn run(debian: bool) -> Result<()> {
    let made = busybox()?;
    say(&made.display().to_string());
    if debian {
        say(&self::debian()?.display().to_string());
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    let folder = target_dir().join("base");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// An OCI layout with busybox and its applets.
pub(crate) fn busybox() -> Result<PathBuf> {
    let layout = folder()?.join("busybox");
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let context = tempfile::tempdir()?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let busybox = busybox.context("busybox is not installed; Debian's package is `busybox-static`")?;
    fs::copy(busybox, context.path().join("busybox"))?;
    fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch AS tools\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
         FROM tools\nCOPY etc /etc\nRUN mkdir -p /tmp /root /var && chmod 1777 /tmp\nCMD [\"sh\"]\n",
    )?;
    fs::create_dir(context.path().join("etc"))?;
    fs::write(
        context.path().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(context.path().join("etc/group"), "root:x:0:\nnobody:x:65534:\n")?;
    build(context.path(), &layout)?;
    Ok(layout)
}

/// An OCI layout with busybox and the users, groups and paths that cases of parity expect.
pub(crate) fn parity() -> Result<PathBuf> {
    let layout = folder()?.join("parity");
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let busybox = busybox()?;
    let context = tempfile::tempdir()?;
    fs::write(
        context.path().join("Dockerfile"),
        "FROM busybox\nCOPY etc /etc\nRUN mkdir -p /home /usr/bin\n\
         ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    )?;
    fs::create_dir(context.path().join("etc"))?;
    fs::write(
        context.path().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\njoe:x:55:66:joe:/home:/bin/sh\n",
    )?;
    fs::write(context.path().join("etc/group"), "root:x:0:\ngrp:x:77:joe\njoe:x:66:\n")?;
    let options = [
        format!("--build-context=busybox=oci-layout://{}", busybox.display()),
        // A time of its own: what comes from the clock of a case can be told from what comes from here.
        "--build-arg=SOURCE_DATE_EPOCH=1500000000".to_owned(),
    ];
    build_on(context.path(), &layout, &options)?;
    Ok(layout)
}

/// An OCI layout with Debian's minimal system, and what makes package managers work from this machine: its sources and
/// its certificates.
pub(crate) fn debian() -> Result<PathBuf> {
    let layout = folder()?.join("debian");
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let context = tempfile::tempdir()?;
    let root = context.path().join("rootfs");
    let release = fs::read_to_string("/etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or("bookworm");
    let mirror = mirror()?;
    let mut debootstrap = command(
        "debootstrap",
        &["--variant=minbase", "--include=ca-certificates", codename],
    );
    check(debootstrap.arg(&root).arg(&mirror))?;
    copy_machine_files(&root)?;
    let tar = context.path().join("rootfs.tar");
    let mut archive = command(
        "tar",
        &[
            "--create",
            "--numeric-owner",
            "--exclude=./dev/*",
            "--exclude=./var/cache/apt/*.bin",
        ],
    );
    check(
        archive
            .arg("--exclude=./var/cache/apt/archives/*")
            .arg("--file")
            .arg(&tar)
            .arg("--directory")
            .arg(&root)
            .arg("."),
    )?;
    fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch\nADD rootfs.tar /\n\
         ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
         SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt DEBIAN_FRONTEND=noninteractive\nCMD [\"bash\"]\n",
    )?;
    fs::write(context.path().join(".dockerignore"), "*\n!rootfs.tar\n")?;
    build(context.path(), &layout)?;
    Ok(layout)
}

/// What a Debian image has beside the minimal system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tools {
    None,
    Python,
    Node,
}

/// An OCI layout with Debian's minimal system and a language's tools.
pub(crate) fn debian_with(tools: Tools) -> Result<PathBuf> {
    let (name, packages) = match tools {
        Tools::None => return debian(),
        Tools::Python => ("python", "python3 python3-pip"),
        Tools::Node => ("node", "nodejs npm"),
    };
    let layout = folder()?.join(name);
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let debian = debian()?;
    let context = tempfile::tempdir()?;
    let text = format!("FROM debian\nRUN apt-get update && apt-get install -y --no-install-recommends {packages}\n");
    fs::write(context.path().join("Dockerfile"), text)?;
    let options = [
        format!("--build-context=debian=oci-layout://{}", debian.display()),
        "--network=host".to_owned(),
        "--allow=network.host".to_owned(),
    ];
    build_on(context.path(), &layout, &options)?;
    Ok(layout)
}

/// Builds `context` on the image `busybox`, its layers not compressed, into the OCI layout directory `layout`.
pub(crate) fn on_busybox(context: &Path, layout: &Path) -> Result<()> {
    let options = [format!("--build-context=busybox=oci-layout://{}", busybox()?.display())];
    build_into(context, layout, "uncompressed", &options)
}

/// The first mirror that this machine installs from.
fn mirror() -> Result<String> {
    for file in ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"] {
        let Ok(text) = fs::read_to_string(file) else { continue };
        let uri = text.lines().find_map(|line| match line.strip_prefix("URIs:") {
            Some(uri) => Some(uri.trim()),
            None => line
                .strip_prefix("deb ")?
                .split_whitespace()
                .find(|word| word.contains("://")),
        });
        if let Some(uri) = uri {
            return Ok(uri.split_whitespace().next().unwrap_or(uri).to_owned());
        }
    }
    bail!("no Debian mirror in /etc/apt: is this Debian?")
}

fn copy_machine_files(root: &Path) -> Result<()> {
    for file in [
        "etc/apt/sources.list.d/debian.sources",
        "etc/apt/sources.list",
        "etc/ssl/certs/ca-certificates.crt",
    ] {
        let from = Path::new("/").join(file);
        if from.exists() {
            fs::copy(&from, root.join(file)).with_context(|| from.display().to_string())?;
        }
    }
    Ok(())
}

/// Builds `context` with rbuild in a store of its own, into an OCI layout directory.
fn build(context: &Path, layout: &Path) -> Result<()> {
    build_on(context, layout, &[])
}

fn build_on(context: &Path, layout: &Path, options: &[String]) -> Result<()> {
    build_into(context, layout, "gzip", options)
}

fn build_into(context: &Path, layout: &Path, compression: &str, options: &[String]) -> Result<()> {
    let store = tempfile::tempdir()?;
    let partial = layout.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let mut build = command(rbuild()?, &["build", "--in-process", "--root"]);
    build.arg(store.path().join("store")).arg("--output").arg(format!(
        "type=oci,tar=false,compression={compression},dest={}",
        partial.display()
    ));
    output(build.args(options).arg(context).current_dir(repository()))?;
    fs::rename(&partial, layout)?;
    Ok(())
}
