//! What one step may use at most: asked for with a build, and held down by the server.
//!
//! Nothing of this enters a cache key: a limit decides whether a step ends well, never what it makes.

use std::fmt;
use std::time::Duration;

use proto::v1;
use serde::{Deserialize, Serialize};

use crate::request::{Blame, BuildError, RequestError};

/// Least memory that a step can be held to: less does not even start a shell.
pub const LEAST_MEMORY_BYTES: u64 = 6 << 20;
/// Processes and threads of a step that nobody said anything about.
pub const DEFAULT_PROCESSES: u64 = 8192;
/// How long steps of other users than the server's own may take, unless the server was started with another limit.
const TIME_OF_OTHERS: Duration = Duration::from_secs(2 * 3600);

/// Limits of one step; what is not there is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long it may take.
    pub time: Option<Duration>,
    /// Memory, with what it keeps in file systems in memory; it gets no swap beside that.
    pub memory_bytes: Option<u64>,
    /// Processors.
    pub cpu: CpuLimits,
    /// Processes and threads; [`DEFAULT_PROCESSES`] where there is none.
    pub processes: Option<u64>,
    /// Bytes on disk that it may add to the root filesystem.
    pub disk_bytes: Option<u64>,
    /// Limits that the kernel keeps for each process.
    pub ulimits: Vec<Ulimit>,
}

/// What all steps of a build get beside what its Dockerfile says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepSettings {
    /// What each may use at most.
    pub limits: Limits,
    /// What the server gives at most.
    pub of_server: Limits,
    /// Certificates, as PEM, that they trust beside those of their image.
    pub ca_bundle: Option<Vec<u8>>,
}

/// Limits on processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimits {
    /// Time in each period.
    pub quota: Option<CpuQuota>,
    /// Weight beside other groups, 2 to 262144; 1024 is that of everybody.
    pub shares: Option<u64>,
    /// Processors it may run on, in the kernel's notation: `0-2,5`.
    pub cpuset: Option<String>,
}

/// Processor time in each period, over all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuQuota {
    /// Microseconds.
    pub quota_us: u64,
    /// Microseconds, 1,000 to 1,000,000.
    pub period_us: u64,
}

/// A limit that the kernel keeps for each process. No number is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Of what.
    pub of: Resource,
    /// In force; a process may raise it up to the hard one.
    pub soft: Option<u64>,
    /// The most that the soft one can be.
    pub hard: Option<u64>,
}

/// What a [`Ulimit`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of `getrlimit(2)`, which explains them")]
pub enum Resource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// Every resource by its name on the command line.
const RESOURCES: [(&str, Resource); 15] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

impl Resource {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = RESOURCES.iter().find(|(_, resource)| *resource == self);
        found.map_or("", |(name, _)| name)
    }

    /// The resource of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = RESOURCES.iter().find(|(known, _)| *known == name);
        found.map(|(_, resource)| *resource)
    }
}

/// A number of bytes in the largest unit that keeps it whole: `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = |(_, shift): &(&str, u32)| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match units.into_iter().find(whole) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// A duration in the units of the command line: `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(self.0.subsec_millis()), "ms"),
        ];
        if parts.iter().all(|(number, _)| *number == 0) {
            return f.write_str("0s");
        }
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Limits {
    /// Checks limits from the wire, where 0 and nothing mean none.
    ///
    /// # Errors
    /// The first that no kernel would take.
    pub fn from_wire(wire: v1::StepLimits) -> Result<Self, RequestError> {
        let some = |number: u64| (number > 0).then_some(number);
        let limits = Self {
            time: some(wire.time_ms).map(Duration::from_millis),
            memory_bytes: some(wire.memory_bytes),
            cpu: CpuLimits {
                quota: some(wire.cpu_quota_us).map(|quota_us| CpuQuota {
                    quota_us,
                    period_us: some(wire.cpu_period_us).unwrap_or(100_000),
                }),
                shares: some(wire.cpu_shares),
                cpuset: (!wire.cpuset_cpus.is_empty()).then_some(wire.cpuset_cpus),
            },
            processes: some(wire.processes),
            disk_bytes: some(wire.disk_bytes),
            ulimits: wire.ulimits.into_iter().map(ulimit).collect::<Result<_, _>>()?,
        };
        limits.check().map(|()| limits)
    }

    fn check(&self) -> Result<(), RequestError> {
        let refuse = |words: String| Err(RequestError(words));
        if let Some(bytes) = self.memory_bytes.filter(|bytes| *bytes < LEAST_MEMORY_BYTES) {
            let least = Size(LEAST_MEMORY_BYTES);
            return refuse(format!("--memory: {} is less than a step needs: {least}", Size(bytes)));
        }
        if let Some(CpuQuota { quota_us, period_us }) = self.cpu.quota {
            if !(1_000..=1_000_000).contains(&period_us) {
                return refuse(format!("--cpu-period: {period_us} is not between 1000 and 1000000"));
            }
            if quota_us < 1_000 {
                return refuse(format!("--cpu-quota: {quota_us} is less than 1000 microseconds"));
            }
        }
        if let Some(shares) = self.cpu.shares.filter(|shares| !(2..=262_144).contains(shares)) {
            return refuse(format!("--cpu-shares: {shares} is not between 2 and 262144"));
        }
        if let Some(set) = &self.cpu.cpuset
            && numbers(set).is_none()
        {
            return refuse(format!(
                "--cpuset-cpus: `{}` is no list of processors",
                set.escape_debug()
            ));
        }
        Ok(())
    }

    /// Whether steps can fail of them.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What a step gets that asks for `self` of a server with the limits `ours`.
    ///
    /// # Errors
    /// Something is asked for beyond what the server gives.
    pub fn within(self, ours: &Self) -> Result<Self, BuildError> {
        let show_size = |bytes: &u64| Size(*bytes).to_string();
        Ok(Self {
            time: lower("--step-timeout", self.time, ours.time, |time| Span(*time).to_string())?,
            memory_bytes: lower("--memory", self.memory_bytes, ours.memory_bytes, show_size)?,
            cpu: self.cpu.within(&ours.cpu)?,
            processes: lower("--pids-limit", self.processes, ours.processes, u64::to_string)?,
            disk_bytes: lower("--step-disk", self.disk_bytes, ours.disk_bytes, show_size)?,
            ulimits: ulimits_within(self.ulimits, &ours.ulimits)?,
        })
    }

    /// These limits of a server, for clients of other users than its own, who get some even where it has none.
    #[must_use]
    pub fn for_others(&self) -> Self {
        let mut ulimits = self.ulimits.clone();
        if !ulimits.iter().any(|limit| limit.of == Resource::Core) {
            // A dump may start a program of the machine, outside of every sandbox.
            ulimits.push(Ulimit {
                of: Resource::Core,
                soft: Some(0),
                hard: Some(0),
            });
        }
        Self {
            time: self.time.or(Some(TIME_OF_OTHERS)),
            processes: self.processes.or(Some(DEFAULT_PROCESSES)),
            ulimits,
            ..self.clone()
        }
    }
}

impl CpuLimits {
    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        *self != Self::default()
    }

    fn within(self, ours: &Self) -> Result<Self, BuildError> {
        let show = |quota: &CpuQuota| {
            let hundredths = quota.quota_us.saturating_mul(100) / quota.period_us;
            format!("{}.{:02} processors", hundredths / 100, hundredths % 100)
        };
        if let (Some(asked), Some(set)) = (&self.cpuset, &ours.cpuset) {
            let (asked_numbers, set_numbers) = (numbers(asked), numbers(set));
            let inside = asked_numbers.zip(set_numbers);
            if !inside.is_some_and(|(asked, set)| asked.iter().all(|number| set.contains(number))) {
                return Err(too_much("--cpuset-cpus", asked, set));
            }
        }
        Ok(Self {
            quota: lower("--cpus", self.quota, ours.quota, show)?,
            shares: lower("--cpu-shares", self.shares, ours.shares, u64::to_string)?,
            cpuset: self.cpuset.or_else(|| ours.cpuset.clone()),
        })
    }
}

impl PartialOrd for CpuQuota {
    /// By the share of time.
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        let ours = u128::from(self.quota_us) * u128::from(other.period_us);
        let theirs = u128::from(other.quota_us) * u128::from(self.period_us);
        Some(ours.cmp(&theirs))
    }
}

fn too_much(flag: &str, asked: &str, most: &str) -> BuildError {
    BuildError::new(
        Blame::Usage,
        format!("{flag}: {asked} is more than this build server gives a step: {most}"),
    )
    .help(format!("start the server with a larger limit: `rbuild serve {flag}`"))
}

fn lower<T: PartialOrd + Copy>(
    flag: &str,
    asked: Option<T>,
    most: Option<T>,
    show: impl Fn(&T) -> String,
) -> Result<Option<T>, BuildError> {
    match (asked, most) {
        (Some(asked), Some(most)) if asked > most => Err(too_much(flag, &show(&asked), &show(&most))),
        _ => Ok(asked.or(most)),
    }
}

fn ulimits_within(mut asked: Vec<Ulimit>, ours: &[Ulimit]) -> Result<Vec<Ulimit>, BuildError> {
    let show = |number: Option<u64>| number.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
    for most in ours {
        match asked.iter().find(|limit| limit.of == most.of) {
            None => asked.push(*most),
            Some(limit) if limit.hard.unwrap_or(u64::MAX) > most.hard.unwrap_or(u64::MAX) => {
                let name = limit.of.name();
                let asked = format!("{name}={}", show(limit.hard));
                return Err(too_much("--ulimit", &asked, &format!("{name}={}", show(most.hard))));
            }
            Some(_) => {}
        }
    }
    Ok(asked)
}

fn ulimit(wire: v1::step_limits::Ulimit) -> Result<Ulimit, RequestError> {
    let v1::step_limits::Ulimit { name, soft, hard } = wire;
    let of = Resource::named(&name)
        .ok_or_else(|| RequestError(format!("--ulimit: there is no limit `{}`", name.escape_debug())))?;
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(RequestError(format!(
            "--ulimit: {name}: the soft limit is above the hard one"
        )));
    }
    Ok(Ulimit { of, soft, hard })
}

/// Most processors that a list may name, so that a range cannot fill the memory.
const MOST_PROCESSORS: u32 = 8192;

/// The numbers in a list such as `0-2,5`; nothing if it is none.
fn numbers(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Too many digits are no processor either.
    let number: u32 = text.parse().ok().filter(|_| digits)?;
    (number < MOST_PROCESSORS).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(edit: impl FnOnce(&mut v1::StepLimits)) -> Result<Limits, String> {
        let mut wire = v1::StepLimits::default();
        edit(&mut wire);
        Limits::from_wire(wire).map_err(|error| error.to_string())
    }

    fn nofile(soft: Option<u64>, hard: Option<u64>) -> v1::step_limits::Ulimit {
        let name = "nofile".to_owned();
        v1::step_limits::Ulimit { name, soft, hard }
    }

    #[test]
    fn sizes_and_spans_are_shown_in_whole_units() {
        for (bytes, text) in [
            (64 << 20, "64MiB"),
            (3 << 29, "1536MiB"),
            (1000, "1000 bytes"),
            (0, "0 bytes"),
            (1 << 40, "1TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        for (ms, text) in [
            (10_000, "10s"),
            (5_400_000, "1h30m"),
            (250, "250ms"),
            (0, "0s"),
            (61_001, "1m1s1ms"),
        ] {
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
        }
    }

    #[test]
    fn nothing_on_the_wire_is_no_limit() {
        assert!(limits(|_| {}).unwrap().is_none());
        assert!(!limits(|wire| wire.processes = 1).unwrap().is_none());
    }

    #[test]
    fn limits_that_no_kernel_takes_are_refused() {
        let refused = |edit: fn(&mut v1::StepLimits)| limits(edit).unwrap_err();
        assert!(refused(|wire| wire.memory_bytes = 1 << 20).contains("--memory: 1MiB is less"));
        assert!(refused(|wire| (wire.cpu_quota_us, wire.cpu_period_us) = (5_000, 10)).contains("--cpu-period"));
        assert!(refused(|wire| wire.cpu_quota_us = 10).contains("--cpu-quota"));
        assert!(refused(|wire| wire.cpu_shares = 1).contains("--cpu-shares"));
        for list in ["x", "1-", "3-1", "-", "0,", "0-99999999", "+1"] {
            let refused = limits(|wire| list.clone_into(&mut wire.cpuset_cpus));
            assert!(refused.unwrap_err().contains("--cpuset-cpus"), "{list}");
        }
        let soft_above = limits(|wire| wire.ulimits.push(nofile(None, Some(3))));
        assert!(soft_above.unwrap_err().contains("above the hard one"));
    }

    #[test]
    fn the_server_fills_in_what_nobody_asked_for_and_refuses_more_than_it_gives() {
        let server = limits(|wire| {
            (wire.time_ms, wire.memory_bytes, wire.cpu_quota_us) = (60_000, 1 << 30, 150_000);
            "0-1".clone_into(&mut wire.cpuset_cpus);
            wire.ulimits.push(nofile(Some(10), Some(20)));
        })
        .unwrap();
        assert_eq!(Limits::default().within(&server), Ok(server.clone()));
        let less = limits(|wire| wire.memory_bytes = 64 << 20)
            .unwrap()
            .within(&server)
            .unwrap();
        assert_eq!(less.memory_bytes, Some(64 << 20));
        assert_eq!(less.time, server.time);
        let refused = |edit: fn(&mut v1::StepLimits)| {
            let error = limits(edit).unwrap().within(&server).unwrap_err();
            assert_eq!(error.blame, Blame::Usage);
            error.message
        };
        assert_eq!(
            refused(|wire| wire.memory_bytes = 8 << 30),
            "--memory: 8GiB is more than this build server gives a step: 1GiB"
        );
        assert!(refused(|wire| wire.time_ms = 61_000).contains("--step-timeout: 1m1s is more"));
        assert!(refused(|wire| wire.cpu_quota_us = 200_000).contains("2.00 processors is more"));
        assert!(refused(|wire| "1-2".clone_into(&mut wire.cpuset_cpus)).contains("--cpuset-cpus: 1-2 is more"));
        let files = limits(|wire| wire.ulimits.push(nofile(Some(1), None))).unwrap();
        let message = files.within(&server).unwrap_err().message;
        assert!(message.contains("nofile=unlimited is more"), "{message}");
    }

    #[test]
    fn other_users_have_limits_even_where_the_server_has_none() {
        let others = Limits::default().for_others();
        assert_eq!((others.time, others.processes), (Some(TIME_OF_OTHERS), Some(8192)));
        let dumps = limits(|wire| {
            wire.ulimits.push(v1::step_limits::Ulimit {
                name: "core".to_owned(),
                soft: None,
                hard: None,
            });
        });
        assert!(dumps.unwrap().within(&others).is_err());
        let longer = limits(|wire| wire.time_ms = 7_200_001).unwrap();
        assert!(longer.clone().within(&others).is_err());
        let told = limits(|wire| wire.time_ms = 9_000_000).unwrap().for_others();
        assert!(longer.within(&told).is_ok(), "the server says otherwise");
    }
}
