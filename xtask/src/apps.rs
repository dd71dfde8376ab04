//! The applications of `testdata/apps`, for real: built through a registry and with the network, pushed, read back by other
//! programs, run from what those unpacked.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::base;
use crate::registry::Registry;
use crate::run::{check, command, is_installed, output, rbuild, repository, say, target_dir};

/// Name, what its command prints, and what builds it here.
const APPS: &[(&str, &str)] = &[
    ("c", "hello, world"),
    ("python", "flask says hello"),
    ("node", "two days are 172800000 milliseconds"),
    ("ruby", "sinatra says hello"),
    ("nginx", "<!doctype html><title>rbuild</title><p>hello"),
];

/// Programs without which this cannot run.
const NEEDED: &[&str] = &["docker-registry", "skopeo", "umoci", "debootstrap", "chroot"];

/// Runs all applications where the packages are reachable, and says so loudly where they are not.
pub(crate) fn run_if_reachable() -> Result<()> {
    let missing: Vec<&&str> = NEEDED.iter().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        say(&format!("SKIPPED: applications, for want of {missing:?}"));
        return Ok(());
    }
    if let Err(error) = base::debian() {
        say(&format!(
            "SKIPPED: applications, since Debian's packages are out of reach: {error:#}"
        ));
        return Ok(());
    }
    run(&Options::default())?;
    // Once more where nothing can be mounted: the smallest of them does, since the end to end tests compare layers bit by bit.
    run(&Options {
        names: vec!["c".to_owned()],
        sandbox: Some("plain".to_owned()),
        ..Options::default()
    })
}

/// What is built, and by whom.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only these.
    names: Vec<String>,
    /// Build as this user instead of root.
    #[arg(long, value_name = "NAME")]
    as_user: Option<String>,
    /// Ask for this kind of sandbox, as `rbuild --sandbox` takes it.
    #[arg(long, value_name = "KIND")]
    sandbox: Option<String>,
}

impl Options {
    /// `rbuild`, run by who is wanted. A user of their own gets the directory `home`.
    fn rbuild(&self, rbuild: &str, home: &Path) -> Result<Command> {
        let mut wanted = match &self.as_user {
            None if self.sandbox.as_deref() == Some("plain") => in_a_container(rbuild, &home.join("container"))?,
            None => Command::new(rbuild),
            Some(user) => {
                check(command("chown", &[user]).arg(home))?;
                let mut wanted = command(
                    "setpriv",
                    &["--reuid", user, "--regid", user, "--init-groups", "--", rbuild],
                );
                wanted.env("HOME", home);
                wanted
            }
        };
        wanted.args(self.sandbox.iter().flat_map(|kind| ["--sandbox", kind]));
        Ok(wanted)
    }
}

/// Builds, pushes, reads back and runs the applications that are wanted, or all.
pub(crate) fn run(options: &Options) -> Result<()> {
    let names = &options.names;
    let rbuild = rbuild()?.display().to_string();
    let registry = Registry::start()?;
    let debian = base::debian()?;
    let store = tempfile::tempdir()?;
    fs::set_permissions(store.path(), fs::Permissions::from_mode(0o755))?;
    let debian_image = format!("{}/debian:12", registry.address());
    check(
        command("skopeo", &["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", debian.display()))
            .arg(format!("docker://{debian_image}")),
    )?;
    let mut done = 0;
    for (name, expected) in APPS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let context = repository().join("testdata/apps").join(name);
        let image = format!("{}/apps/{name}:1", registry.address());
        let mut build = options.rbuild(&rbuild, store.path())?;
        build
            .args([
                "build",
                "--in-process",
                "--network=host",
                "--allow=network.host",
                "--push",
            ])
            .arg("--root")
            .arg(store.path().join("store"))
            .arg("--build-arg")
            .arg(format!("BASE={debian_image}"));
        if *name == "ruby" && !gems_reachable() {
            say("ruby: RubyGems is out of reach, Sinatra comes from Debian");
            build.args(["--build-arg", "SINATRA=debian"]);
        }
        build.args(["--tag", &image]).arg(&context);
        if let Err(error) = check(&mut build) {
            // Package mirrors fail now and then; what already ran is in the cache.
            say(&format!("{name}: once more, after {error:#}"));
            check(&mut build)?;
        }
        let printed = run_unpacked(&image, *name == "nginx")?;
        if !printed.contains(expected) {
            bail!("{name}: its command printed {printed:?} instead of {expected:?}");
        }
        say(&format!("{name}: built, pushed, read back, run"));
        done += 1;
    }
    say(&format!("{done} applications passed"));
    Ok(())
}

/// `rbuild` in a plain container with its files in `state`: the sandbox for these is tried where it belongs.
fn in_a_container(rbuild: &str, state: &Path) -> Result<Command> {
    let example = ["build", "--workspace", "--example", "plain_container"];
    check(command("cargo", &example).current_dir(repository()))?;
    fs::create_dir_all(state)?;
    let mut container = command(repository().join("testdata/plain-container.sh"), &["overlay"]);
    container
        .arg(state)
        .arg(rbuild)
        .env("PLAIN_CONTAINER", target_dir().join("debug/examples/plain_container"));
    Ok(container)
}

fn gems_reachable() -> bool {
    let mut probe = command(
        "curl",
        &[
            "--silent",
            "--fail",
            "--max-time",
            "5",
            "--output",
            "/dev/null",
            "https://rubygems.org/",
        ],
    );
    probe.status().is_ok_and(|status| status.success())
}

/// Reads the image back with skopeo and umoci, checks the manifest, and runs its command in what umoci unpacked.
fn run_unpacked(image: &str, serves: bool) -> Result<String> {
    let raw = output(command("skopeo", &["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{image}")))?;
    let manifest: Value = serde_json::from_str(&raw).context("the manifest is no JSON")?;
    if manifest["mediaType"] != "application/vnd.oci.image.manifest.v1+json" {
        bail!("{image}: unexpected manifest {raw}");
    }
    let work = tempfile::tempdir()?;
    let layout = work.path().join("layout");
    let mut copy = command("skopeo", &["copy", "--quiet", "--src-tls-verify=false"]);
    check(
        copy.arg(format!("docker://{image}"))
            .arg(format!("oci:{}:app", layout.display())),
    )?;
    let bundle = work.path().join("bundle");
    let mut unpack = command("umoci", &["unpack", "--image"]);
    check(unpack.arg(format!("{}:app", layout.display())).arg(&bundle))?;
    let mut program = program_of(&bundle)?;
    if serves {
        ask(&mut program)
    } else {
        output(&mut program)
    }
}

/// Where the web server of the applications listens.
const WEB_ADDRESS: &str = "127.0.0.1:8080";

/// Starts a web server, asks it for its first page, and ends it.
fn ask(program: &mut Command) -> Result<String> {
    let mut server = program.spawn().context("cannot start the web server")?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        match TcpStream::connect(WEB_ADDRESS) {
            Ok(mut connection) => {
                connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                break connection.read_to_string(&mut answer).map(|_| answer);
            }
            Err(error) if Instant::now() > deadline => break Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    // SIGTERM, so that it ends its workers too.
    check(&mut command("kill", &[server.id().to_string()]))?;
    server.wait()?;
    answer.with_context(|| format!("the web server does not answer on {WEB_ADDRESS}"))
}

/// The process of an unpacked bundle, run by chroot: enough for programs that need nothing of a container.
fn program_of(bundle: &Path) -> Result<Command> {
    let config: Value = serde_json::from_str(&fs::read_to_string(bundle.join("config.json"))?)?;
    let process = &config["process"];
    let words = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect()
    };
    let (arguments, environment) = (words(&process["args"]), words(&process["env"]));
    let directory = process["cwd"].as_str().unwrap_or("/");
    let root = bundle.join("rootfs");
    let dev = root.join("dev");
    fs::create_dir_all(&dev)?;
    if !dev.join("null").exists() {
        check(
            command("mknod", &["-m", "666"])
                .arg(dev.join("null"))
                .args(["c", "1", "3"]),
        )?;
    }
    if !root.join("bin/sh").exists() {
        let mut program = command("chroot", &[root.as_os_str()]);
        program.args(&arguments);
        return Ok(program);
    }
    let mut program = command("chroot", &[root.as_os_str()]);
    program
        .args(["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", directory])
        .args(&arguments)
        .env_clear();
    for variable in &environment {
        if let Some((name, value)) = variable.split_once('=') {
            program.env(name, value);
        }
    }
    Ok(program)
}
