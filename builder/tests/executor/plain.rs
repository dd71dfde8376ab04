//! The sandbox of a plain container with real processes. Nothing of it needs a privilege that such a container lacks.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder::executor::{
    ChrootExecutor, ExecError, Executor, MountSource, Network, Outcome, Process, SecretValue, Security, Speaker,
    StepMount,
};
use builder::snapshot::rootfs::{Rootfs, Upper};
use cache::budget::Budget;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, Ran};

/// An executor whose steps run on the base of a bench, each with an upper directory of its own.
struct Plain {
    bench: Bench,
    executor: ChrootExecutor,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.bench.runtime.block_on(self.executor.finish());
        assert_eq!(self.trees(), [""; 0], "no tree is left");
    }
}

impl Plain {
    fn new() -> Self {
        let bench = Bench::new();
        let (program, trees) = (std::env::current_exe().unwrap(), bench.path("trees"));
        let executor = ChrootExecutor::open(&program, &trees, Arc::new(Budget::default())).unwrap();
        Self { bench, executor }
    }

    /// Directories of trees.
    fn trees(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bench.path("trees")).unwrap().map(Result::unwrap);
        let directories = entries.filter(|entry| entry.path().is_dir());
        directories
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    /// A step whose changes go to the directory `upper`, over these layers, the topmost first.
    fn step(&self, script: &str, upper: &str, lower: &[&str]) -> Process {
        let mut process = self.bench.process(script);
        process.network = Network::Default;
        process.rootfs = Rootfs::Overlay {
            lower: lower.iter().map(|name| self.bench.path(name)).collect(),
            upper: Some(Upper {
                dir: self.bench.make_dir(upper),
                work: self.bench.make_dir("work"),
            }),
        };
        process
    }

    fn attempt(&self, process: &Process) -> Result<Ran, ExecError> {
        let (sender, mut receiver) = mpsc::channel::<builder::executor::OutputChunk>(16);
        self.bench.runtime.block_on(async {
            let collect = async {
                let mut texts: [Vec<u8>; 2] = Default::default();
                while let Some((speaker, bytes)) = receiver.recv().await {
                    texts[usize::from(speaker == Speaker::Executor)].extend_from_slice(&bytes);
                }
                texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            };
            let run = self.executor.run(process, sender, CancellationToken::new());
            let (report, [printed, said]) = tokio::join!(run, collect);
            report.map(|report| Ran { report, printed, said })
        })
    }

    #[track_caller]
    fn check(&self, process: &Process, expected: &str) {
        let ran = self.attempt(process).unwrap();
        assert_eq!(ran.printed, expected, "{:?} {}", ran.report, ran.said);
        assert_eq!(ran.report.outcome, Outcome::Code(0), "{expected}");
    }
}

/// Everything below a directory, as `path`, with `/` for directories, `-` before marks of removal.
fn shown(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, top: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, stat) = (entry.path(), fs::symlink_metadata(entry.path()).unwrap());
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let is_gone = stat.rdev() == 0 && stat.mode() & 0o170_000 == 0o020_000;
            found.push(match (stat.is_dir(), is_gone) {
                (true, _) => format!("{name}/"),
                (_, true) => format!("-{name}"),
                _ => name,
            });
            if stat.is_dir() {
                walk(&path, top, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

pub(crate) fn plain_steps_print_and_end_as_anywhere() {
    let plain = Plain::new();
    let script = "i=0; while [ $i -lt 50 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done; echo d > /dev/stdout; \
                  echo f > /dev/stderr; (echo g > /dev/fd/2); cat < /dev/stdin; exit 7";
    let ran = plain.attempt(&plain.step(script, "one", &["base"])).unwrap();
    let turns: String = (0..50).map(|turn| format!("o{turn}\ne{turn}\n")).collect();
    assert_eq!(
        (ran.printed, ran.report.outcome),
        (format!("{turns}d\nf\ng\n"), Outcome::Code(7))
    );
    let killed = plain
        .attempt(&plain.step("printf part; kill -KILL $$", "two", &["base"]))
        .unwrap();
    assert_eq!(
        (killed.printed.as_str(), killed.report.outcome),
        ("part", Outcome::Signal(9))
    );
    let large = plain.step("dd if=/dev/zero bs=64k count=64 2>/dev/null", "three", &["base"]);
    assert_eq!(plain.attempt(&large).unwrap().printed.len(), 4 << 20);
    let user = Process {
        user: "joe".to_owned(),
        ..plain.step("id -u; id -G; echo x > /dev/stdout", "four", &["base"])
    };
    plain.check(&user, "55\n66 77\nx\n");
    let missing = Process {
        args: vec!["nosuch".to_owned()],
        ..plain.step("", "five", &["base"])
    };
    assert_eq!(plain.attempt(&missing).unwrap().report.outcome, Outcome::Code(127));
}

pub(crate) fn plain_changes_are_found_and_nothing_else_is() {
    let plain = Plain::new();
    for (name, text) in [
        ("kept", "kept"),
        ("same", "same"),
        ("gone", "gone"),
        ("etc/deep/x", "x"),
        ("mode", ""),
    ] {
        fs::create_dir_all(plain.bench.path("base/etc/deep")).unwrap();
        fs::write(plain.bench.path("base").join(name), text).unwrap();
    }
    let script = "rm /gone; touch -r /same /t; printf SAME > /same; touch -r /t /same; rm /t; mkdir -p /new/dir; \
                  echo n > /new/dir/file; chmod 600 /mode; rm -r /etc/deep; ln -s x /etc/link; mkdir /tmp/d; rmdir /tmp/d";
    plain.check(&plain.step(script, "upper", &["base"]), "");
    let found = shown(&plain.bench.path("upper"));
    // What only looks touched is sorted out where the directory is read.
    let touched = ["dev/", "proc/", "sys/", "tmp/"];
    let found: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|name| !touched.contains(name))
        .collect();
    let expected = [
        "-etc/deep",
        "-gone",
        "etc/",
        "etc/link",
        "mode",
        "new/",
        "new/dir/",
        "new/dir/file",
        "same",
    ];
    assert_eq!(found, expected);
    assert_eq!(fs::read_to_string(plain.bench.path("upper/same")).unwrap(), "SAME");
    assert_eq!(
        fs::read_to_string(plain.bench.path("base/same")).unwrap(),
        "same",
        "the layer below stays"
    );
}

pub(crate) fn plain_chains_of_steps_share_one_tree() {
    let plain = Plain::new();
    fs::write(plain.bench.path("base/file"), "base\n").unwrap();
    plain.check(
        &plain.step("echo one >> /file; echo > /extra; rm /bin/seq", "one", &["base"]),
        "",
    );
    let second = "cat /file; rm /extra; mkdir /extra; echo > /extra/x; test -e /bin/seq || echo gone";
    plain.check(&plain.step(second, "two", &["one", "base"]), "base\none\ngone\n");
    assert_eq!(plain.trees(), ["0"], "it is the same tree");
    // A failure changes nothing for who comes after it.
    let failing = plain
        .attempt(&plain.step("rm -rf /file /extra; exit 1", "lost", &["two", "one", "base"]))
        .unwrap();
    assert_eq!(failing.report.outcome, Outcome::Code(1));
    plain.check(
        &plain.step("cat /file; ls /extra", "three", &["two", "one", "base"]),
        "base\none\nx\n",
    );
    assert_eq!(plain.trees(), ["0"]);
    // What is below is not what that tree shows any more.
    plain.check(
        &plain.step("cat /file; ls /bin/seq", "other", &["base"]),
        "base\n/bin/seq\n",
    );
}

pub(crate) fn plain_steps_end_with_all_that_they_started() {
    let plain = Plain::new();
    let nap = format!("7{:08}5", std::process::id());
    let script =
        format!("setsid sh -c 'trap \"\" TERM HUP; (setsid sleep {nap} &) ; sleep {nap}' & sleep {nap} & echo done");
    plain.check(&plain.step(&script, "upper", &["base"]), "done\n");
    assert!(!crate::ends::running(&nap));
    let (sender, mut receiver) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let process = plain.step(
        &format!("(setsid sleep {nap} &); echo ready; sleep {nap}"),
        "two",
        &["base"],
    );
    let ended = plain.bench.runtime.block_on(async {
        let trigger = async {
            receiver.recv().await;
            cancel.cancel();
            while receiver.recv().await.is_some() {}
        };
        tokio::join!(plain.executor.run(&process, sender, cancel.clone()), trigger).0
    });
    assert!(matches!(ended, Err(ExecError::Cancelled)), "{ended:?}");
    assert!(!crate::ends::running(&nap));
}

pub(crate) fn plain_steps_harm_neither_the_engine_nor_what_is_outside() {
    let plain = Plain::new();
    let own = std::process::id();
    let script = format!(
        "for p in -1 1 {own} -{own}; do kill -9 $p 2>/dev/null || echo refused; done; sleep 1000 & kill -9 $! && echo own; \
         chroot /tmp /bin/true 2>/dev/null || echo no chroot; mkdir /tmp/m; mount -t tmpfs x /tmp/m 2>/dev/null || echo no mount; \
         ls /../../.. | grep -c trees; ls /proc/self /proc/{own} 2>/dev/null | wc -l"
    );
    let expected = "refused\nrefused\nrefused\nrefused\nown\nno chroot\nno mount\n0\n0\n";
    plain.check(&plain.step(&script, "upper", &["base"]), expected);
    let insecure = Process {
        security: Security::Insecure,
        ..plain.step("true", "two", &["base"])
    };
    assert!(matches!(plain.attempt(&insecure), Err(ExecError::Refused { .. })));
}

pub(crate) fn plain_steps_without_network_have_local_sockets_only() {
    let plain = Plain::new();
    let script = "nc -w 1 127.0.0.1 1 2>&1 | grep -c 'not supported'; wc -c < /etc/resolv.conf";
    for user in ["", "joe"] {
        let process = Process {
            network: Network::None,
            user: user.to_owned(),
            ..plain.step(script, &format!("upper{user}"), &["base"])
        };
        plain.check(&process, "1\n0\n");
    }
}

fn mount(target: &str, source: MountSource, readonly: bool) -> StepMount {
    StepMount {
        target: target.to_owned(),
        source,
        readonly,
    }
}

pub(crate) fn plain_mounts_come_and_go() {
    let plain = Plain::new();
    let path = |name: &str| plain.bench.path(name);
    for name in ["cache", "other/sub", "base/c"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("cache/kept"), "cached\n").unwrap();
    fs::write(path("other/sub/file"), "bound\n").unwrap();
    symlink("/sub", path("other/link")).unwrap();
    fs::write(path("base/c/image"), "image").unwrap();
    fs::write(path("base/etc/hosts"), "mine\n").unwrap();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
    for name in ["base/etc/hosts", "base/etc"] {
        fs::File::open(path(name)).unwrap().set_modified(long_ago).unwrap();
    }
    let rootfs = Rootfs::Overlay {
        lower: vec![path("other")],
        upper: None,
    };
    let secret = MountSource::Secret {
        value: SecretValue(b"s3cret\n".to_vec()),
        mode: 0o440,
        uid: 5,
        gid: 6,
    };
    let mut process = plain.step(
        "cat /c/kept /b/file /run/secrets/x; ls /c; echo new > /c/new; echo lost > /b/lost; stat -c '%a %u:%g' /run/secrets/x /t; \
         grep -c localhost /etc/hosts; echo y >> /etc/passwd; ln /run/secrets/x /stolen",
        "upper",
        &["base"],
    );
    process.mounts = vec![
        mount("/run/secrets/x", secret, true),
        mount(
            "/c",
            MountSource::Directory {
                path: path("cache"),
                subpath: PathBuf::new(),
            },
            false,
        ),
        mount(
            "/b",
            MountSource::Rootfs {
                rootfs,
                subpath: "/link".into(),
            },
            true,
        ),
        mount(
            "/t",
            MountSource::Tmpfs {
                size_bytes: None,
                mode: 0o1777,
            },
            false,
        ),
    ];
    plain.check(&process, "cached\nbound\ns3cret\nkept\n440 5:6\n1777 0:0\n2\n");
    assert_eq!(
        fs::read(path("cache/new")).unwrap(),
        b"new\n",
        "a cache keeps what was written"
    );
    assert!(!path("other/sub/lost").exists());
    assert_eq!(
        fs::read(path("upper/stolen")).unwrap(),
        b"",
        "nothing is left of a secret"
    );
    let after = "cat /etc/hosts.copy /c/image 2>/dev/null; ls / | grep -c '^[bt]$'; ls -d /run 2>/dev/null; true";
    plain.check(&plain.step(after, "two", &["upper", "base"]), "image0\n");
    // The step read a generated file; the image's own is as it was, and so is the time of its directory.
    let hosts = fs::metadata(path("upper/etc/hosts")).unwrap();
    assert_eq!((hosts.len(), hosts.modified().unwrap()), (5, long_ago));
    assert_eq!(fs::metadata(path("upper/etc")).unwrap().modified().unwrap(), long_ago);
    process.mounts.push(process.mounts[1].clone());
    assert!(
        matches!(plain.attempt(&process), Err(ExecError::Refused { .. })),
        "a cache in two places"
    );
    let machine = MountSource::Tmpfs {
        size_bytes: None,
        mode: 0o755,
    };
    for target in ["/proc/sys", "/sys", "/dev", "/"] {
        process.mounts = vec![mount(target, machine.clone(), false)];
        assert!(
            matches!(plain.attempt(&process), Err(ExecError::Refused { .. })),
            "{target}"
        );
    }
}

pub(crate) fn plain_trees_of_a_dead_engine_give_back_what_was_lent() {
    let plain = Plain::new();
    let path = |name: &str| plain.bench.path(name);
    fs::create_dir_all(path("dead/0/aside")).unwrap();
    fs::create_dir_all(path("dead/0/root/c")).unwrap();
    fs::create_dir(path("home")).unwrap();
    fs::write(path("dead/0/root/c/kept"), "").unwrap();
    let note = format!(
        "{{\"directories\":[[{:?},{:?}]],\"secrets\":[]}}",
        path("dead/0/root/c"),
        path("home")
    );
    fs::write(path("dead/0/aside/lent.json"), note).unwrap();
    let program = std::env::current_exe().unwrap();
    drop(ChrootExecutor::open(&program, &path("dead"), Arc::new(Budget::default())).unwrap());
    assert!(path("home/kept").exists());
    assert_eq!(shown(&path("dead")), ["lock"]);
}
