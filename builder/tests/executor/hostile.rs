//! Steps and images that want out of the sandbox. Named after the rows of `docs/security.md`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use builder::executor::{ExecError, MountSource, Outcome, Process, StepFile, StepMount};
use proto::digest::Digest;

use crate::bench::{Bench, required};

fn this_program() -> Digest {
    Digest::of(&fs::read("/proc/self/exe").unwrap())
}

/// No descriptor of the engine leads anywhere, whatever directory the step starts in.
pub(crate) fn t01_descriptors_do_not_leak() {
    let bench = Bench::new();
    // The fourth is the directory that `ls` reads.
    let list = Process {
        args: ["/bin/ls", "/proc/self/fd"].map(str::to_owned).to_vec(),
        ..bench.process("")
    };
    bench.check_process(&list, "0\n1\n2\n3\n");
    for number in 0..20 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/..")] {
            let process = Process {
                cwd: cwd.clone(),
                ..bench.process("pwd; ls -d /proc/self/cwd/work-* /proc/self/cwd/../work-* 2>/dev/null; true")
            };
            match bench.attempt(&process) {
                Err(ExecError::Refused { .. }) => {}
                Ok(ran) => assert!(!ran.printed.contains("work-"), "{cwd}: {}", ran.printed),
                Err(error) => panic!("{cwd}: {error:?}"),
            }
        }
    }
    // Nor through links of the image.
    symlink("/proc/self/fd/3", bench.path("base/inside")).unwrap();
    let linked = Process {
        cwd: "/inside".to_owned(),
        ..bench.process("pwd")
    };
    assert!(matches!(bench.attempt(&linked), Err(ExecError::Refused { .. })));
}

/// A program of the image that asks the kernel for "whatever runs me" runs the sandbox's own program, and can not change it.
pub(crate) fn t02_the_program_of_the_engine_cannot_be_written() {
    let bench = Bench::new();
    let before = this_program();
    let script = bench.path("base/bin/again");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let again = Process {
        args: vec!["/bin/again".to_owned()],
        ..bench.process("")
    };
    // Whatever that does, it does in the sandbox.
    drop(bench.attempt(&again));
    let ran = bench.run(&bench.process(
        "for p in 1 $PPID self; do echo x > /proc/$p/exe; chmod 777 /proc/$p/exe; done; cat /proc/1/exe | wc -c",
    ));
    // `self` is busybox, which the step may well write: it is in its own root.
    assert!(
        ran.printed.contains("/proc/1/exe: Permission denied"),
        "{}",
        ran.printed
    );
    assert_eq!(this_program(), before);
}

/// Links of the image where the engine makes things lead to places in the image, or are refused.
pub(crate) fn t11_links_of_the_image_lead_to_nothing_of_the_host() {
    for (link, target) in [
        ("proc", "/etc"),
        ("dev", "/tmp/elsewhere"),
        ("sys", "../../../../tmp"),
        ("etc/resolv.conf", "/../../../../canary/file"),
        ("etc/hosts", "/proc/sys/kernel/hostname"),
    ] {
        let bench = Bench::new();
        let canary = bench.make_dir("canary");
        fs::write(canary.join("file"), "alive").unwrap();
        let place = bench.path("base").join(link);
        if place.is_dir() {
            fs::remove_dir(&place).unwrap();
        }
        fs::create_dir_all(bench.path("base/tmp/elsewhere")).unwrap();
        symlink(target, &place).unwrap();
        match bench.attempt(&bench.process("cat /proc/sys/kernel/hostname; echo x > /proc/sys/kernel/hostname; true")) {
            Err(ExecError::Refused { .. } | ExecError::Setup { .. }) => {}
            Ok(ran) => assert!(!ran.printed.contains("alive"), "{link}: {}", ran.printed),
            Err(error) => panic!("{link}: {error:?}"),
        }
        assert_eq!(fs::read(canary.join("file")).unwrap(), b"alive", "{link}");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 1, "{link}");
    }
}

/// Numbers that are no ids, and those that wrap to root, are no users.
pub(crate) fn t12_no_number_wraps_to_root() {
    let bench = Bench::new();
    for user in [
        "4294967296",
        "4294967295",
        "2147483647",
        "-1",
        "+0",
        "0:4294967296",
        "99999999999999999999",
    ] {
        let message = bench.refusal(&Process {
            user: user.to_owned(),
            ..bench.process("id -u")
        });
        assert!(
            message.contains("is not an id between 0 and 2147483646"),
            "{user}: {message}"
        );
    }
    // Nor are those that the image has in its database.
    fs::write(
        bench.path("base/etc/passwd"),
        "big:x:4294967296:0::/:\nneg:x:-1:0::/:\nnone:x:4294967295:0::/:\n",
    )
    .unwrap();
    for user in ["big", "neg", "none", "0x0"] {
        let message = bench.refusal(&Process {
            user: user.to_owned(),
            ..bench.process("id -u")
        });
        assert!(message.contains("unable to find user"), "{user}: {message}");
    }
}

/// The groups of a step are those of its user in the image; none of the engine's.
pub(crate) fn t13_groups_of_the_engine_stay_outside() {
    let bench = Bench::new();
    for (user, groups) in [("", "0"), ("joe", "66 77"), ("1000", "0"), ("1000:5", "5")] {
        let process = Process {
            user: user.to_owned(),
            ..bench.process("grep ^Groups: /proc/self/status")
        };
        let ran = bench.run(&process);
        assert_eq!(ran.printed.trim(), format!("Groups:\t{groups}"), "{user}");
    }
}

/// Calls, each with its arguments and what it must fail with.
fn calls() -> Vec<(&'static str, libc::c_long, [u64; 3], i32)> {
    let denied = [
        ("add_key", libc::SYS_add_key),
        ("keyctl", libc::SYS_keyctl),
        ("request_key", libc::SYS_request_key),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("kexec_load", libc::SYS_kexec_load),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("delete_module", libc::SYS_delete_module),
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("open_tree", libc::SYS_open_tree),
        ("move_mount", libc::SYS_move_mount),
        ("fsopen", libc::SYS_fsopen),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("pivot_root", libc::SYS_pivot_root),
        ("setns", libc::SYS_setns),
        ("unshare", libc::SYS_unshare),
        ("swapon", libc::SYS_swapon),
        ("acct", libc::SYS_acct),
        ("settimeofday", libc::SYS_settimeofday),
        ("quotactl", libc::SYS_quotactl),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("syslog", libc::SYS_syslog),
        ("reboot", libc::SYS_reboot),
        ("sethostname", libc::SYS_sethostname),
    ];
    let mut all: Vec<_> = denied
        .into_iter()
        .map(|(name, number)| (name, number, [0; 3], libc::EPERM))
        .collect();
    let stream = 1;
    for (name, family) in [
        ("AF_VSOCK", 40),
        ("AF_ALG", 38),
        ("AF_BLUETOOTH", 31),
        ("AF_CAN", 29),
        ("AF_XDP", 44),
    ] {
        all.push((name, libc::SYS_socket, [family, stream, 0], libc::EAFNOSUPPORT));
    }
    let namespace = |flag: i32| u64::from(flag.cast_unsigned()) | 17;
    all.extend([
        (
            "clone into a user namespace",
            libc::SYS_clone,
            [namespace(libc::CLONE_NEWUSER), 0, 0],
            libc::EPERM,
        ),
        (
            "clone into a mount namespace",
            libc::SYS_clone,
            [namespace(libc::CLONE_NEWNS), 0, 0],
            libc::EPERM,
        ),
        ("clone3", libc::SYS_clone3, [0; 3], libc::ENOSYS),
        ("TIOCSTI", libc::SYS_ioctl, [0, 0x5412, 0], libc::EPERM),
        (
            "TIOCSTI with high bits",
            libc::SYS_ioctl,
            [0, 0x1_0000_5412, 0],
            libc::EPERM,
        ),
        ("TIOCLINUX", libc::SYS_ioctl, [0, 0x541C, 0], libc::EPERM),
        (
            "an old personality",
            libc::SYS_personality,
            [0x040_0000, 0, 0],
            libc::EPERM,
        ),
        ("a number of no call", 4000, [0; 3], libc::ENOSYS),
    ]);
    if cfg!(target_arch = "x86_64") {
        all.push(("getpid of x32", 0x4000_0000 + libc::SYS_getpid, [0; 3], libc::ENOSYS));
    }
    all
}

/// The filter as the kernel applies it, asked from inside by a program of the host.
pub(crate) fn t15_dangerous_calls_are_refused() {
    if !Path::new("/usr/bin/perl").exists() {
        assert!(!required(), "RBUILD_TEST_REQUIRE=all, but there is no perl");
        crate::say("SKIPPED t15_dangerous_calls_are_refused: there is no perl");
        return;
    }
    let bench = Bench::new();
    let mut program = String::from("$| = 1; ");
    let mut expected = String::new();
    for (name, number, [a, b, c], error) in calls() {
        program.push_str(&format!(
            "$! = 0; $r = syscall({number}, {a}, {b}, {c}); printf(\"%s: %d\\n\", '{name}', $r == -1 ? $! : 0); "
        ));
        expected.push_str(&format!("{name}: {error}\n"));
    }
    // The program and its libraries are those of the host, which the step sees read-only.
    let host = StepMount {
        target: "/host".to_owned(),
        source: MountSource::Directory {
            path: PathBuf::from("/"),
            subpath: PathBuf::new(),
        },
        readonly: true,
    };
    let process = Process {
        mounts: vec![host],
        files: vec![StepFile {
            path: "/program".to_owned(),
            bytes: program.into_bytes(),
            mode: 0o644,
        }],
        ..bench.process("busybox chroot /host /usr/bin/perl < /program")
    };
    let ran = bench.run(&process);
    assert_eq!((ran.printed.as_str(), ran.said.as_str()), (expected.as_str(), ""));
    // What steps need is there.
    bench.check(
        "ip addr show lo | grep -c 127.0.0.1; mkdir /x && cd /x && echo fine",
        "1\nfine\n",
    );
}

/// A step has no terminal to type into, and its own session.
pub(crate) fn t16_a_step_has_no_terminal() {
    let bench = Bench::new();
    let script = "cat | wc -c; cut -d' ' -f6,7 /proc/$$/stat | sed s/^$$/own/; echo x > /dev/tty";
    let ran = bench.run(&bench.process(script));
    assert!(ran.printed.starts_with("0\nown 0\n"), "{}", ran.printed);
    assert_ne!(
        ran.report.outcome,
        Outcome::Code(0),
        "there is a terminal: {}",
        ran.printed
    );
}

/// Device nodes can be made anywhere, and open nothing: in the layer, in memory, and where the engine's own nodes are.
pub(crate) fn t06_device_nodes_of_a_step_open_nothing() {
    let bench = Bench::new();
    let tmpfs = StepMount {
        target: "/mem".to_owned(),
        source: MountSource::Tmpfs {
            size_bytes: None,
            mode: 0o1777,
        },
        readonly: false,
    };
    // One that every container may open by any rule of control groups: what is left is the mount.
    let script =
        "for d in /tmp /mem /dev /dev/shm; do mknod $d/made c 1 5 && cat $d/made | dd bs=1 count=1 | wc -c; done 2>&1";
    let process = Process {
        mounts: vec![tmpfs],
        ..bench.process(script)
    };
    let ran = bench.run(&process);
    assert_eq!(ran.printed.matches("ermission denied").count(), 4, "{}", ran.printed);
    let devices = "for d in zero full random urandom; do dd if=/dev/$d bs=1 count=1 2>/dev/null | wc -c; done; \
                   echo x > /dev/null; stat -c '%F %a %t:%T' /dev/null /dev/tty; ls /dev | wc -l";
    let standard = "character special file 666 1:3\ncharacter special file 666 5:0\n";
    bench.check(devices, &format!("1\n1\n1\n1\n{standard}14\n"));
}

/// A generated file is not written through, and where it stands is not the step's choice.
pub(crate) fn t06_generated_files_land_in_the_image_only() {
    let bench = Bench::new();
    symlink("/proc/self", bench.path("base/me")).unwrap();
    let file = StepFile {
        path: "/me/attr/exec".to_owned(),
        bytes: b"x".to_vec(),
        mode: 0o644,
    };
    let process = Process {
        files: vec![file],
        ..bench.process("true")
    };
    let message = bench.refusal(&process);
    assert!(message.contains("file system of the kernel"), "{message}");
}
