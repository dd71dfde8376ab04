//! Steps that are allowed more than others: everything, or a device.

use std::fs;
use std::path::Path;

use builder::executor::{Process, Security, StepDevice};

use crate::bench::Bench;

fn insecure(bench: &Bench, user: &str, script: &str) -> Process {
    Process {
        security: Security::Insecure,
        user: user.to_owned(),
        ..bench.process(script)
    }
}

/// The capabilities of this process, which is the engine here.
fn own_capabilities() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
    line.to_owned()
}

pub(crate) fn an_insecure_step_may_what_the_engine_may() {
    let bench = Bench::new();
    let all = own_capabilities();
    let show = "grep -E '^(CapPrm|CapEff|CapAmb|Seccomp):' /proc/self/status";
    let expected = format!("CapPrm:\t{all}\nCapEff:\t{all}\nCapAmb:\t{all}\nSeccomp:\t0\n");
    for user in ["", "joe"] {
        bench.check_process(&insecure(&bench, user, show), &expected);
    }
    // The filter, the mask of a file, a setting of the step's own network, and devices of the image.
    let script = "mount -t tmpfs x /tmp && grep -c ' /tmp tmpfs' /proc/mounts; grep -q . /proc/interrupts && echo shown; \
                  echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward; \
                  mknod /full c 1 7 && cat /full | dd bs=2 count=1 2>/dev/null | wc -c";
    bench.check_process(&insecure(&bench, "", script), "1\nshown\n1\n2\n");
}

pub(crate) fn an_insecure_step_has_devices_of_the_machine() {
    let bench = Bench::new();
    let there: String = [
        "/dev/kmsg",
        "/dev/fuse",
        "/dev/kvm",
        "/dev/net/tun",
        "/dev/loop-control",
    ]
    .into_iter()
    .filter(|path| Path::new(path).exists())
    .map(|path| format!("{path}\n"))
    .collect();
    let script = "for d in kmsg fuse kvm net/tun loop-control; do test -c /dev/$d && echo /dev/$d; done; true";
    bench.check_process(&insecure(&bench, "", script), &there);
    bench.check_process(
        &insecure(&bench, "", "stat -c '%F %t' /dev/loop0"),
        "block special file 7\n",
    );
    bench.check(script, "");
}

pub(crate) fn a_hardened_step_may_less() {
    let bench = Bench::new();
    let hardened = |user: &str, script: &str| Process {
        security: Security::Hardened,
        user: user.to_owned(),
        ..bench.process(script)
    };
    let show = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status";
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service
    let few = "00000000000005fb";
    let none = "0000000000000000";
    let lines = |held: &str| {
        format!(
            "CapInh:\t{none}\nCapPrm:\t{held}\nCapEff:\t{held}\nCapBnd:\t{few}\nCapAmb:\t{none}\n\
             NoNewPrivs:\t1\nSeccomp:\t2\n"
        )
    };
    bench.check_process(&hardened("", show), &lines(few));
    bench.check_process(&hardened("joe", show), &lines(none));
    let usual = "chroot / true && echo left; mknod /null c 1 3 && echo made; chown 1:1 /tmp && echo owned";
    bench.check(usual, "left\nmade\nowned\n");
    bench.check_process(&hardened("", &format!("{{ {usual}; }} 2> /dev/null")), "owned\n");
}

fn zero(path: &str) -> StepDevice {
    StepDevice {
        path: path.to_owned(),
        block: false,
        major: 1,
        minor: 5,
        mode: 0o640,
        uid: 5,
        gid: 7,
    }
}

pub(crate) fn a_device_appears_as_it_is_described() {
    let bench = Bench::new();
    let script = "stat -c '%F %a %u:%g %t:%T' /dev/made/zero; dd if=/dev/made/zero bs=3 count=1 2>/dev/null | wc -c; \
                  stat -c %t:%T /dev/null";
    let mut process = bench.process(script);
    // A device that every step has stays what it is.
    process.devices = vec![zero("/dev/made/zero"), zero("/dev/null")];
    bench.check_process(&process, "character special file 640 5:7 1:5\n3\n1:3\n");
}

pub(crate) fn devices_outside_of_dev_are_refused() {
    let bench = Bench::new();
    for path in ["/etc/passwd", "/dev/../etc/zero", "/dev", "dev/zero"] {
        let mut process = bench.process("true");
        process.devices = vec![zero(path)];
        assert_eq!(
            bench.refusal(&process),
            format!("the device `{path}` is not below `/dev`")
        );
    }
}
