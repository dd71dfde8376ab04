//! Mounts of a step: what they show, and that neither their sources nor their targets lead out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use builder::executor::{MountSource, SecretValue, StepMount};
use builder::ids::Ids;
use builder::snapshot::rootfs::{Rootfs, Upper};

use crate::bench::Bench;

fn mount(target: &str, source: MountSource, readonly: bool) -> StepMount {
    StepMount {
        target: target.to_owned(),
        source,
        readonly,
    }
}

const SHOW_MOUNTS: &str = "\
cat /c/kept /b/file /one /run/secrets/x; echo new > /c/new; echo new > /w/file; cat /w/file
stat -c '%a %u:%g' /run/secrets/x /t; df -k /t | grep -c ' 1024 '
grep -c ' /run/secrets/x ro,nosuid,nodev,noexec' /proc/self/mountinfo
for f in /b/file /one /run/secrets/x; do echo x >> $f; done; true";

/// One mount of every kind, the first inside the last.
fn every_kind(bench: &Bench, discarded: Rootfs, readonly: Rootfs) -> Vec<StepMount> {
    let secret = MountSource::Secret {
        value: SecretValue(b"s3cret\n".to_vec()),
        mode: 0o440,
        uid: 5,
        gid: 6,
    };
    vec![
        mount(
            "/b/inner",
            MountSource::Tmpfs {
                size_bytes: None,
                mode: 0o700,
            },
            false,
        ),
        mount(
            "/c",
            MountSource::Directory {
                path: bench.path("cache"),
                subpath: "sub".into(),
            },
            false,
        ),
        mount(
            "/w",
            MountSource::Rootfs {
                rootfs: discarded,
                subpath: PathBuf::new(),
            },
            false,
        ),
        mount(
            "/one",
            MountSource::Rootfs {
                rootfs: readonly.clone(),
                subpath: "/file".into(),
            },
            true,
        ),
        mount("/run/secrets/x", secret, true),
        mount(
            "/t",
            MountSource::Tmpfs {
                size_bytes: Some(1 << 20),
                mode: 0o1777,
            },
            false,
        ),
        mount(
            "/b",
            MountSource::Rootfs {
                rootfs: readonly,
                subpath: PathBuf::new(),
            },
            true,
        ),
    ]
}

pub(crate) fn mounts_show_what_they_should() {
    let bench = Bench::new();
    let cache = bench.make_dir("cache/sub");
    fs::write(cache.join("kept"), "cached\n").unwrap();
    let other = bench.make_dir("other");
    fs::write(other.join("file"), "bound\n").unwrap();
    let upper = Upper {
        dir: bench.make_dir("throw"),
        work: bench.make_dir("throw-work"),
    };
    let discarded = Rootfs::Overlay {
        lower: vec![other.clone()],
        upper: Some(upper),
    };
    let readonly = Rootfs::Overlay {
        lower: vec![other.clone()],
        upper: None,
    };
    let mut process = bench.process(SHOW_MOUNTS);
    process.mounts = every_kind(&bench, discarded, readonly);
    // Something may be mounted inside a read-only mount only if its place is there already.
    assert_eq!(
        bench.refusal(&process),
        "cannot make mount point `/b/inner`: Read-only file system (os error 30)"
    );
    process.mounts.remove(0);
    bench.renew_upper();
    let ran = bench.run(&process);
    // Where there is only root, a secret is root's.
    let owner = if Ids::of_process() == Ids::One { "0:0" } else { "5:6" };
    let shown = format!("cached\nbound\nbound\ns3cret\nnew\n440 {owner}\n1777 0:0\n1\n1\n");
    assert!(ran.printed.starts_with(&shown), "{}", ran.printed);
    assert_eq!(
        ran.printed.matches("Read-only file system").count(),
        3,
        "{}",
        ran.printed
    );
    assert_eq!(fs::read(cache.join("new")).unwrap(), b"new\n");
    assert_eq!(fs::read(other.join("file")).unwrap(), b"bound\n");
    let stubs: BTreeSet<PathBuf> = ran.report.stubs.into_iter().collect();
    let expected = [
        "etc/hosts",
        "etc/resolv.conf",
        "b",
        "c",
        "w",
        "one",
        "run",
        "run/secrets",
        "run/secrets/x",
        "t",
    ];
    assert_eq!(stubs, BTreeSet::from(expected.map(PathBuf::from)));
    assert_eq!(
        fs::read(bench.path("upper/run/secrets/x")).unwrap(),
        b"",
        "the secret is not in the layer"
    );
}

pub(crate) fn mount_sources_and_targets_stay_inside() {
    let bench = Bench::new();
    let source = bench.make_dir("source");
    symlink("/", source.join("out")).unwrap();
    fs::write(source.join("mark"), "inside\n").unwrap();
    symlink("/../../tmp", bench.path("base/link")).unwrap();
    for subpath in ["out", "../../..", "out/../.."] {
        let mut process = bench.process("cat /link/x/mark");
        process.mounts = vec![mount(
            "/link/x",
            MountSource::Directory {
                path: source.clone(),
                subpath: subpath.into(),
            },
            true,
        )];
        bench.check_process(&process, "inside\n");
    }
    assert!(bench.path("upper/tmp/x").is_dir());
    assert!(!Path::new("/tmp/x/mark").exists());
}

pub(crate) fn mounts_into_kernel_file_systems_are_refused() {
    let bench = Bench::new();
    symlink("/proc/self", bench.path("base/me")).unwrap();
    for target in ["/proc/sys/kernel", "/me/fd", "/sys/kernel", "/proc"] {
        let mut process = bench.process("true");
        process.mounts = vec![mount(
            target,
            MountSource::Tmpfs {
                size_bytes: None,
                mode: 0o755,
            },
            false,
        )];
        assert_eq!(
            bench.refusal(&process),
            format!("mount target `{target}` leads into a file system of the kernel")
        );
    }
}
