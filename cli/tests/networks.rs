//! The networks of steps, as users get them.

use std::process::Command;

use testdata::machine::Need;

use crate::support::Place;
use crate::support::build::needs;

#[test]
fn networks_of_steps_need_no_program() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo $(ls /sys/class/net) && ip route | grep -c '^default via 10.213.'\n");
    // No program can be found, so none is started.
    let output = place
        .build_command(&["."])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let outcome = place.outcome(output).exits(0);
    assert_eq!(outcome.steps()[0].log, "eth0 lo\n1\n");
}

#[test]
fn an_engine_without_the_capability_says_what_works_without() {
    const SETPRIV: &str = "/usr/bin/setpriv";
    needs!(Need::Program(SETPRIV));
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo ran\n");
    let build = |arguments: &[&str]| {
        let build = place.build_command(arguments);
        let mut unprivileged = Command::new(SETPRIV);
        unprivileged
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"])
            .env_clear()
            .arg(build.get_program())
            .args(build.get_args())
            .envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(place.work());
        place.outcome(unprivileged.output().unwrap())
    };
    build(&["."])
        .exits(3)
        .says("cannot give the step a network of its own: the engine lacks the capability `NET_ADMIN`")
        .says("help: `--network=host --allow=network.host` works without");
    build(&["--network=none", "."])
        .exits(3)
        .says("the engine lacks the capability `NET_ADMIN`");
    let outcome = build(&["--network=host", "--allow=network.host", "."]).exits(0);
    assert_eq!(outcome.steps()[0].log, "ran\n");
}
