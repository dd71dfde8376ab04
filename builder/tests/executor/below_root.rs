//! What differs where the engine is root of a user namespace only.

use builder::executor::{Network, Process, StepDevice};

use crate::bench::Bench;

pub(crate) fn devices_are_those_of_the_machine() {
    let bench = Bench::new();
    let device = |path: &str, minor| StepDevice {
        path: path.to_owned(),
        block: false,
        major: 1,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let mut process =
        bench.process("head -c 3 /dev/zero | wc -c; echo x > /dev/null; mount | grep -c ' on /dev/zero '");
    process.devices = vec![device("/dev/zero", 5)];
    bench.check_process(&process, "3\n1\n");
    process.devices = vec![device("/dev/no/such", 250)];
    let message = bench.refusal(&process);
    assert!(
        message.starts_with("the device `/dev/no/such` cannot be made without root"),
        "{message}"
    );
    let of_the_machine = Process {
        network: Network::Host,
        ..bench.process("ls /sys; touch /sys/x 2>/dev/null || echo read-only")
    };
    bench.check_process(&of_the_machine, "read-only\n");
    let ran = bench.run(&bench.process("mknod /tmp/null c 1 3"));
    assert!(ran.printed.contains("not permitted"), "{}", ran.printed);
}

pub(crate) fn a_program_carries_the_packets_of_a_step() {
    let network = builder::executor::probe()
        .into_iter()
        .find(|fact| fact.name == "network");
    let network = network.unwrap();
    if !network.ok {
        assert!(!crate::bench::required(), "{}", network.found);
        return crate::bench::skip("a_program_carries_the_packets_of_a_step", &network.found);
    }
    let bench = Bench::new();
    let with = |script: &str| Process {
        network: Network::Default,
        ..bench.process(script)
    };
    // Beside the loopback there is one interface, the way to clouds' credentials is closed, and so is the machine itself.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "ls /sys/class/net | wc -l; ip route | grep -c '^unreachable 169.254.0.0/16'; \
         for a in 127.0.0.1 $(ip route | grep ^unreachable | grep -v / | cut -d' ' -f2) \
           $(ip route | grep ^default | cut -d' ' -f3); do \
           nc -w 1 $a {port} < /dev/null 2>/dev/null && echo reached $a; done; true"
    );
    bench.check_process(&with(&script), "2\n1\n");
    bench.runtime.block_on(bench.executor.finish());
    let own = format!("{}", std::process::id());
    let left = crate::ends::children_of(own.parse().unwrap());
    assert_eq!(left, Vec::<u32>::new(), "the program ends with its step");
}

pub(crate) fn without_further_ids_a_step_is_root() {
    let bench = Bench::new();
    bench.check("echo $(id -u) $(id -g)", "0 0\n");
    let process = Process {
        user: "joe".to_owned(),
        ..bench.process("true")
    };
    assert_eq!(
        bench.refusal(&process),
        "the step runs as user 55 and group 66, but the sandbox `single-id` has no users but root"
    );
    let ran = bench.run(&bench.process("chown 5 /tmp"));
    assert!(ran.printed.contains("Invalid argument"), "{}", ran.printed);
}

pub(crate) fn files_belong_to_many_users() {
    let bench = Bench::new();
    let script =
        "touch /tmp/a && chown 1000:65534 /tmp/a && stat -c %u:%g /tmp/a; chown 70000 /tmp/a 2>&1 | grep -c Invalid";
    bench.check(script, "1000:65534\n1\n");
}
