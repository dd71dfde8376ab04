//! The system call filter of a step, compiled from the table in `seccomp.txt`.
//!
//! Calls are grouped into runs of equal action and found by a binary search, so that a call costs eight comparisons and not
//! one per call of the table. 32-bit and x32 entry points are closed: their numbers mean other calls.

use crate::sys::FilterOp;

const TABLE: &str = include_str!("seccomp.txt");

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;
const COLUMN: usize = if cfg!(target_arch = "x86_64") { 1 } else { 2 };
/// Bit that marks the x32 entry points.
const X32: u32 = 0x4000_0000;

const RET_ALLOW: u32 = 0x7FFF_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL: u32 = 0x8000_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// mount, cgroup, uts, ipc, user, pid and network namespaces.
const CLONE_NAMESPACES: u32 = 0x7E02_0000;
/// Local, IPv4, IPv6, netlink, packet.
const FAMILIES: [u32; 5] = [1, 2, 10, 16, 17];
/// Local and netlink.
const LOCAL_FAMILIES: [u32; 2] = [1, 16];
/// Calls that name another process first: a signal, a handle, its memory, its limits, its place in the schedule.
const FIRST_IS_PROCESS: [&str; 13] = [
    "kill",
    "tkill",
    "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_open",
    "process_vm_readv",
    "process_vm_writev",
    "prlimit64",
    "sched_setparam",
    "sched_setscheduler",
    "sched_setaffinity",
    "sched_setattr",
];
/// Calls that name it after what they do.
const SECOND_IS_PROCESS: [&str; 3] = ["ptrace", "setpriority", "ioprio_set"];
/// Processes that a filter can name: each takes two of its 4096 instructions.
pub(super) const MOST_GUARDED: usize = 1500;
/// TIOCSTI and TIOCLINUX.
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541C];
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

// Offsets in the kernel's `seccomp_data`; of an argument, the low half (both architectures are little-endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

fn load(offset: u32) -> FilterOp {
    FilterOp {
        code: 0x20,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

fn ret(value: u32) -> FilterOp {
    FilterOp {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: value,
    }
}

fn errno(number: u32) -> FilterOp {
    ret(RET_ERRNO | number)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> FilterOp {
    FilterOp { code, jt, jf, k }
}

const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;

/// The filter for this architecture, which also refuses the calls with these names.
pub(super) fn program(refused: &[&str]) -> Vec<FilterOp> {
    compile(&[], &FAMILIES, refused)
}

/// The same for a step that shares process ids with others, and may have no network: it cannot name `processes` where it could
/// harm them, nor all processes at once, and its sockets are local without a network.
///
/// At most [`MOST_GUARDED`] processes are looked at.
pub(super) fn guarding(processes: &[u32], has_network: bool, refused: &[&str]) -> Vec<FilterOp> {
    let families: &[u32] = if has_network { &FAMILIES } else { &LOCAL_FAMILIES };
    compile(
        &guards(&processes[..processes.len().min(MOST_GUARDED)]),
        families,
        refused,
    )
}

/// Refuses calls whose argument is one of `processes`, or a group of them. What is not refused goes on with the number loaded.
fn guards(processes: &[u32]) -> Vec<FilterOp> {
    // 1 is not listed where nobody may look at it, and -1 is everybody.
    let mut named = vec![1, u32::MAX];
    named.extend(processes.iter().flat_map(|id| [*id, id.wrapping_neg()]));
    let mut refusal = Vec::new();
    // A conditional jump reaches 255 instructions.
    for part in named.chunks(250) {
        for (at, id) in part.iter().enumerate() {
            let to_refusal = u8::try_from(part.len() - at).expect("a part is shorter than 251");
            refusal.push(jump(IF_EQUAL, *id, to_refusal, 0));
        }
        refusal.extend([jump(JUMP, 1, 0, 0), errno(EPERM)]);
    }
    refusal.push(load(NUMBER));
    let length = u32::try_from(refusal.len()).expect("a filter has at most 4096 instructions");
    let is_named = |name: &str, list: &[&str]| list.contains(&name);
    let mut ops = Vec::new();
    let first: Vec<u32> = numbers(|name| is_named(name, &FIRST_IS_PROCESS));
    let second: Vec<u32> = numbers(|name| is_named(name, &SECOND_IS_PROCESS));
    // Number by number to the load of the argument; past both loads and the refusals if it is none of them.
    let (ones, twos) = (first.len(), second.len());
    for (at, number) in first.iter().enumerate() {
        let distance = u8::try_from(ones - at + twos).expect("the lists are short");
        ops.push(jump(IF_EQUAL, *number, distance, 0));
    }
    for (at, number) in second.iter().enumerate() {
        let distance = u8::try_from(twos - at + 2).expect("the lists are short");
        ops.push(jump(IF_EQUAL, *number, distance, 0));
    }
    ops.push(jump(JUMP, length + 3, 0, 0));
    ops.extend([load(ARGUMENTS), jump(JUMP, 1, 0, 0), load(ARGUMENTS + 8)]);
    ops.extend(refusal);
    ops
}

/// Numbers of the calls with these names.
fn numbers(wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let fields = TABLE.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let number = |fields: Vec<&str>| match fields.first().is_some_and(|name| wanted(name)) {
        true => fields.get(COLUMN)?.parse().ok(),
        false => None,
    };
    fields.filter_map(number).collect()
}

fn compile(guards: &[FilterOp], families: &[u32], refused: &[&str]) -> Vec<FilterOp> {
    let mut ops = vec![
        load(ARCHITECTURE),
        jump(IF_EQUAL, ARCH, 1, 0),
        ret(RET_KILL),
        load(NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        ops.extend([jump(IF_AT_LEAST, X32, 0, 1), errno(ENOSYS)]);
    }
    ops.extend_from_slice(guards);
    let mut plain: Vec<(u32, FilterOp)> = Vec::new();
    for (name, number, action) in rows() {
        let action = if refused.contains(&name) { "eperm" } else { action };
        match (action, by_argument(action, families)) {
            (_, Some(block)) => {
                let skip = u8::try_from(block.len()).expect("the blocks below are a few instructions long");
                ops.push(jump(IF_EQUAL, number, 0, skip));
                ops.extend(block);
            }
            ("allow", None) => plain.push((number, ret(RET_ALLOW))),
            ("eperm", None) => plain.push((number, errno(EPERM))),
            _ => plain.push((number, errno(ENOSYS))),
        }
    }
    plain.sort_unstable_by_key(|(number, _)| *number);
    ops.extend(search(&runs(&plain)));
    ops
}

/// Name, number and action of every call that this architecture has.
fn rows() -> impl Iterator<Item = (&'static str, u32, &'static str)> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        Some((*fields.first()?, fields.get(COLUMN)?.parse().ok()?, *fields.get(3)?))
    })
}

/// The check of an action that depends on an argument. It ends in a return on every path.
fn by_argument(action: &str, families: &[u32]) -> Option<Vec<FilterOp>> {
    match action {
        "clone" => Some(vec![
            load(ARGUMENTS),
            jump(IF_ANY_BIT, CLONE_NAMESPACES, 0, 1),
            errno(EPERM),
            ret(RET_ALLOW),
        ]),
        "socket" => Some(one_of(0, families, ret(RET_ALLOW), errno(EAFNOSUPPORT))),
        "ioctl" => Some(one_of(1, &TERMINAL_INPUT, errno(EPERM), ret(RET_ALLOW))),
        "personality" => Some(one_of(0, &PERSONALITIES, ret(RET_ALLOW), errno(EPERM))),
        _ => None,
    }
}

fn one_of(argument: u32, values: &[u32], listed: FilterOp, other: FilterOp) -> Vec<FilterOp> {
    let mut ops = vec![load(ARGUMENTS + 8 * argument)];
    for value in values {
        ops.extend([jump(IF_EQUAL, *value, 0, 1), listed]);
    }
    ops.push(other);
    ops
}

/// Runs of equal action that cover every number: where each starts, and its action.
fn runs(calls: &[(u32, FilterOp)]) -> Vec<(u32, FilterOp)> {
    let mut runs: Vec<(u32, FilterOp)> = Vec::new();
    let mut next = 0;
    for (number, action) in calls {
        if *number > next {
            begin(&mut runs, next, errno(ENOSYS));
        }
        begin(&mut runs, *number, *action);
        next = number + 1;
    }
    begin(&mut runs, next, errno(ENOSYS));
    runs
}

fn begin(runs: &mut Vec<(u32, FilterOp)>, start: u32, action: FilterOp) {
    if runs.last().is_none_or(|(_, last)| *last != action) {
        runs.push((start, action));
    }
}

/// A binary search over `runs` that returns the action of the run that holds the number.
fn search(runs: &[(u32, FilterOp)]) -> Vec<FilterOp> {
    if let [(_, action)] = runs {
        return vec![*action];
    }
    let (low, high) = runs.split_at(runs.len() / 2);
    let Some((start, _)) = high.first() else {
        return vec![errno(ENOSYS)];
    };
    let low = search(low);
    let distance = low.len();
    // A conditional jump reaches 255 instructions; an unconditional one reaches anything.
    let mut ops = match u8::try_from(distance) {
        Ok(near) => vec![jump(IF_AT_LEAST, *start, near, 0)],
        Err(_) => {
            let far = u32::try_from(distance).expect("a filter has at most 4096 instructions");
            vec![jump(IF_AT_LEAST, *start, 0, 1), jump(JUMP, far, 0, 0)]
        }
    };
    ops.extend(low);
    ops.extend(search(high));
    ops
}

#[cfg(test)]
mod tests {
    use super::{ARCH, ENOSYS, EPERM, FilterOp, RET_ALLOW, RET_ERRNO, RET_KILL, guarding, program, rows};

    /// Runs the filter as the kernel would.
    fn verdict(arch: u32, number: u32, arguments: [u32; 2]) -> u32 {
        verdict_of(&program(&[]), arch, number, arguments)
    }

    fn verdict_of(ops: &[FilterOp], arch: u32, number: u32, arguments: [u32; 2]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let op = ops[at];
            at += 1;
            let holds = match op.code {
                0x06 => return op.k,
                0x20 => {
                    value = match op.k {
                        0 => number,
                        4 => arch,
                        16 => arguments[0],
                        24 => arguments[1],
                        other => panic!("load of {other}"),
                    };
                    continue;
                }
                0x05 => {
                    at += op.k as usize;
                    continue;
                }
                0x15 => value == op.k,
                0x35 => value >= op.k,
                0x45 => value & op.k != 0,
                other => panic!("operation {other}"),
            };
            at += usize::from(if holds { op.jt } else { op.jf });
        }
    }

    fn number(call: libc::c_long) -> u32 {
        u32::try_from(call).unwrap()
    }

    #[test]
    fn guarded_processes_cannot_be_named_and_others_can() {
        // More than one conditional jump reaches.
        let processes: Vec<u32> = (100..500).collect();
        let ops = guarding(&processes, true, &[]);
        assert!(ops.len() < 4096);
        let refused = RET_ERRNO | EPERM;
        let kill = |pid: i32| verdict_of(&ops, ARCH, number(libc::SYS_kill), [pid.cast_unsigned(), 9]);
        for pid in [100, 227, 499, -100, -499, -1, 1] {
            assert_eq!(kill(pid), refused, "{pid}");
        }
        for pid in [0, 99, 500, -500, -2] {
            assert_eq!(kill(pid), RET_ALLOW, "{pid}");
        }
        let ptrace = |pid| verdict_of(&ops, ARCH, number(libc::SYS_ptrace), [16, pid]);
        assert_eq!((ptrace(300), ptrace(0), ptrace(501)), (refused, RET_ALLOW, RET_ALLOW));
        let last = verdict_of(&ops, ARCH, number(libc::SYS_sched_setattr), [300, 0]);
        assert_eq!(last, refused);
        // Of all other calls, arguments mean something else.
        assert_eq!(verdict_of(&ops, ARCH, number(libc::SYS_read), [300, 300]), RET_ALLOW);
        assert_eq!(verdict_of(&ops, ARCH, number(libc::SYS_mount), [0, 0]), refused);
        assert!(guarding(&(2..10_000).collect::<Vec<u32>>(), true, &[]).len() < 4096);
    }

    #[test]
    fn without_a_network_sockets_are_local() {
        let ops = guarding(&[], false, &[]);
        let socket = |family| verdict_of(&ops, ARCH, number(libc::SYS_socket), [family, 1]);
        assert_eq!((socket(1), socket(16)), (RET_ALLOW, RET_ALLOW));
        let refused = RET_ERRNO | super::EAFNOSUPPORT;
        assert_eq!((socket(2), socket(10), socket(17)), (refused, refused, refused));
    }

    #[test]
    fn every_row_of_the_table_gets_its_own_action() {
        for (_, call, action) in rows() {
            let expected = match action {
                "allow" | "clone" | "ioctl" | "personality" => RET_ALLOW,
                "eperm" => RET_ERRNO | EPERM,
                "enosys" => RET_ERRNO | ENOSYS,
                "socket" => RET_ERRNO | super::EAFNOSUPPORT,
                other => panic!("unknown action `{other}`"),
            };
            assert_eq!(verdict(ARCH, call, [0, 0]), expected, "call {call}");
        }
    }

    #[test]
    fn every_number_up_to_the_newest_is_decided() {
        let known: Vec<u32> = rows().map(|(_, number, _)| number).collect();
        let old = if cfg!(target_arch = "x86_64") { 0..335 } else { 424..425 };
        for number in old.chain(424..469) {
            assert!(known.contains(&number), "{number} is not in the table");
        }
    }

    #[test]
    fn what_the_kernel_exposes_to_escapes_is_closed() {
        for call in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
        ] {
            assert_eq!(verdict(ARCH, number(call), [0, 0]), RET_ERRNO | EPERM, "call {call}");
        }
        assert_eq!(verdict(ARCH, number(libc::SYS_clone3), [0, 0]), RET_ERRNO | ENOSYS);
        assert_eq!(verdict(ARCH, 5000, [0, 0]), RET_ERRNO | ENOSYS);
        assert_eq!(verdict(0x4000_0003, 1, [0, 0]), RET_KILL);
    }

    #[test]
    fn a_call_may_be_refused_beyond_the_table() {
        let ops = program(&["ptrace", "chroot"]);
        for call in [libc::SYS_ptrace, libc::SYS_chroot] {
            assert_eq!(verdict(ARCH, number(call), [0, 0]), RET_ALLOW, "call {call}");
            assert_eq!(
                verdict_of(&ops, ARCH, number(call), [0, 0]),
                RET_ERRNO | EPERM,
                "call {call}"
            );
        }
        assert_eq!(verdict_of(&ops, ARCH, number(libc::SYS_read), [0, 0]), RET_ALLOW);
    }

    #[test]
    fn arguments_decide_for_clone_socket_and_ioctl() {
        assert_eq!(
            verdict(ARCH, number(libc::SYS_clone), [0x1000_0011, 0]),
            RET_ERRNO | EPERM
        );
        assert_eq!(verdict(ARCH, number(libc::SYS_clone), [0x11, 0]), RET_ALLOW);
        assert_eq!(verdict(ARCH, number(libc::SYS_socket), [2, 1]), RET_ALLOW);
        assert_eq!(
            verdict(ARCH, number(libc::SYS_socket), [40, 1]),
            RET_ERRNO | super::EAFNOSUPPORT
        );
        assert_eq!(verdict(ARCH, number(libc::SYS_ioctl), [0, 0x5412]), RET_ERRNO | EPERM);
    }
}
