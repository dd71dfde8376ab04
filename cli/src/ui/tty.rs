//! The live view: finished steps scroll up, running steps stay below with their time and last line.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::v1;
use proto::v1::event::Kind;
use proto::v1::step_finished::Status;

use super::plain::{bytes, tenths};
use super::{escape, steps::Steps};

/// How often the times of running steps are drawn.
const TICK: Duration = Duration::from_millis(100);

/// The live view on stderr.
pub(crate) struct Live {
    bars: MultiProgress,
    running: BTreeMap<u32, ProgressBar>,
    steps: Steps,
    style: ProgressStyle,
    colour: bool,
}

impl Live {
    /// An empty view.
    pub(crate) fn new(colour: bool) -> Self {
        let template = " => {prefix} {elapsed} {wide_msg}";
        Self {
            bars: MultiProgress::new(),
            running: BTreeMap::new(),
            steps: Steps::default(),
            style: ProgressStyle::with_template(template).expect("the template above is valid"),
            colour,
        }
    }

    /// Prints above the running steps.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        self.bars.println(text.trim_end_matches('\n'))
    }

    /// Draws what an event means.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(crate) fn show(&mut self, event: &v1::Event) -> io::Result<()> {
        match &event.kind {
            Some(Kind::StepStarted(step)) => {
                self.steps.start(step.step, &step.name, event.time_ms);
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(self.style.clone());
                bar.set_prefix(escape::line(step.name.as_bytes()));
                bar.enable_steady_tick(TICK);
                self.running.insert(step.step, bar);
                Ok(())
            }
            Some(Kind::StepLog(log)) => {
                let bar = self.running.get(&log.step).cloned();
                self.steps.step(log.step).log(log.stream, &log.data, |line| {
                    if let Some(bar) = &bar {
                        bar.set_message(escape::line(line));
                    }
                    Ok(())
                })
            }
            Some(Kind::StepProgress(progress)) => {
                if let Some(bar) = self.running.get(&progress.step) {
                    let what = escape::line(progress.what.as_bytes());
                    bar.set_message(format!("{what} {}", bytes(progress.current)));
                }
                Ok(())
            }
            Some(Kind::StepFinished(finished)) => self.finish(finished),
            Some(Kind::Finished(_)) => {
                for bar in std::mem::take(&mut self.running).into_values() {
                    bar.finish_and_clear();
                }
                Ok(())
            }
            Some(Kind::Diagnostic(_)) | None => Ok(()),
        }
    }

    fn finish(&mut self, finished: &v1::StepFinished) -> io::Result<()> {
        if let Some(bar) = self.running.remove(&finished.step) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        let name = self.steps.finish(finished.step).name;
        self.bars.println(finished_line(&name, finished, self.colour))
    }
}

/// The line that stays of a step.
fn finished_line(name: &str, finished: &v1::StepFinished, colour: bool) -> String {
    let name = escape::line(name.as_bytes());
    let (word, code) = match finished.status() {
        Status::Cached => ("CACHED ".to_owned(), "36"),
        Status::Error => ("ERROR ".to_owned(), "31"),
        Status::Canceled => ("CANCELED ".to_owned(), "33"),
        Status::Done | Status::Unspecified => (String::new(), "34"),
    };
    let reason = match finished.reason.as_str() {
        "" => String::new(),
        reason => format!("  ({})", escape::line(reason.as_bytes())),
    };
    let line = format!(" => {word}{name} {}s{reason}", tenths(finished.duration_ms));
    if colour {
        format!("\x1b[{code}m{line}\x1b[0m")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_finished_step_tells_how_it_ended() {
        let line = |status: Status, reason: &str, colour| {
            let finished = v1::StepFinished {
                step: 1,
                status: status.into(),
                reason: reason.to_owned(),
                error: String::new(),
                duration_ms: 300,
            };
            finished_line("RUN a\x1b", &finished, colour)
        };
        assert_eq!(line(Status::Done, "", false), " => RUN a\\x1b 0.3s");
        assert_eq!(line(Status::Cached, "", false), " => CACHED RUN a\\x1b 0.3s");
        assert_eq!(line(Status::Done, "no cache", false), " => RUN a\\x1b 0.3s  (no cache)");
        assert_eq!(
            line(Status::Error, "", true),
            "\x1b[31m => ERROR RUN a\\x1b 0.3s\x1b[0m"
        );
    }
}
