//! What steps get only if somebody allows it: privileges, devices.

use crate::support::Place;
use crate::support::build::needs;

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
