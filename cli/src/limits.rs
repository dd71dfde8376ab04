//! Limits of RUN steps: the flags of `rbuild build`, which ask for them, and of `rbuild serve`, which sets the most that is given.

use clap::Args;
use proto::v1::StepLimits;
use proto::v1::step_limits::Ulimit;

use crate::engine;
use crate::exit::Problem;
use crate::values;

/// Flags as typed.
#[derive(Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// End a step that takes longer, as in 30m [default: none; 2h for clients of other users than the server's own]
    #[arg(long, value_name = "DURATION")]
    pub(crate) step_timeout: Option<String>,
    /// Memory, as in 2g; there is no swap beside it
    #[arg(short = 'm', long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Processors' worth of time, as in 1.5
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub(crate) cpus: Option<String>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_quota: Option<u64>,
    /// The period of --cpu-quota [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", requires = "cpu_quota")]
    pub(crate) cpu_period: Option<u64>,
    /// Weight beside other work of the machine; 1024 is that of everybody
    #[arg(short = 'c', long, value_name = "NUMBER")]
    pub(crate) cpu_shares: Option<u64>,
    /// Processors to run on, as in 0-2,5
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Processes and threads [default: 8192]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) pids_limit: Option<u64>,
    /// Fail a step that writes more to its layer, as in 10g
    #[arg(long, value_name = "SIZE")]
    pub(crate) step_disk: Option<String>,
    /// Limit of each process, as in nofile=1024:4096; -1 is no limit
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimits: Vec<String>,
}

/// The limits that `args` ask for.
///
/// # Errors
/// What makes no sense.
pub(crate) fn parse(args: &LimitArgs) -> Result<StepLimits, Problem> {
    let size = |flag: &str, text: &Option<String>| {
        let size = text.as_ref().map(|text| values::bytes(flag, text)).transpose()?;
        some(flag, size)
    };
    let time = args.step_timeout.as_ref();
    let time = time.map(|text| values::duration("--step-timeout", text)).transpose()?;
    let time_ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let (cpu_quota_us, cpu_period_us) = match &args.cpus {
        Some(text) => (cpus(text)?, PERIOD_US),
        None => (
            some("--cpu-quota", args.cpu_quota)?,
            some("--cpu-period", args.cpu_period)?,
        ),
    };
    let limits = StepLimits {
        time_ms: some("--step-timeout", time_ms)?,
        memory_bytes: size("--memory", &args.memory)?,
        cpu_quota_us,
        cpu_period_us,
        cpu_shares: some("--cpu-shares", args.cpu_shares)?,
        cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
        processes: some("--pids-limit", args.pids_limit)?,
        disk_bytes: size("--step-disk", &args.step_disk)?,
        ulimits: args.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
    };
    // What the server would refuse is refused before one is started.
    engine::check_limits(&limits)?;
    Ok(limits)
}

/// 0 stands for nothing on the wire, so nobody can ask for it.
fn some(flag: &str, number: Option<u64>) -> Result<u64, Problem> {
    match number {
        Some(0) => Err(Problem::usage(format!("{flag}: a limit of 0 is no limit"))),
        number => Ok(number.unwrap_or(0)),
    }
}

/// The period of `--cpus`.
const PERIOD_US: u64 = 100_000;

/// Microseconds in each period for a number of processors, which may have a fraction.
fn cpus(text: &str) -> Result<u64, Problem> {
    let wrong =
        || Problem::usage(format!("--cpus: `{text}` is no number of processors")).help("write it as in 2 or 0.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if text.len() > 12 || !digits(whole) || !digits(fraction) || whole.is_empty() {
        return Err(wrong());
    }
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(5).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match number(whole)? * PERIOD_US + number(&fraction)? {
        // The kernel takes no less than a millisecond.
        quota if quota >= 1_000 => Ok(quota),
        _ => Err(wrong()),
    }
}

/// `name=soft[:hard]`; a single number is both.
fn ulimit(text: &str) -> Result<Ulimit, Problem> {
    let wrong =
        || Problem::usage(format!("--ulimit: `{text}` is no limit")).help("write it as in nofile=1024:4096 or core=-1");
    let (name, numbers) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = numbers.split_once(':').unwrap_or((numbers, numbers));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        text => text.parse().map(Some).map_err(|_| wrong()),
    };
    Ok(Ulimit {
        name: name.to_owned(),
        soft: number(soft)?,
        hard: number(hard)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(text: &str) -> Result<u64, String> {
        cpus(text).map_err(|problem| problem.message)
    }

    #[test]
    fn processors_may_have_a_fraction() {
        for (text, expected) in [
            ("1", 100_000),
            ("0.5", 50_000),
            ("1.25", 125_000),
            ("2.000001", 200_000),
        ] {
            assert_eq!(quota(text), Ok(expected), "{text}");
        }
        for bad in ["", "0", ".5", "-1", "1.x", "1e3", "0.001"] {
            assert!(quota(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_single_number_is_both_limits_and_minus_one_is_none() {
        let limit = |text: &str| {
            ulimit(text)
                .map(|limit| (limit.soft, limit.hard))
                .map_err(|problem| problem.message)
        };
        assert_eq!(limit("nofile=10"), Ok((Some(10), Some(10))));
        assert_eq!(limit("nofile=10:20"), Ok((Some(10), Some(20))));
        assert_eq!(limit("core=0:-1"), Ok((Some(0), None)));
        for bad in ["nofile", "nofile=", "nofile=1:2:3", "nofile=x"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let refused = |args: LimitArgs| parse(&args).unwrap_err().message;
        let memory = |text: &str| LimitArgs {
            memory: Some(text.to_owned()),
            ..LimitArgs::default()
        };
        assert_eq!(refused(memory("0")), "--memory: a limit of 0 is no limit");
        assert_eq!(refused(memory("1m")), "--memory: 1MiB is less than a step needs: 6MiB");
        let unknown = LimitArgs {
            ulimits: vec!["files=1".to_owned()],
            ..LimitArgs::default()
        };
        assert_eq!(refused(unknown), "--ulimit: there is no limit `files`");
        assert_eq!(parse(&LimitArgs::default()).unwrap(), StepLimits::default());
    }
}
