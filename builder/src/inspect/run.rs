//! One process that somebody talks to, on a snapshot that is thrown away.

use proto::entitlement::{Entitlement, Entitlements};
use proto::oci::Config;
use proto::v1;
use proto::v1::exec_root::Root;
use tokio::sync::mpsc;

use super::ground::{self, Ground};
use super::mounts::{Held, Prepared};
use super::setup::{Setup, network_of};
use crate::build::{Job, check_granted};
use crate::executor::{Attached, ExecError, ExitReport, Network, OutputChunk, Process, Security};
use crate::limits::Limits;
use crate::request::{Blame, BuildError, entitlements_from_wire, network_from_wire};

/// Where programs are looked for if nothing says it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Signals that images ask to be stopped with.
const SIGNALS: [(&str, u8); 10] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("WINCH", 28),
    ("RTMIN+3", 37),
];
/// Runs the best shell there is.
const ANY_SHELL: [&str; 3] = [
    "/bin/sh",
    "-c",
    "command -v bash >/dev/null 2>&1 && exec bash; exec /bin/sh",
];

/// Runs what `start` asks for to its end. Nothing of it is left then.
///
/// # Errors
/// What it should run on is not there; what it should have cannot be given to it.
pub async fn run(
    start: &v1::ExecStart,
    job: &Job,
    mut attached: Attached,
    output: mpsc::Sender<OutputChunk>,
) -> Result<ExitReport, BuildError> {
    let mut ground = find(start, job)?;
    let args = args(start, &ground)?;
    adjust(start, &mut ground.setup, job.host.hardened)?;
    allow(start, &ground.setup, job)?;
    let said = ground.image.as_ref().map(|config| config.stop_signal.as_str());
    attached.stop_signal = said.and_then(signal_of);
    job.step("[internal] look inside", async |step| {
        job.host.executor.expect_step();
        job.host.layers.unpack(&ground.stack, job, step).await?;
        let mut held = Held::default();
        let ended = match held.prepare(&ground, job, step).await {
            Ok(prepared) => {
                let process = process(args, ground.setup.clone(), prepared, job.host.limits_for(&job.session));
                job.host
                    .executor
                    .attach(&process, attached, output, job.cancel.clone())
                    .await
                    .map_err(failure)
            }
            Err(error) => Err(error),
        };
        held.release(job).await?;
        ended
    })
    .await
}

fn find(start: &v1::ExecStart, job: &Job) -> Result<Ground, BuildError> {
    match ground::root_of(start.root.clone())? {
        Root::Image(name) => ground::of_image(&name, &start.platform, &start.secret_files, job),
        root => ground::find(&root, &start.platform, job),
    }
}

/// Program and arguments, as `docker run` puts them together.
fn args(start: &v1::ExecStart, ground: &Ground) -> Result<Vec<String>, BuildError> {
    let args = match (&ground.image, start.args.as_slice()) {
        (Some(config), given) => args_of_image(config, &start.entrypoint, given),
        (None, []) if !start.shell.is_empty() => vec![start.shell.clone()],
        (None, []) => ANY_SHELL.map(str::to_owned).to_vec(),
        (None, given) => given.to_vec(),
    };
    if args.is_empty() {
        return Err(BuildError::user("the image does not say what to run").help("name a program behind the image"));
    }
    Ok(args)
}

fn args_of_image(config: &Config, entrypoint: &[String], given: &[String]) -> Vec<String> {
    let (own_entrypoint, own_command) = (config.entrypoint.as_deref(), config.cmd.as_deref());
    let command = match given {
        // Whoever says another entry point does not want arguments that were meant for the old one.
        [] if entrypoint.is_empty() => own_command.unwrap_or_default(),
        given => given,
    };
    let first = match entrypoint {
        [] => own_entrypoint.unwrap_or_default(),
        [none] if none.is_empty() => &[],
        entrypoint => entrypoint,
    };
    first.iter().chain(command).cloned().collect()
}

/// The number of a signal that an image names: `SIGQUIT`, `QUIT` or `3`; nothing for what is none.
fn signal_of(text: &str) -> Option<u8> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let named = SIGNALS.iter().find(|(known, _)| *known == name);
    let number = named.map(|(_, number)| *number).or_else(|| name.parse().ok())?;
    (1..=64).contains(&number).then_some(number)
}

/// Puts what the client says over what there is.
fn adjust(start: &v1::ExecStart, setup: &mut Setup, is_hardened: bool) -> Result<(), BuildError> {
    for text in &start.env {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        setup.set_variable(name, value);
    }
    if !setup.has_variable("PATH") {
        setup.set_variable("PATH", DEFAULT_PATH);
    }
    if let Some(terminal) = &start.terminal
        && !setup.has_variable("TERM")
    {
        setup.set_variable("TERM", &terminal.kind);
    }
    if let Some(user) = &start.user {
        setup.user.clone_from(user);
    }
    if let Some(dir) = &start.working_dir {
        if !dir.starts_with('/') {
            let message = format!("the working directory `{}` is not absolute", dir.escape_debug());
            return Err(BuildError::new(Blame::Usage, message));
        }
        setup.cwd.clone_from(dir);
    }
    if !start.network.is_empty() {
        let network = network_from_wire(&start.network);
        setup.network = network_of(network.map_err(|error| BuildError::new(Blame::Usage, error.to_string()))?);
    }
    // Of a build that was not hardened, on a server that now is.
    if is_hardened && setup.security == Security::Sandbox {
        setup.security = Security::Hardened;
    }
    Ok(())
}

/// Whether the client may have what it asks for, as in builds: it must say so, and may not say it of everything.
fn allow(start: &v1::ExecStart, setup: &Setup, job: &Job) -> Result<(), BuildError> {
    let granted = entitlements_from_wire(&start.entitlements);
    let granted: Entitlements = granted.map_err(|error| BuildError::new(Blame::Usage, error.to_string()))?;
    check_granted(&granted, &job.session, &job.host.entitlements)?;
    let mut needed = Vec::new();
    needed.extend((setup.network == Network::Host).then_some(Entitlement::NetworkHost));
    needed.extend((setup.security == Security::Insecure).then_some(Entitlement::SecurityInsecure));
    needed.extend(
        setup
            .devices
            .iter()
            .map(|(name, _)| Entitlement::Device(Some(name.clone()))),
    );
    if let (true, Some(refused)) = (job.host.hardened, needed.first()) {
        return Err(BuildError::user(format!("{refused} is not allowed")).note("the build server is hardened"));
    }
    match needed.into_iter().find(|needed| !granted.allow(needed)) {
        Some(missing) => {
            Err(BuildError::user(format!("{missing} is not allowed"))
                .help(format!("allow it with `--allow {missing}`")))
        }
        None => Ok(()),
    }
}

fn process(args: Vec<String>, setup: Setup, prepared: Prepared, limits: Limits) -> Process {
    Process {
        args,
        env: prepared.env,
        cwd: setup.cwd,
        user: setup.user,
        hostname: setup.hostname,
        network: setup.network,
        security: setup.security,
        devices: prepared.devices,
        extra_hosts: setup.extra_hosts,
        rootfs: prepared.rootfs,
        mounts: prepared.mounts,
        shm_size_bytes: setup.shm_size_bytes,
        files: setup.script.into_iter().collect(),
        limits,
        ca_bundle: None,
    }
}

fn failure(error: ExecError) -> BuildError {
    match error {
        ExecError::Cancelled => BuildError::canceled(),
        error @ ExecError::Refused { .. } => BuildError::user(error.to_string()),
        error => BuildError::environment(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entrypoint: &[&str], given: &[&str], expected: &[&str]) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let config = Config {
            entrypoint: Some(words(&["/entry", "-e"])),
            cmd: Some(words(&["cmd"])),
            ..Config::default()
        };
        assert_eq!(
            args_of_image(&config, &words(entrypoint), &words(given)),
            words(expected)
        );
    }

    #[test]
    fn entry_point_and_command_are_put_together_as_docker_does() {
        check(&[], &[], &["/entry", "-e", "cmd"]);
        check(&[], &["a", "b"], &["/entry", "-e", "a", "b"]);
        check(&["/other"], &[], &["/other"]);
        check(&["/other"], &["a"], &["/other", "a"]);
        check(&[""], &["a"], &["a"]);
        check(&[""], &[], &[]);
    }

    #[test]
    fn stop_signals_have_names_or_numbers() {
        let check = |text: &str, expected: Option<u8>| assert_eq!(signal_of(text), expected, "{text}");
        check("SIGQUIT", Some(3));
        check("INT", Some(2));
        check("SIGRTMIN+3", Some(37));
        check("15", Some(15));
        check("", None);
        check("0", None);
        check("SIGNONE", None);
    }
}
