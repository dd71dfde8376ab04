//! What a step prints, on its way to everybody who watches: without secrets, and not more than anybody would read.
//!
//! A step is never held up, whatever it prints: what is too much is read and dropped. What was printed last before output goes on
//! or ends is kept, since that is where errors are, and a note says how much is missing.

use std::time::Duration;

use bytes::Bytes;
use proto::v1::{self, event::Kind};
use tokio::sync::mpsc;

use super::work::BuildWork;
use crate::event::{STEP_LOG_LIMIT, StepNumber};
use crate::executor::{OutputChunk, Speaker};

/// Bytes a second that are shown for long; the first second may have twice as many.
const RATE_BYTES: usize = 2 << 20;
/// Output goes on when so much may be shown again, so that it does not come in crumbs.
const RESUME_BYTES: usize = 256 << 10;
/// Of what is left out, this much is kept: the last of it.
const TAIL_BYTES: usize = 32 << 10;

/// Number of the stream of the processes of a step.
const PRINTED: u32 = 1;
/// Number of the stream of what is said about a step.
const SAID: u32 = 2;

/// Carries the output of a process into the event log and to builds that wait for it. Ends when the process has.
pub(super) async fn carry(work: &BuildWork, step: StepNumber, mut chunks: mpsc::Receiver<OutputChunk>) {
    let publish = |(stream, data): Piece| {
        if data.is_empty() {
            return;
        }
        work.job.events.publish(Kind::StepLog(v1::StepLog {
            step: step.0,
            stream,
            data: data.to_vec(),
        }));
        if let Some(transcript) = &work.transcript {
            transcript.say(stream, data);
        }
    };
    let clock = &work.job.host.clock;
    let mut scrubber = work.job.session.secrets().scrubber();
    let mut clip = Clip::new(clock.now());
    while let Some((speaker, bytes)) = chunks.recv().await {
        match speaker {
            Speaker::Step | Speaker::StepErrors => clip
                .push(scrubber.push(bytes), clock.now())
                .into_iter()
                .for_each(publish),
            Speaker::Executor => {
                // It speaks when the step has ended.
                clip.push(scrubber.finish(), clock.now()).into_iter().for_each(publish);
                let said = String::from_utf8_lossy(&bytes).into_owned();
                publish((SAID, work.job.session.secrets().scrub(said).into()));
            }
        }
    }
    let rest = clip.push(scrubber.finish(), clock.now());
    rest.into_iter().chain(clip.finish()).for_each(publish);
}

/// A stream, and what is shown of it.
type Piece = (u32, Bytes);

/// Cuts what is too much.
struct Clip {
    began: Duration,
    shown: usize,
    /// What is left out at the moment.
    gap: Option<Gap>,
}

/// Output that is left out.
#[derive(Default)]
struct Gap {
    bytes: usize,
    /// The end of it, and perhaps more.
    tail: Vec<u8>,
}

impl Clip {
    fn new(began: Duration) -> Self {
        Self {
            began,
            shown: 0,
            gap: None,
        }
    }

    /// What is shown when `bytes` have come at the time `now`.
    fn push(&mut self, bytes: Bytes, now: Duration) -> Vec<Piece> {
        let room = self.room(now);
        let mut pieces = Vec::new();
        if self.gap.is_some() {
            if room < RESUME_BYTES.max(bytes.len()) {
                self.leave_out(&bytes);
                return pieces;
            }
            pieces.extend(self.finish());
        }
        let fits = match bytes.len() <= room {
            true => bytes.len(),
            // Whole lines, if there are any.
            false => bytes[..room]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(room, |at| at + 1),
        };
        self.shown += fits;
        pieces.push((PRINTED, bytes.slice(..fits)));
        if fits < bytes.len() {
            self.leave_out(&bytes[fits..]);
        }
        pieces
    }

    /// What is shown at the end: the end of what is left out.
    fn finish(&mut self) -> Vec<Piece> {
        let Some(gap) = self.gap.take() else {
            return Vec::new();
        };
        let tail = gap.tail();
        let missing = gap.bytes - tail.len();
        let why = match self.shown >= STEP_LOG_LIMIT {
            true => format!("the limit of {} MiB a step is reached", STEP_LOG_LIMIT >> 20),
            false => format!("it was more than {} MiB a second", RATE_BYTES >> 20),
        };
        let note = format!("\n[output clipped: {missing} bytes are left out here, {why}]\n");
        let tail = Bytes::copy_from_slice(tail);
        match missing {
            0 => vec![(PRINTED, tail)],
            _ => vec![(SAID, note.into()), (PRINTED, tail)],
        }
    }

    fn room(&self, now: Duration) -> usize {
        let seconds = now.saturating_sub(self.began).as_secs_f64().min(1e6) + 2.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a million seconds of it fit, and none is negative"
        )]
        let by_time = (seconds * RATE_BYTES as f64) as usize;
        by_time.min(STEP_LOG_LIMIT).saturating_sub(self.shown)
    }

    fn leave_out(&mut self, bytes: &[u8]) {
        let gap = self.gap.get_or_insert_default();
        gap.bytes += bytes.len();
        gap.tail.extend_from_slice(bytes);
        if gap.tail.len() > 4 * TAIL_BYTES {
            gap.tail.drain(..gap.tail.len() - TAIL_BYTES);
        }
    }
}

impl Gap {
    /// The last whole lines.
    fn tail(&self) -> &[u8] {
        let last = &self.tail[self.tail.len().saturating_sub(TAIL_BYTES)..];
        if last.len() == self.bytes {
            return last;
        }
        let line = last.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        &last[line..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: Vec<Piece>) -> String {
        let bytes: Vec<u8> = pieces.into_iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// `bytes` of numbered lines, each of eight bytes.
    fn lines(from: usize, bytes: usize) -> Bytes {
        let text: String = (from / 8..(from + bytes) / 8)
            .map(|number| format!("{number:07}\n"))
            .collect();
        text.into()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn output_at_leisure_is_shown_as_it_is() {
        let mut clip = Clip::new(SECOND);
        for second in 0..7 {
            let piece = lines(0, RATE_BYTES);
            assert_eq!(
                shown(clip.push(piece.clone(), SECOND * (1 + second))),
                String::from_utf8_lossy(&piece)
            );
        }
        assert!(clip.finish().is_empty());
    }

    #[test]
    fn a_flood_is_cut_with_a_note_and_goes_on_later() {
        let mut clip = Clip::new(SECOND);
        let mut text = String::new();
        for number in 0..8 {
            text += &shown(clip.push(lines(number << 20, 1 << 20), SECOND));
        }
        assert_eq!(text.len(), 2 * RATE_BYTES, "two seconds' worth");
        text += &shown(clip.push(Bytes::from_static(b"later\n"), SECOND * 10));
        let end = &text[2 * RATE_BYTES..];
        let missing = (4 << 20) - TAIL_BYTES + 8;
        let note = format!("\n[output clipped: {missing} bytes are left out here, it was more than 2 MiB a second]\n");
        assert!(end.starts_with(&note), "{}", &end[..200]);
        let last = ((8 << 20) / 8) - 1;
        assert!(
            end.ends_with(&format!("{last:07}\nlater\n")),
            "the last lines before it are there"
        );
        assert_eq!(end.len(), note.len() + TAIL_BYTES - 8 + 6);
    }

    #[test]
    fn a_step_that_printed_too_much_still_shows_its_last_words() {
        let mut clip = Clip::new(SECOND);
        for second in 0..20 {
            drop(clip.push(lines(0, 1 << 20), SECOND * second));
        }
        drop(clip.push(Bytes::from_static(b"the error\n"), SECOND * 1000));
        let end = shown(clip.finish());
        assert!(
            end.contains("the limit of 16 MiB a step is reached]\n"),
            "{}",
            &end[..100]
        );
        assert!(end.ends_with("\nthe error\n"));
        assert!(clip.shown <= STEP_LOG_LIMIT && clip.shown > STEP_LOG_LIMIT - 100);
    }

    #[test]
    fn a_small_gap_is_filled_after_all() {
        let mut clip = Clip::new(SECOND);
        let text = shown(clip.push(lines(0, 2 * RATE_BYTES + 80), SECOND)) + &shown(clip.finish());
        assert_eq!(text, String::from_utf8_lossy(&lines(0, 2 * RATE_BYTES + 80)));
    }
}
