//! Lines that are never rewritten: `#2 [build 3/7] RUN make`, `#2 0.123 output`, `#2 DONE 0.2s`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use proto::v1;
use proto::v1::event::Kind;
use proto::v1::step_finished::Status;

use super::escape;
use super::steps::Steps;

/// A transfer tells how far it is once per this many bytes, so that logs stay short.
const TRANSFER_STRIDE: u64 = 16 << 20;

/// The plain view.
#[derive(Debug)]
pub(crate) struct Plain {
    /// Whether control characters of logs are shown instead of sent.
    terminal: bool,
    steps: Steps,
    /// The step whose block is open.
    current: Option<u32>,
    /// Next number of bytes worth a line, per step and transfer.
    transfers: BTreeMap<(u32, String), u64>,
}

impl Plain {
    /// `terminal`: text of strangers is escaped.
    pub(crate) fn new(terminal: bool) -> Self {
        Self {
            terminal,
            steps: Steps::default(),
            current: None,
            transfers: BTreeMap::new(),
        }
    }

    /// Writes what an event means.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn show(&mut self, event: &v1::Event, out: &mut impl Write) -> io::Result<()> {
        match &event.kind {
            Some(Kind::StepStarted(step)) => {
                self.steps.start(step.step, &step.name, event.time_ms);
                self.open(step.step, out)
            }
            Some(Kind::StepLog(log)) => self.log(log, event.time_ms, out),
            Some(Kind::StepProgress(progress)) => self.progress(progress, out),
            Some(Kind::StepFinished(finished)) => self.finish(finished, event.time_ms, out),
            // Problems interrupt a block; the screen writes them.
            Some(Kind::Diagnostic(_) | Kind::Finished(_)) => self.close(out),
            None => Ok(()),
        }
    }

    /// Begins the block of a step, with its name as headline.
    fn open(&mut self, number: u32, out: &mut impl Write) -> io::Result<()> {
        if self.current == Some(number) {
            return Ok(());
        }
        self.close(out)?;
        self.current = Some(number);
        let name = &self.steps.step(number).name;
        writeln!(out, "#{number} {}", escape::line(name.as_bytes()))
    }

    fn close(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.current.take() {
            Some(_) => writeln!(out),
            None => Ok(()),
        }
    }

    fn log(&mut self, log: &v1::StepLog, time_ms: u64, out: &mut impl Write) -> io::Result<()> {
        self.open(log.step, out)?;
        let terminal = self.terminal;
        let step = self.steps.step(log.step);
        let elapsed = seconds(time_ms.saturating_sub(step.started_ms));
        step.log(log.stream, &log.data, |line| {
            write_log(out, log.step, &elapsed, line, terminal)
        })
    }

    fn progress(&mut self, progress: &v1::StepProgress, out: &mut impl Write) -> io::Result<()> {
        let next = self
            .transfers
            .entry((progress.step, progress.what.clone()))
            .or_insert(0);
        if progress.current < *next && !progress.done {
            return Ok(());
        }
        *next = progress.current.saturating_add(TRANSFER_STRIDE);
        self.open(progress.step, out)?;
        let what = escape::line(progress.what.as_bytes());
        let total = match progress.total {
            0 => String::new(),
            total => format!(" / {}", bytes(total)),
        };
        let done = if progress.done { " done" } else { "" };
        writeln!(
            out,
            "#{} {what} {}{total}{done}",
            progress.step,
            bytes(progress.current)
        )
    }

    fn finish(&mut self, finished: &v1::StepFinished, time_ms: u64, out: &mut impl Write) -> io::Result<()> {
        let number = finished.step;
        self.open(number, out)?;
        let mut step = self.steps.finish(number);
        let elapsed = seconds(time_ms.saturating_sub(step.started_ms));
        step.rest(|line| write_log(out, number, &elapsed, line, self.terminal))?;
        if !finished.reason.is_empty() {
            writeln!(
                out,
                "#{number} ran because {}",
                escape::line(finished.reason.as_bytes())
            )?;
        }
        match finished.status() {
            Status::Cached => writeln!(out, "#{number} CACHED")?,
            Status::Error => writeln!(out, "#{number} ERROR: {}", escape::line(finished.error.as_bytes()))?,
            Status::Canceled => writeln!(out, "#{number} CANCELED")?,
            Status::Done | Status::Unspecified => {
                writeln!(out, "#{number} DONE {}s", tenths(finished.duration_ms))?;
            }
        }
        self.transfers.retain(|(step, _), _| *step != number);
        self.close(out)
    }
}

fn write_log(out: &mut impl Write, number: u32, elapsed: &str, line: &[u8], terminal: bool) -> io::Result<()> {
    write!(out, "#{number} {elapsed} ")?;
    if terminal {
        out.write_all(escape::line(line).as_bytes())?;
    } else {
        out.write_all(line)?;
    }
    writeln!(out)
}

/// `1.234`.
pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// `1.2`.
pub(crate) fn tenths(ms: u64) -> String {
    let tenths = (ms + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// `512B`, `1.5MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && count / scale >= 1024 {
        scale <<= 10;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count}B");
    }
    let hundredths = u128::from(count) * 100 / u128::from(scale);
    format!("{}.{:02}{}", hundredths / 100, hundredths % 100, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn started(step: u32, name: &str) -> Kind {
        Kind::StepStarted(v1::StepStarted {
            step,
            name: name.to_owned(),
            line: 0,
        })
    }

    fn log(step: u32, data: &[u8]) -> Kind {
        Kind::StepLog(v1::StepLog {
            step,
            stream: 1,
            data: data.to_vec(),
        })
    }

    fn finished(step: u32, status: Status, reason: &str, error: &str) -> Kind {
        Kind::StepFinished(v1::StepFinished {
            step,
            status: status.into(),
            reason: reason.to_owned(),
            error: error.to_owned(),
            duration_ms: 1_250,
        })
    }

    fn transfer(current: u64, done: bool) -> Kind {
        Kind::StepProgress(v1::StepProgress {
            step: 1,
            what: "transferring context:".to_owned(),
            current,
            total: 0,
            done,
        })
    }

    /// The events, 100 ms apart.
    fn check(terminal: bool, kinds: Vec<Kind>, expected: &Expect) {
        let mut plain = Plain::new(terminal);
        let mut out = Vec::new();
        for (seq, kind) in (0_u64..).zip(kinds) {
            let event = v1::Event {
                build_id: String::new(),
                seq,
                time_ms: 1_000 + seq * 100,
                kind: Some(kind),
            };
            plain.show(&event, &mut out).unwrap();
        }
        expected.assert_eq(&String::from_utf8(out).unwrap());
    }

    #[test]
    fn steps_are_blocks_and_blocks_of_steps_that_run_together_interleave() {
        check(
            false,
            vec![
                started(1, "[internal] load build context"),
                transfer(0, false),
                transfer(100, false),
                transfer(2048, true),
                finished(1, Status::Done, "", ""),
                started(2, "[build 2/3] RUN make"),
                log(2, b"cc a.c\ncc "),
                started(3, "[test 2/2] RUN check"),
                log(2, b"b.c\nunfinished"),
                finished(3, Status::Cached, "", ""),
                finished(2, Status::Done, "`a.c` changed", ""),
            ],
            &expect![[r"
                #1 [internal] load build context
                #1 transferring context: 0B
                #1 transferring context: 2.00KiB done
                #1 DONE 1.3s

                #2 [build 2/3] RUN make
                #2 0.100 cc a.c

                #3 [test 2/2] RUN check

                #2 [build 2/3] RUN make
                #2 0.300 cc b.c

                #3 [test 2/2] RUN check
                #3 CACHED

                #2 [build 2/3] RUN make
                #2 0.500 unfinished
                #2 ran because `a.c` changed
                #2 DONE 1.3s

            "]],
        );
    }

    #[test]
    fn errors_and_cancelled_steps_say_so() {
        check(
            false,
            vec![
                started(1, "[1/2] RUN false"),
                finished(1, Status::Error, "", "exit code: 1"),
                started(2, "[2/2] RUN sleep"),
                finished(2, Status::Canceled, "", ""),
            ],
            &expect![[r"
                #1 [1/2] RUN false
                #1 ERROR: exit code: 1

                #2 [2/2] RUN sleep
                #2 CANCELED

            "]],
        );
    }

    #[test]
    fn logs_can_not_control_a_terminal() {
        check(
            true,
            vec![started(1, "x\x1b[2J"), log(1, b"\x1b[32mok\x1b[0m \x1b[2J\n")],
            &expect![[r"
                #1 x\x1b[2J
                #1 0.100 ok \x1b[2J
            "]],
        );
    }

    #[test]
    fn numbers_are_rounded_for_readers() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536), "1.50KiB");
        assert_eq!(bytes(u64::MAX), "16777215.99TiB");
        assert_eq!((tenths(49).as_str(), tenths(1_250).as_str()), ("0.0", "1.3"));
    }
}
