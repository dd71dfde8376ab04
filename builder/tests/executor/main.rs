//! The sandbox with real processes, in every tier that this machine can make: what a step gets, what it cannot do, and what it
//! leaves behind.
//!
//! This program is also the sandbox init that the tests start, which must run before any thread exists; so it has a `main` of
//! its own instead of the usual harness. It understands a filter as its first argument, and `--list`.
#![expect(clippy::unwrap_used, reason = "clippy takes only `#[test]` functions for tests")]
#![expect(
    clippy::print_stdout,
    reason = "a test harness of its own reports on standard output"
)]

mod below_root;
mod bench;
mod ends;
mod hostile;
mod mounts;
mod networks;
mod output;
mod plain;
mod privileges;
mod tiers;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::time::Instant;

use bench::{Bench, lacking, required};
use builder::executor::{ExecError, INIT_ARGUMENT, Network, Outcome, Process, StepFile, init_main};
use builder::ids::Ids;
use builder::snapshot::rootfs::{Rootfs, Upper};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    (
        "output_exit_codes_and_signals_are_reported",
        output_exit_codes_and_signals_are_reported,
    ),
    (
        "output_comes_in_the_order_in_which_it_was_written",
        output::output_comes_in_the_order_in_which_it_was_written,
    ),
    (
        "output_can_be_opened_again_by_every_user",
        output::output_can_be_opened_again_by_every_user,
    ),
    (
        "output_of_a_killed_step_is_not_lost",
        output::output_of_a_killed_step_is_not_lost,
    ),
    ("output_is_a_pipe", output::output_is_a_pipe),
    (
        "an_insecure_step_may_what_the_engine_may",
        privileges::an_insecure_step_may_what_the_engine_may,
    ),
    (
        "an_insecure_step_has_devices_of_the_machine",
        privileges::an_insecure_step_has_devices_of_the_machine,
    ),
    ("a_hardened_step_may_less", privileges::a_hardened_step_may_less),
    (
        "a_device_appears_as_it_is_described",
        privileges::a_device_appears_as_it_is_described,
    ),
    (
        "devices_outside_of_dev_are_refused",
        privileges::devices_outside_of_dev_are_refused,
    ),
    (
        "a_program_that_cannot_be_executed_says_why",
        a_program_that_cannot_be_executed_says_why,
    ),
    (
        "environment_and_directory_are_those_of_the_step",
        environment_and_directory_are_those_of_the_step,
    ),
    ("the_user_is_looked_up_in_the_image", the_user_is_looked_up_in_the_image),
    (
        "capabilities_are_the_fourteen_or_none",
        capabilities_are_the_fourteen_or_none,
    ),
    (
        "the_kernel_is_closed_where_steps_escape",
        the_kernel_is_closed_where_steps_escape,
    ),
    (
        "kernel_files_are_masked_or_read_only",
        kernel_files_are_masked_or_read_only,
    ),
    (
        "devices_and_limits_are_the_standard_ones",
        devices_and_limits_are_the_standard_ones,
    ),
    ("nothing_of_the_engine_is_visible", nothing_of_the_engine_is_visible),
    (
        "generated_files_never_enter_the_layer",
        generated_files_never_enter_the_layer,
    ),
    ("hostile_account_files_are_refused", hostile_account_files_are_refused),
    (
        "writes_go_to_the_upper_directory_only",
        writes_go_to_the_upper_directory_only,
    ),
    ("hundreds_of_layers_are_one_root", hundreds_of_layers_are_one_root),
    ("mounts_show_what_they_should", mounts::mounts_show_what_they_should),
    (
        "mount_sources_and_targets_stay_inside",
        mounts::mount_sources_and_targets_stay_inside,
    ),
    (
        "mounts_into_kernel_file_systems_are_refused",
        mounts::mounts_into_kernel_file_systems_are_refused,
    ),
    (
        "a_step_without_network_has_loopback_only",
        networks::a_step_without_network_has_loopback_only,
    ),
    (
        "default_networks_do_not_reach_the_host",
        networks::default_networks_do_not_reach_the_host,
    ),
    (
        "a_step_reaches_other_machines_and_nothing_near",
        networks::a_step_reaches_other_machines_and_nothing_near,
    ),
    (
        "a_step_does_not_reach_the_host_over_ipv6",
        networks::a_step_does_not_reach_the_host_over_ipv6,
    ),
    ("steps_do_not_reach_each_other", networks::steps_do_not_reach_each_other),
    ("daemons_end_with_their_step", ends::daemons_end_with_their_step),
    ("cancelling_kills_everything", ends::cancelling_kills_everything),
    (
        "dropping_the_future_kills_everything",
        ends::dropping_the_future_kills_everything,
    ),
    (
        "a_killed_engine_takes_its_steps_along",
        ends::a_killed_engine_takes_its_steps_along,
    ),
    (
        "killing_what_waits_for_a_step_costs_no_step",
        ends::killing_what_waits_for_a_step_costs_no_step,
    ),
    (
        "no_mount_and_no_control_group_is_left",
        ends::no_mount_and_no_control_group_is_left,
    ),
    ("t01_descriptors_do_not_leak", hostile::t01_descriptors_do_not_leak),
    (
        "t02_the_program_of_the_engine_cannot_be_written",
        hostile::t02_the_program_of_the_engine_cannot_be_written,
    ),
    (
        "t06_device_nodes_of_a_step_open_nothing",
        hostile::t06_device_nodes_of_a_step_open_nothing,
    ),
    (
        "t06_generated_files_land_in_the_image_only",
        hostile::t06_generated_files_land_in_the_image_only,
    ),
    (
        "t11_links_of_the_image_lead_to_nothing_of_the_host",
        hostile::t11_links_of_the_image_lead_to_nothing_of_the_host,
    ),
    ("t12_no_number_wraps_to_root", hostile::t12_no_number_wraps_to_root),
    (
        "t13_groups_of_the_engine_stay_outside",
        hostile::t13_groups_of_the_engine_stay_outside,
    ),
    (
        "t15_dangerous_calls_are_refused",
        hostile::t15_dangerous_calls_are_refused,
    ),
    ("t16_a_step_has_no_terminal", hostile::t16_a_step_has_no_terminal),
    (
        "plain_steps_print_and_end_as_anywhere",
        plain::plain_steps_print_and_end_as_anywhere,
    ),
    (
        "plain_changes_are_found_and_nothing_else_is",
        plain::plain_changes_are_found_and_nothing_else_is,
    ),
    (
        "plain_chains_of_steps_share_one_tree",
        plain::plain_chains_of_steps_share_one_tree,
    ),
    (
        "plain_steps_end_with_all_that_they_started",
        plain::plain_steps_end_with_all_that_they_started,
    ),
    (
        "plain_steps_harm_neither_the_engine_nor_what_is_outside",
        plain::plain_steps_harm_neither_the_engine_nor_what_is_outside,
    ),
    (
        "plain_steps_without_network_have_local_sockets_only",
        plain::plain_steps_without_network_have_local_sockets_only,
    ),
    ("plain_mounts_come_and_go", plain::plain_mounts_come_and_go),
    (
        "plain_trees_of_a_dead_engine_give_back_what_was_lent",
        plain::plain_trees_of_a_dead_engine_give_back_what_was_lent,
    ),
    ("start_up_is_fast", start_up_is_fast),
    (
        "devices_are_those_of_the_machine",
        below_root::devices_are_those_of_the_machine,
    ),
    (
        "a_program_carries_the_packets_of_a_step",
        below_root::a_program_carries_the_packets_of_a_step,
    ),
    (
        "without_further_ids_a_step_is_root",
        below_root::without_further_ids_a_step_is_root,
    ),
    ("files_belong_to_many_users", below_root::files_belong_to_many_users),
];

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == INIT_ARGUMENT) {
        init_main();
    }
    if let [first, nap] = &arguments[..]
        && first == ends::ENGINE_ARGUMENT
    {
        return ends::engine(nap);
    }
    let is_other = arguments.first().is_some_and(|first| first == tiers::TIER_ARGUMENT);
    if is_other {
        tiers::become_one_of(&arguments[1]);
        arguments.drain(..2);
    }
    let filter = arguments
        .iter()
        .find(|argument| !argument.starts_with('-'))
        .cloned()
        .unwrap_or_default();
    let chosen: Vec<&Test> = TESTS.iter().filter(|(name, _)| name.contains(&filter)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let others = || tiers::run_others(&filter);
    let mut failed = if is_other { Vec::new() } else { others() };
    if let Some(lacking) = lacking() {
        assert!(!required(), "RBUILD_TEST_REQUIRE=all, but {lacking}");
        println!("SKIPPED {} tests of the sandbox: {lacking}", chosen.len());
    } else {
        let here = chosen.iter().filter(|(name, _)| tiers::concerns(name));
        failed.extend(here.filter(|(name, test)| !passes(name, *test)).map(|(name, _)| *name));
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// What everybody must read.
fn say(line: &str) {
    println!("{line}");
}

fn passes(name: &str, test: fn()) -> bool {
    let passed = std::panic::catch_unwind(test).is_ok();
    println!(
        "test {name} ... {} ({:?} ids)",
        if passed { "ok" } else { "FAILED" },
        Ids::of_process()
    );
    passed
}

fn output_exit_codes_and_signals_are_reported() {
    let bench = Bench::new();
    let ran = bench.run(&bench.process("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.printed.as_str(), ran.said.as_str()), ("out\nerr\n", ""));
    assert_eq!(ran.report.outcome, Outcome::Code(7));
    assert_eq!(
        bench.run(&bench.process("kill -TERM $$")).report.outcome,
        Outcome::Signal(15)
    );
    bench.check("cat; dd if=/dev/zero bs=1k count=300 2>/dev/null | wc -c", "307200\n");
}

fn a_program_that_cannot_be_executed_says_why() {
    let bench = Bench::new();
    fs::write(bench.path("base/bin/plain"), "text").unwrap();
    let table = [
        (
            "nosuch",
            127,
            "exec: \"nosuch\": executable file not found in $PATH (/bin)\n",
        ),
        (
            "/no/such",
            127,
            "exec: \"/no/such\": stat /no/such: no such file or directory\n",
        ),
        ("plain", 126, "exec: \"plain\": permission denied\n"),
    ];
    for (program, code, message) in table {
        let process = Process {
            args: vec![program.to_owned()],
            ..bench.process("")
        };
        let ran = bench.run(&process);
        assert_eq!((ran.report.outcome, ran.said.as_str()), (Outcome::Code(code), message));
    }
}

fn environment_and_directory_are_those_of_the_step() {
    let bench = Bench::new();
    let mut process = bench.process("env; pwd; hostname; umask; stat -c '%a %u' /new/dir");
    process.env.push(("A".to_owned(), "b c".to_owned()));
    process.cwd = "/new/dir".to_owned();
    let ran = bench.run(&process);
    let lines: BTreeSet<&str> = ran.printed.lines().collect();
    let expected = [
        "PATH=/bin",
        "A=b c",
        "HOME=/root",
        "/new/dir",
        "buildkitsandbox",
        "0022",
        "755 0",
        "PWD=/new/dir",
        "SHLVL=1",
    ];
    assert_eq!(lines, BTreeSet::from(expected));
    assert!(bench.path("upper/new/dir").is_dir());
    assert_eq!(
        ran.report.stubs,
        ["etc/hosts", "etc/resolv.conf"].map(PathBuf::from),
        "the directory is no stub"
    );
    let outside = Process {
        cwd: "/proc/self/fd/3".to_owned(),
        ..bench.process("pwd")
    };
    assert!(matches!(bench.attempt(&outside), Err(ExecError::Refused { .. })));
}

fn the_user_is_looked_up_in_the_image() {
    let bench = Bench::new();
    let show = "echo $(id -u) $(id -g) $(id -G) $HOME";
    let table = [
        ("", "0 0 0 /root\n"),
        ("joe", "55 66 66 77 /home/joe\n"),
        ("joe:grp", "55 77 77 /home/joe\n"),
        ("1000", "1000 0 0 /\n"),
        ("1000:1001", "1000 1001 1001 /\n"),
    ];
    for (user, expected) in table {
        bench.check_process(
            &Process {
                user: user.to_owned(),
                ..bench.process(show)
            },
            expected,
        );
    }
    let message = bench.refusal(&Process {
        user: "ann".to_owned(),
        ..bench.process(show)
    });
    assert_eq!(message, "unable to find user ann: no matching entries in passwd file");
}

fn capabilities_are_the_fourteen_or_none() {
    let bench = Bench::new();
    let show = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let sets = |inh: &str, prm: &str, bnd: &str| {
        format!(
            "CapInh:\t{inh}\nCapPrm:\t{prm}\nCapEff:\t{prm}\nCapBnd:\t{bnd}\nCapAmb:\t{inh}\nNoNewPrivs:\t0\nSeccomp:\t2\n"
        )
    };
    let (none, all) = ("0000000000000000", "00000000a80425fb");
    bench.check(show, &sets(none, all, all));
    bench.check_process(
        &Process {
            user: "joe".to_owned(),
            ..bench.process(show)
        },
        &sets(none, none, all),
    );
}

fn the_kernel_is_closed_where_steps_escape() {
    let bench = Bench::new();
    for call in [
        "unshare -m true",
        "mount -t tmpfs x /tmp",
        "mount -o bind /bin /tmp",
        "umount /proc",
        "hostname other",
    ] {
        let ran = bench.run(&bench.process(call));
        assert_ne!(ran.report.outcome, Outcome::Code(0), "{call} succeeded");
        let refused = ran.printed.contains("not permitted") || ran.printed.contains("ermission denied");
        assert!(refused, "{call}: {}", ran.printed);
    }
}

fn kernel_files_are_masked_or_read_only() {
    let bench = Bench::new();
    bench.check("cat /proc/kcore /proc/keys /proc/interrupts /proc/timer_list 2>/dev/null; ls /sys/firmware /proc/acpi 2>/dev/null | grep -v : | grep .; true", "");
    for write in [
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "mkdir /sys/x",
        "echo 1 > /sys/kernel/profiling",
    ] {
        let ran = bench.run(&bench.process(write));
        assert_ne!(ran.report.outcome, Outcome::Code(0), "{write} succeeded");
    }
}

fn devices_and_limits_are_the_standard_ones() {
    let bench = Bench::new();
    let names = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let script = "echo $(ls /dev); echo x > /dev/null; stat -c '%F %a %t:%T' /dev/full";
    bench.check(script, &format!("{names}\ncharacter special file 666 1:7\n"));
    bench.check(
        "df -k /dev/shm | grep -c ' 65536 '; ulimit -n; ulimit -c; test $(ulimit -Hn) -gt 1024",
        "1\n1024\n0\n",
    );
    // A device node can be made, as in every container, but it opens nothing.
    let ran = bench.run(&bench.process("mknod /tmp/null c 1 3 && cat /tmp/null"));
    assert_ne!(ran.report.outcome, Outcome::Code(0));
    let refused = ran.printed.contains("denied") || ran.printed.contains("not permitted");
    assert!(refused, "{}", ran.printed);
}

fn nothing_of_the_engine_is_visible() {
    let bench = Bench::new();
    let ran = bench.run(
        &bench
            .process("exec 2>/dev/null; readlink /proc/1/exe; cat /proc/1/environ; cat /proc/1/mem; ls /proc/1/root/"),
    );
    assert_eq!(ran.printed, "", "the init can be looked into");
    // Pid 1, the shell, and what it starts: the host's processes are not there.
    bench.check("n=$(ls -d /proc/[0-9]* | wc -l); test $n -le 5 && echo few", "few\n");
    let host = bench.dir.path().file_name().unwrap().to_string_lossy().into_owned();
    bench.check(&format!("find / -name '{host}*' 2>/dev/null; true"), "");
}

fn generated_files_never_enter_the_layer() {
    let bench = Bench::new();
    symlink("../run/resolve/resolv.conf", bench.path("base/etc/resolv.conf")).unwrap();
    let mut process = bench.process("cat /etc/hosts /etc/resolv.conf; /dev/pipes/EOF; echo x > /etc/hosts");
    process.extra_hosts = vec![("db".to_owned(), "192.0.2.7".to_owned())];
    let script = StepFile {
        path: "/dev/pipes/EOF".to_owned(),
        bytes: b"#!/bin/sh\necho script\n".to_vec(),
        mode: 0o755,
    };
    process.files = vec![script];
    let ran = bench.run(&process);
    let hosts = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.7\tdb\n";
    let expected = format!("{hosts}script\n");
    assert!(ran.printed.starts_with(&expected), "{}", ran.printed);
    assert!(ran.printed.contains("Read-only file system"), "{}", ran.printed);
    let stubs = ["etc/hosts", "run", "run/resolve", "run/resolve/resolv.conf"].map(PathBuf::from);
    assert_eq!(ran.report.stubs, stubs);
    assert_eq!(fs::read(bench.path("upper/etc/hosts")).unwrap(), b"");
    assert_eq!(fs::read(bench.path("upper/run/resolve/resolv.conf")).unwrap(), b"");
}

fn hostile_account_files_are_refused() {
    let bench = Bench::new();
    let passwd = bench.path("base/etc/passwd");
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &passwd, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    assert_eq!(
        bench.refusal(&bench.process("true")),
        "`/etc/passwd` of the image is not a regular file"
    );
    fs::remove_file(&passwd).unwrap();
    fs::write(&passwd, vec![b'a'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        bench.refusal(&bench.process("true")),
        "`/etc/passwd` of the image is larger than 1048576 bytes"
    );
    fs::remove_file(&passwd).unwrap();
    // A link out of the image leads into the image's own root.
    fs::write(bench.path("base/tmp/accounts"), "root:x:0:0::/inside:/bin/sh\n").unwrap();
    symlink("/../../../tmp/accounts", &passwd).unwrap();
    bench.check("echo $HOME", "/inside\n");
}

fn writes_go_to_the_upper_directory_only() {
    let bench = Bench::new();
    bench.check("echo new > /tmp/file; rm /bin/wget; ln /tmp/file /tmp/other", "");
    assert_eq!(fs::read(bench.path("upper/tmp/file")).unwrap(), b"new\n");
    assert_eq!(fs::metadata(bench.path("upper/tmp/other")).unwrap().nlink(), 2);
    assert!(bench.path("base/bin/wget").is_symlink());
    let whiteout = fs::symlink_metadata(bench.path("upper/bin/wget")).unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0));
}

fn hundreds_of_layers_are_one_root() {
    let bench = Bench::new();
    let mut process = bench.process("cat /layer/* | wc -l; cat /top");
    let mut lower = Vec::new();
    // The longest name that a directory can have: the paths do not fit into one option of the kernel.
    let long = "x".repeat(250);
    for number in (0..150).rev() {
        let layer = bench.make_dir(&format!("{long}/{number}"));
        fs::create_dir(layer.join("layer")).unwrap();
        fs::write(layer.join(format!("layer/{number}")), "line\n").unwrap();
        fs::write(layer.join("top"), format!("{number}\n")).unwrap();
        lower.push(layer);
    }
    lower.push(bench.path("base"));
    let upper = Upper {
        dir: bench.path("upper"),
        work: bench.path("work"),
    };
    process.rootfs = Rootfs::Overlay {
        lower,
        upper: Some(upper),
    };
    bench.check_process(&process, "150\n149\n");
}

/// Prints the cost of an empty step; asserts only what no loaded machine exceeds.
fn start_up_is_fast() {
    let networks: &[Network] = match Ids::of_process() {
        Ids::All => &[Network::None, Network::Host, Network::Default],
        // A program for each step is another matter.
        Ids::Range | Ids::One => &[Network::None, Network::Host],
    };
    for network in networks.iter().copied() {
        let bench = Bench::new();
        let process = Process {
            args: vec!["/bin/true".to_owned()],
            network,
            ..bench.process("")
        };
        let one = |_| {
            let began = Instant::now();
            assert_eq!(bench.run(&process).report.outcome, Outcome::Code(0));
            began.elapsed().as_micros()
        };
        let mut times: Vec<u128> = (0..60).map(one).collect();
        times.sort_unstable();
        println!(
            "empty step, network {network:?}: fastest {} µs, median {} µs",
            times[0], times[30]
        );
        assert!(times[0] < 1_000_000, "a second for an empty step");
    }
}
