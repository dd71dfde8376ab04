//! Whole builds, timed: rbuild beside BuildKit (in Debian's docker) and buildah, in turn, in one run.
//!
//! Only ratios of medians mean anything: machines are shared, and every engine suffers alike when they are used in turn. Each
//! engine keeps its state in a directory of its own; nothing else should run meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::base;
use crate::registry::Registry;
use crate::run::{check, command, is_installed, output, rbuild, repository, say};

/// One kind of build.
struct Workload {
    name: &'static str,
    /// Lines after `FROM`.
    dockerfile: fn() -> String,
    /// Whether the steps run, or all come from the cache.
    cached: bool,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "tiny, no cache",
        dockerfile: tiny,
        cached: false,
    },
    Workload {
        name: "tiny, cached",
        dockerfile: tiny,
        cached: true,
    },
    Workload {
        name: "30 instructions, no cache",
        dockerfile: thirty,
        cached: false,
    },
    Workload {
        name: "30 instructions, cached",
        dockerfile: thirty,
        cached: true,
    },
    Workload {
        name: "60 RUN, no cache",
        dockerfile: sixty,
        cached: false,
    },
    Workload {
        name: "60 RUN, cached",
        dockerfile: sixty,
        cached: true,
    },
];

fn tiny() -> String {
    "RUN echo hello > /hello\nCOPY file0 /file0\nCMD [\"sh\"]\n".to_owned()
}

fn thirty() -> String {
    let mut text = String::new();
    for n in 0..5 {
        text += &format!("ENV NAME{n}=value\nCOPY file{n} /files/{n}\nLABEL label{n}=x\n");
        text += &format!("RUN echo {n} > /a{n}\nRUN echo {n} > /b{n}\nRUN echo {n} > /c{n}\n");
    }
    text
}

fn sixty() -> String {
    (0..60).map(|n| format!("RUN echo {n} > /file{n}\n")).collect()
}

/// The command that builds a context, without cache if the second argument says so.
type Build = Box<dyn Fn(&Path, bool) -> Command>;

/// A builder that can be timed.
struct Engine {
    name: &'static str,
    build: Build,
}

/// Times all workloads, or those whose name contains one of `names`.
pub(crate) fn run(rounds: usize, names: &[String]) -> Result<()> {
    if names.iter().any(|name| name == "frontend") {
        return frontend();
    }
    let work = tempfile::Builder::new().prefix("rbuild-bench").tempdir_in("/var/tmp")?;
    let registry = Registry::start()?;
    let image = format!("{}/busybox:1", registry.address());
    let layout = base::busybox()?;
    check(
        command("skopeo", &["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{image}")),
    )?;
    let dockerd = Dockerd::start(work.path())?;
    let _server = Server::start(&rbuild()?, &work.path().join("rbuild"))?;
    let engines = engines(work.path(), dockerd.as_ref())?;
    say(&format!(
        "{:<28}{}",
        "median seconds",
        engines.iter().map(|e| format!("{:>12}", e.name)).collect::<String>()
    ));
    for workload in WORKLOADS {
        if names.is_empty() || names.iter().any(|name| workload.name.contains(name.as_str())) {
            compare(workload, &engines, rounds, &image)?;
        }
    }
    Ok(())
}

/// Times what needs no builder: reading Dockerfiles and deciding about paths.
fn frontend() -> Result<()> {
    let arguments = ["bench", "--quiet", "--package", "rbuild-frontend", "--bench", "speed"];
    check(command("cargo", &arguments).current_dir(repository()))
}

fn compare(workload: &Workload, engines: &[Engine], rounds: usize, image: &str) -> Result<()> {
    let context = tempfile::tempdir()?;
    fs::write(
        context.path().join("Dockerfile"),
        format!("FROM {image}\n{}", (workload.dockerfile)()),
    )?;
    for n in 0..5 {
        fs::write(context.path().join(format!("file{n}")), format!("{n}\n"))?;
    }
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); engines.len()];
    for engine in engines {
        output(&mut (engine.build)(context.path(), false))?;
    }
    for _ in 0..rounds {
        for (engine, times) in engines.iter().zip(&mut times) {
            let started = Instant::now();
            output(&mut (engine.build)(context.path(), !workload.cached))?;
            times.push(started.elapsed());
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let cells: String = medians.iter().map(|seconds| format!("{seconds:>12.3}")).collect();
    let ratios: Vec<String> = engines
        .iter()
        .zip(&medians)
        .skip(1)
        .map(|(e, m)| format!("{:.1}× {}", m / medians[0], e.name))
        .collect();
    say(&format!(
        "{:<28}{cells}   faster than the others by {}",
        workload.name,
        ratios.join(", ")
    ));
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn engines(work: &Path, dockerd: Option<&Dockerd>) -> Result<Vec<Engine>> {
    let program = rbuild()?;
    let root = work.join("rbuild");
    let mut engines = vec![Engine {
        name: "rbuild",
        build: Box::new(move |context, no_cache| {
            let mut build = Command::new(&program);
            build.args(["build", "--quiet", "--tag", "bench", "--root"]).arg(&root);
            if no_cache {
                build.arg("--no-cache");
            }
            build.arg(context);
            build
        }),
    }];
    if let Some(dockerd) = dockerd {
        let host = dockerd.host.clone();
        engines.push(Engine {
            name: "docker",
            build: Box::new(move |context, no_cache| {
                let mut build = Command::new("/usr/bin/docker");
                build.env("DOCKER_BUILDKIT", "1").args([
                    "--host",
                    &host,
                    "build",
                    "--quiet",
                    "--network=host",
                    "--tag",
                    "bench",
                ]);
                if no_cache {
                    build.arg("--no-cache");
                }
                build.arg(context);
                build
            }),
        });
    }
    if is_installed("buildah") {
        engines.push(buildah(work)?);
    } else {
        say("SKIPPED: buildah is not installed");
    }
    Ok(engines)
}

fn buildah(work: &Path) -> Result<Engine> {
    let (root, run) = (work.join("buildah"), work.join("buildah-run"));
    let config = work.join("containers.conf");
    fs::write(
        &config,
        "[containers]\ndefault_ulimits = [\"nofile=1024:4096\"]\n[engine]\nruntime = \"runc\"\n",
    )?;
    let build = move |context: &Path, no_cache: bool| {
        let mut build = Command::new("buildah");
        build
            .env("CONTAINERS_CONF", &config)
            .arg("--root")
            .arg(&root)
            .arg("--runroot")
            .arg(&run);
        build.args([
            "build",
            "--quiet",
            "--layers",
            "--runtime=runc",
            "--network=host",
            "--tls-verify=false",
            "--tag=bench",
        ]);
        if no_cache {
            build.arg("--no-cache");
        }
        build.arg(context);
        build
    };
    Ok(Engine {
        name: "buildah",
        build: Box::new(build),
    })
}

/// Our own server with its own state, ended with this value.
struct Server(Child);

impl Server {
    fn start(program: &Path, root: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--root").arg(root);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.context("cannot start `rbuild serve`")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that it takes everything of its steps with it.
        let mut end = command("kill", &[self.0.id().to_string()]);
        drop(end.status());
        drop(self.0.wait());
    }
}

/// Debian's docker daemon with its own state, ended with this value.
struct Dockerd {
    child: Child,
    host: String,
    _exec: TempDir,
}

impl Dockerd {
    fn start(work: &Path) -> Result<Option<Self>> {
        if !is_installed("dockerd") {
            say("SKIPPED: dockerd is not installed");
            return Ok(None);
        }
        let exec = tempfile::tempdir()?;
        let socket: PathBuf = exec.path().join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let log = fs::File::create(work.join("dockerd.log"))?;
        let mut command = Command::new("dockerd");
        command
            .arg("--data-root")
            .arg(work.join("docker"))
            .arg("--exec-root")
            .arg(exec.path().join("exec"));
        command
            .arg("--pidfile")
            .arg(exec.path().join("pid"))
            .args(["--host", &host]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start `dockerd`")?;
        let mut dockerd = Self {
            child,
            host,
            _exec: exec,
        };
        dockerd.wait(&socket)?;
        Ok(Some(dockerd))
    }

    fn wait(&mut self, socket: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("`dockerd` ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("`dockerd` does not answer");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its containers and mounts with it.
        let mut end = command("kill", &[self.child.id().to_string()]);
        drop(end.status());
        drop(self.child.wait());
    }
}
