//! A root filesystem of busybox, and an executor to run it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use builder::executor::{
    ExecError, Executor, ExitReport, MountSource, NamespaceExecutor, Network, Outcome, OutputChunk, Process, Security,
    Speaker,
};
use builder::limits::Limits;
use builder::snapshot::rootfs::{Rootfs, Upper};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const APPLETS: &str = "sh cat ls id env pwd stat echo mkdir touch mount umount unshare ip sleep setsid grep wc df rm ln chmod kill \
                       hostname mknod true nc wget readlink test find dd seq printf cut sed head";

/// What this machine lacks for the tests, if anything.
pub(crate) fn lacking() -> Option<String> {
    if !Path::new("/bin/busybox").exists() {
        return Some("there is no static busybox in /bin".to_owned());
    }
    let missing = builder::executor::probe().into_iter().find(|fact| !fact.ok);
    missing.map(|fact| format!("{}: {}", fact.name, fact.found))
}

/// Whether a test that cannot run here is a failure.
#[expect(
    clippy::disallowed_methods,
    reason = "the switch that turns skipped tests into failures"
)]
pub(crate) fn required() -> bool {
    std::env::var("RBUILD_TEST_REQUIRE").is_ok_and(|value| value == "all")
}

/// Says that a test is skipped.
pub(crate) fn skip(test: &str, lacking: &str) {
    let line = format!("SKIPPED {test}: it needs {lacking}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) executor: NamespaceExecutor,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.runtime.block_on(self.executor.finish());
    }
}

pub(crate) struct Ran {
    pub(crate) report: ExitReport,
    /// By the step, on either stream.
    pub(crate) printed: String,
    /// By the executor.
    pub(crate) said: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        for name in ["bin", "etc", "tmp", "root", "dev", "proc", "sys"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(
            base.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\njoe:x:55:66::/home/joe:/bin/sh\n",
        )
        .unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\ngrp:x:77:joe\n").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let bench = Self {
            dir,
            executor: NamespaceExecutor::new().unwrap(),
            runtime,
        };
        bench.renew_upper();
        bench
    }

    /// Starts with nothing written.
    pub(crate) fn renew_upper(&self) {
        if self.path("upper").exists() {
            fs::remove_dir_all(self.path("upper")).unwrap();
        }
        fs::create_dir(self.path("upper")).unwrap();
    }

    /// A directory for one overlay mount.
    fn fresh_work(&self) -> PathBuf {
        let work = tempfile::Builder::new().prefix("work-").tempdir_in(self.dir.path());
        work.unwrap().keep()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn make_dir(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.path(name)).unwrap();
        self.path(name)
    }

    /// A shell script as a step without network.
    pub(crate) fn process(&self, script: &str) -> Process {
        let upper = Upper {
            dir: self.path("upper"),
            work: self.fresh_work(),
        };
        Process {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: None,
            network: Network::None,
            security: Security::Sandbox,
            devices: Vec::new(),
            extra_hosts: Vec::new(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.path("base")],
                upper: Some(upper),
            },
            mounts: Vec::new(),
            shm_size_bytes: None,
            files: Vec::new(),
            limits: Limits::default(),
            ca_bundle: None,
        }
    }

    pub(crate) fn attempt(&self, process: &Process) -> Result<Ran, ExecError> {
        let mut process = process.clone();
        let mounted = process.mounts.iter_mut().filter_map(|mount| match &mut mount.source {
            MountSource::Rootfs { rootfs, .. } => Some(rootfs),
            _ => None,
        });
        for rootfs in mounted.chain([&mut process.rootfs]) {
            if let Rootfs::Overlay { upper: Some(upper), .. } = rootfs {
                upper.work = self.fresh_work();
            }
        }
        let (sender, mut receiver) = mpsc::channel::<OutputChunk>(16);
        self.runtime.block_on(async {
            let collect = async {
                let mut texts: [Vec<u8>; 2] = Default::default();
                while let Some((speaker, bytes)) = receiver.recv().await {
                    texts[usize::from(speaker == Speaker::Executor)].extend_from_slice(&bytes);
                }
                texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            };
            let run = self.executor.run(&process, sender, CancellationToken::new());
            let (report, [printed, said]) = tokio::join!(run, collect);
            report.map(|report| Ran { report, printed, said })
        })
    }

    #[track_caller]
    pub(crate) fn run(&self, process: &Process) -> Ran {
        self.attempt(process).unwrap()
    }

    /// The message of a step that must be refused.
    #[track_caller]
    pub(crate) fn refusal(&self, process: &Process) -> String {
        match self.attempt(process) {
            Err(ExecError::Refused { message }) => message,
            Err(error) => panic!("another error: {error:?}"),
            Ok(ran) => panic!("it ran: {:?}", ran.report),
        }
    }

    /// Compares what is printed by a script that must succeed.
    #[track_caller]
    pub(crate) fn check(&self, script: &str, expected: &str) {
        self.check_process(&self.process(script), expected);
    }

    #[track_caller]
    pub(crate) fn check_process(&self, process: &Process, expected: &str) {
        let ran = self.run(process);
        assert_eq!(
            ran.printed, expected,
            "{:?}: {:?} {}",
            process.args, ran.report, ran.said
        );
        assert_eq!(ran.report.outcome, Outcome::Code(0));
    }
}
