//! What steps get only if somebody lends or allows it: SSH agents, privileges, devices.

use std::process::Command;

use crate::support::Place;
use crate::support::agent::{AGENT, Agent};
use crate::support::build::needs;
use crate::support::leaks::{nothing_is_left, processes_about};
use crate::support::server::wait_until;

#[test]
fn a_step_lists_and_signs_with_the_agent_of_the_client_and_changes_nothing_in_it() {
    needs!(AGENT);
    let (place, keys) = (Place::new(), tempfile::tempdir().unwrap());
    let agent = Agent::new(keys.path());
    let tools = place.ssh_tools();
    place.file("key.pub", &agent.public_key).dockerfile(
        "FROM base\nCOPY --from=tools / /\nCOPY key.pub /\n\
         RUN --mount=type=ssh ssh-add -L && echo $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,required echo text > /text && ssh-keygen -q -Y sign -f /key.pub -n file /text && ls /text.sig\n\
         RUN --mount=type=ssh ssh-add -D; ssh-add -x </dev/null; true\n\
         RUN ls /run/buildkit 2>/dev/null | wc -l; echo \"[$SSH_AUTH_SOCK]\"\n",
    );
    let outcome = place.build(&[&tools, &agent.flag("default"), "."]).exits(0);
    let log = |step: &str| outcome.step(step).log;
    let list = format!("{}/run/buildkit/ssh_agent.0\n", agent.public_key);
    assert_eq!(log("ssh-add -L && echo $SSH_AUTH_SOCK"), list);
    assert!(log("ls /text.sig").ends_with("/text.sig\n"), "{}", outcome.stderr);
    assert_eq!(log("echo \"[$SSH_AUTH_SOCK]\""), "0\n[]\n");
    let kept = Command::new("/usr/bin/ssh-add")
        .arg("-L")
        .env("SSH_AUTH_SOCK", &agent.socket)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(kept.stdout).unwrap(), agent.public_key);
}

#[test]
fn keys_are_lent_through_an_agent_that_ends_with_the_build() {
    needs!(AGENT);
    let (place, keys) = (Place::new(), tempfile::tempdir().unwrap());
    let make = |name: &str, passphrase: &str| {
        let path = keys.path().join(name);
        let made = Command::new("/usr/bin/ssh-keygen")
            .args(["-q", "-t", "ecdsa", "-C", name, "-N", passphrase, "-f"])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        std::fs::read_to_string(path.with_extension("pub")).unwrap()
    };
    let (one, two, _) = (make("one", ""), make("two", ""), make("locked", "secret"));
    let tools = place.ssh_tools();
    place.dockerfile("FROM base\nCOPY --from=tools / /\nRUN --mount=type=ssh,id=k ssh-add -L\n");
    let flag = |names: &[&str]| {
        let paths = names.iter().map(|name| keys.path().join(name).display().to_string());
        format!("--ssh=k={}", paths.collect::<Vec<_>>().join(","))
    };
    // The agent makes its socket below this directory.
    let temporary = place.work().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let build = |flag: &str| {
        let mut command = place.build_command(&[tools.as_str(), flag, "."]);
        place.outcome(command.env("TMPDIR", &temporary).output().unwrap())
    };
    let outcome = build(&flag(&["one", "two"])).exits(0);
    assert_eq!(outcome.step("ssh-add -L").log, format!("{one}{two}"));
    build(&flag(&["locked"]))
        .exits(2)
        .says("a key with a passphrase must be in an agent");
    wait_until("the agents end", || processes_about(&temporary).is_empty());
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn an_agent_socket_has_the_target_mode_and_owner_that_are_asked_for() {
    needs!(AGENT);
    let (place, keys) = (Place::new(), tempfile::tempdir().unwrap());
    let agent = Agent::new(keys.path());
    place.dockerfile(
        "FROM base\nRUN --mount=type=ssh,id=a,target=/deep/er/sock,mode=0620,uid=5,gid=6 \
         --mount=type=ssh,id=a stat -c '%F %a %u:%g' /deep/er/sock $SSH_AUTH_SOCK /run/buildkit/ssh_agent.1\n\
         ENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh,id=a echo $SSH_AUTH_SOCK > /variable\n",
    );
    let image = place.image(&[&agent.flag("a")]);
    assert_eq!(
        image.paths(1),
        Vec::<String>::new(),
        "sockets and their directories are in no layer"
    );
    assert_eq!(image.layer(2)[0].content, b"/mine\n");
    let steps = place.build(&["--no-cache", &agent.flag("a"), "."]).exits(0);
    let socket = "socket 620 5:6\n";
    assert_eq!(steps.steps()[0].log, format!("{socket}{socket}socket 600 0:0\n"));
    nothing_is_left(&place.root());
}

#[test]
fn a_missing_agent_fails_its_step_only_if_it_is_required() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN --mount=type=ssh echo \"[$SSH_AUTH_SOCK]\"; ls /run/buildkit 2>/dev/null | wc -l\n",
    );
    assert_eq!(place.steps(&[])[0].log, "[]\n0\n");
    place.dockerfile("FROM base\nRUN --mount=type=ssh,required true\n");
    place
        .build(&["."])
        .exits(1)
        .says("unset ssh forward key default")
        .says("--ssh default");
    place
        .build(&["--ssh=default", "."])
        .exits(2)
        .says("SSH_AUTH_SOCK is not set");
}

#[test]
fn an_agent_without_keys_is_remarked_and_lent_all_the_same() {
    needs!(AGENT);
    let (place, keys) = (Place::new(), tempfile::tempdir().unwrap());
    let agent = Agent::empty(keys.path());
    place.dockerfile("FROM base\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK\n");
    place
        .build(&[&agent.flag("default"), "."])
        .exits(0)
        .says("the agent `default` holds no keys");
}

#[test]
fn a_socket_is_gone_after_its_step_and_so_is_what_it_took_the_place_of() {
    needs!(AGENT);
    let place = Place::new();
    let tools = place.ssh_tools();
    place.dockerfile(
        "FROM base\nCOPY --from=tools / /\nRUN echo text > /old && mkdir /dir\n\
         RUN rm /old; for s in /old /new /dir/new; do ssh-agent -a $s sh -c 'kill -9 $SSH_AGENT_PID' && test -S $s; done\n\
         RUN ls -d /old /new /dir /dir/new 2>&1 | grep -v ' '\n",
    );
    let image = place.image(&[&tools]);
    // Whether the time of the directory has moved by a second is not what this is about.
    let paths = image.paths(3);
    assert_eq!(
        paths.iter().filter(|path| *path != "dir/").collect::<Vec<_>>(),
        [".wh.old"]
    );
    let first = place.build(&["--no-cache", &tools, "."]).exits(0);
    assert_eq!(first.step("grep -v ' '").log, "/dir\n");
}

#[test]
fn insecure_steps_must_be_allowed_and_have_keys_of_their_own() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN --security=insecure mount -t tmpfs x /tmp && echo mounted\n");
    place
        .build(&["."])
        .exits(1)
        .says("security.insecure is not allowed")
        .says("--allow security.insecure");
    let allowed = place.build(&["--allow=security.insecure", "."]).exits(0);
    assert_eq!(allowed.steps()[0].log, "mounted\n");
    let again = place.build(&["--allow=security.insecure", "."]).exits(0);
    assert_eq!(again.steps()[0].status, "CACHED");
    // Without the flag it is another step, and one that fails.
    place.dockerfile("FROM base\nRUN mount -t tmpfs x /tmp && echo mounted\n");
    place.build(&["--allow=security.insecure", "."]).exits(1);
}

#[test]
fn a_device_must_be_allowed_and_registered() {
    needs!();
    let place = Place::new();
    let spec = r#"{"cdiVersion": "0.6.0", "kind": "rbuild.test/zero", "devices": [{"name": "one", "containerEdits": {
        "env": ["ZERO=/dev/test/zero"],
        "deviceNodes": [{"path": "/dev/test/zero", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "/etc/passwd", "containerPath": "/lib/zero.txt", "options": ["ro"]}]}}]}"#;
    place.file("specs/zero.json", spec).file("specs/more.yaml", "kind: x");
    let specs = place.work().join("specs");
    let build = |flags: &[&str]| {
        let output = place
            .build_command(flags)
            .env("RBUILD_CDI_DIRS", &specs)
            .output()
            .unwrap();
        place.outcome(output)
    };
    place.dockerfile(
        "FROM base\nRUN --device=rbuild.test/zero=one,required dd if=$ZERO bs=2 count=1 2>/dev/null | wc -c && test -s /lib/zero.txt\n\
         RUN test ! -e /dev/test && test ! -e /lib/zero.txt\n",
    );
    build(&["."])
        .exits(1)
        .says("device=rbuild.test/zero=one is not allowed");
    let allowed = build(&["--allow=device=rbuild.test/zero", "."]).exits(0);
    assert_eq!(allowed.steps()[0].log, "2\n");
    place.dockerfile("FROM base\nRUN --device=rbuild.test/none echo on\nRUN --device=rbuild.test/none,required true\n");
    let missing = build(&["--allow=device", "."]).exits(3);
    assert!(
        missing.steps()[0].log.contains("the step runs without it"),
        "{missing:?}"
    );
    missing
        .says("required device \"rbuild.test/none\" is not registered")
        .says("registered are rbuild.test/zero=one")
        .says("more.yaml` is YAML");
}
