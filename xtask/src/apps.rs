//! The applications of `testdata/apps`, for real: built through a registry and with the network, pushed, read back by other
//! programs, run from what those unpacked.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::base;
use crate::registry::Registry;
use crate::run::{check, command, is_installed, output, rbuild, repository, say};

/// Name, what its command prints, and what builds it here.
const APPS: &[(&str, &str)] = &[
    ("c", "hello, world"),
    ("python", "flask says hello"),
    ("node", "two days are 172800000 milliseconds"),
    ("ruby", "sinatra says hello"),
    ("nginx", ""),
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
    run(&[])
}

/// Builds, pushes, reads back and runs `names`, or all.
pub(crate) fn run(names: &[String]) -> Result<()> {
    let rbuild = rbuild()?.display().to_string();
    let registry = Registry::start()?;
    let debian = base::debian()?;
    let store = tempfile::tempdir()?;
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
        let mut build = command(
            &rbuild,
            &[
                "build",
                "--in-process",
                "--network=host",
                "--allow=network.host",
                "--push",
            ],
        );
        build
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
        let printed = run_unpacked(&image)?;
        if !printed.contains(expected) {
            bail!("{name}: its command printed {printed:?} instead of {expected:?}");
        }
        say(&format!("{name}: built, pushed, read back, run"));
        done += 1;
    }
    say(&format!("{done} applications passed"));
    Ok(())
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
fn run_unpacked(image: &str) -> Result<String> {
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
    run_config(&bundle)
}

/// Runs the process of an unpacked bundle by chroot: enough for programs that need nothing of a container.
fn run_config(bundle: &Path) -> Result<String> {
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
        return output(program.args(&arguments));
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
    output(&mut program)
}
