//! Limits that the kernel keeps for each process of a step.

use rustix::io::Errno;
use rustix::process::{Resource as Kernel, Rlimit, getrlimit, setrlimit};

use super::spec::{Attempt, Failure};
use crate::ids::Ids;
use crate::limits::{DEFAULT_PROCESSES, Resource, Ulimit};

/// What every step has, unless something else is asked for.
pub(super) const USUAL: [Ulimit; 2] = [
    // Helpers of the machine that take dumps never see a step.
    Ulimit {
        of: Resource::Core,
        soft: Some(0),
        hard: Some(0),
    },
    // Many old programs loop over the soft limit of open files, so it is low; the hard one is high.
    Ulimit {
        of: Resource::Nofile,
        soft: Some(1024),
        hard: Some(1 << 20),
    },
];

/// Processes and threads of a user inside a user namespace: where there is no control group, this is what stands between a step and
/// all processes that the user of the engine may have.
const PROCESSES_INSIDE: u64 = DEFAULT_PROCESSES;

/// Limits the calling process.
pub(super) fn apply(asked: &[Ulimit], ids: Ids) -> Result<(), Failure> {
    if !ids.is_outside() && !asked.iter().any(|limit| limit.of == Resource::Nproc) {
        let highest = getrlimit(Kernel::Nproc).maximum;
        let highest = highest.map_or(PROCESSES_INSIDE, |highest| highest.min(PROCESSES_INSIDE));
        let limit = Rlimit {
            current: Some(highest),
            maximum: Some(highest),
        };
        setrlimit(Kernel::Nproc, limit).attempt("limit processes")?;
    }
    for usual in &USUAL {
        if !asked.iter().any(|limit| limit.of == usual.of) {
            apply_usual(usual)?;
        }
    }
    asked.iter().try_for_each(apply_asked)
}

fn apply_usual(limit: &Ulimit) -> Result<(), Failure> {
    let kernel = kernel_name(limit.of);
    match setrlimit(kernel, rlimit(limit)) {
        // The hard limit of the engine is lower here; then that one stays.
        Err(Errno::PERM) => setrlimit(
            kernel,
            Rlimit {
                current: limit.soft,
                ..getrlimit(kernel)
            },
        ),
        result => result,
    }
    .attempt(&format!("limit {}", limit.of.name()))
}

fn apply_asked(limit: &Ulimit) -> Result<(), Failure> {
    let kernel = kernel_name(limit.of);
    match setrlimit(kernel, rlimit(limit)) {
        Err(Errno::PERM) => {
            let show = |number: Option<u64>| number.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
            let (name, asked) = (limit.of.name(), show(limit.hard));
            let most = show(getrlimit(kernel).maximum);
            Err(Failure::Refused(format!(
                "--ulimit: the hard limit `{name}` cannot be raised to {asked}: here it is {most}"
            )))
        }
        result => result.attempt(&format!("limit {}", limit.of.name())),
    }
}

fn rlimit(limit: &Ulimit) -> Rlimit {
    Rlimit {
        current: limit.soft,
        maximum: limit.hard,
    }
}

fn kernel_name(of: Resource) -> Kernel {
    match of {
        Resource::Core => Kernel::Core,
        Resource::Cpu => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Fsize => Kernel::Fsize,
        Resource::Locks => Kernel::Locks,
        Resource::Memlock => Kernel::Memlock,
        Resource::Msgqueue => Kernel::Msgqueue,
        Resource::Nice => Kernel::Nice,
        Resource::Nofile => Kernel::Nofile,
        Resource::Nproc => Kernel::Nproc,
        Resource::Rss => Kernel::Rss,
        Resource::Rtprio => Kernel::Rtprio,
        Resource::Rttime => Kernel::Rttime,
        Resource::Sigpending => Kernel::Sigpending,
        Resource::Stack => Kernel::Stack,
    }
}
