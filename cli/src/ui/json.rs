//! Events for programs: ours, one per line, and updates in the form that tools around BuildKit read.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proto::date::civil;
use proto::digest::Digest;
use proto::v1;
use proto::v1::event::Kind;
use proto::v1::step_finished::Status;
use serde_json::{Value, json};

/// One event as one JSON object.
///
/// `type` names the kind; fields are named as in the protocol; logs are text, with what is not UTF-8 replaced.
pub(crate) fn event(event: &v1::Event) -> Value {
    let mut object = match &event.kind {
        Some(Kind::StepStarted(step)) => json!({
            "type": "step_started", "step": step.step, "name": step.name, "line": step.line,
        }),
        Some(Kind::StepLog(log)) => json!({
            "type": "step_log", "step": log.step, "stream": log.stream, "data": String::from_utf8_lossy(&log.data),
        }),
        Some(Kind::StepProgress(progress)) => json!({
            "type": "step_progress", "step": progress.step, "what": progress.what, "current": progress.current,
            "total": progress.total, "done": progress.done,
        }),
        Some(Kind::StepFinished(step)) => json!({
            "type": "step_finished", "step": step.step, "status": status_name(step.status()), "reason": step.reason,
            "error": step.error, "duration_ms": step.duration_ms,
        }),
        Some(Kind::Diagnostic(diagnostic)) => json!({
            "type": "diagnostic", "severity": severity_name(diagnostic.severity()), "code": diagnostic.code,
            "message": diagnostic.message, "notes": diagnostic.notes, "helps": diagnostic.helps,
            "start": diagnostic.start, "end": diagnostic.end, "line": diagnostic.line,
        }),
        Some(Kind::Finished(finished)) => outcome(finished.outcome.as_ref()),
        None => json!({ "type": "unknown" }),
    };
    object["build_id"] = event.build_id.clone().into();
    object["seq"] = event.seq.into();
    object["time_ms"] = event.time_ms.into();
    object
}

fn outcome(outcome: Option<&v1::finished::Outcome>) -> Value {
    match outcome {
        Some(v1::finished::Outcome::Success(success)) => json!({
            "type": "finished", "outcome": "success", "config_digest": success.config_digest,
            "manifest_digest": success.manifest_digest, "manifest_media_type": success.manifest_media_type,
            "manifest_size": success.manifest_size, "names": success.names,
            "layers_existing": success.layers_existing, "layers_pushed": success.layers_pushed,
        }),
        Some(v1::finished::Outcome::Failure(failure)) => json!({
            "type": "finished", "outcome": "failure", "blame": blame_name(failure.blame()),
            "message": failure.message, "notes": failure.notes, "helps": failure.helps, "step": failure.step,
            "log_tail": failure.log_tail, "start": failure.start, "end": failure.end, "line": failure.line,
            "exit_code": failure.exit_code,
        }),
        None => json!({ "type": "finished" }),
    }
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Done => "done",
        Status::Cached => "cached",
        Status::Error => "error",
        Status::Canceled => "canceled",
        Status::Unspecified => "unspecified",
    }
}

fn severity_name(severity: v1::diagnostic::Severity) -> &'static str {
    match severity {
        v1::diagnostic::Severity::Warning => "warning",
        v1::diagnostic::Severity::Error => "error",
        v1::diagnostic::Severity::Unspecified => "unspecified",
    }
}

fn blame_name(blame: v1::failure::Blame) -> &'static str {
    match blame {
        v1::failure::Blame::User => "user",
        v1::failure::Blame::Usage => "usage",
        v1::failure::Blame::Environment => "environment",
        v1::failure::Blame::Remote => "remote",
        v1::failure::Blame::Bug | v1::failure::Blame::Unspecified => "bug",
        v1::failure::Blame::Canceled => "canceled",
    }
}

/// Updates as BuildKit's clients print them: `vertexes`, `statuses`, `logs`, `warnings`.
#[derive(Debug, Default)]
pub(crate) struct RawJson {
    /// Name and start of running steps.
    running: BTreeMap<u32, (String, String)>,
}

impl RawJson {
    /// Writes the update that an event means; a `Finished` means none.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn show(&mut self, event: &v1::Event, out: &mut impl Write) -> io::Result<()> {
        let time = rfc3339(event.time_ms);
        let vertex = |step: u32| vertex_digest(&event.build_id, step);
        let update = match &event.kind {
            Some(Kind::StepStarted(step)) => {
                self.running.insert(step.step, (step.name.clone(), time.clone()));
                let started = json!({"digest": vertex(step.step), "name": step.name, "started": time});
                json!({ "vertexes": [started] })
            }
            Some(Kind::StepLog(log)) => json!({"logs": [{
                "vertex": vertex(log.step), "stream": log.stream, "data": BASE64_STANDARD.encode(&log.data),
                "timestamp": time,
            }]}),
            Some(Kind::StepProgress(progress)) => {
                let started = self.running.get(&progress.step).map_or(&time, |(_, started)| started);
                let mut status = json!({
                    "id": progress.what, "vertex": vertex(progress.step), "current": progress.current,
                    "timestamp": time, "started": started,
                });
                if progress.total > 0 {
                    status["total"] = progress.total.into();
                }
                if progress.done {
                    status["completed"] = time.into();
                }
                json!({ "statuses": [status] })
            }
            Some(Kind::StepFinished(step)) => {
                let (name, started) = self
                    .running
                    .remove(&step.step)
                    .unwrap_or_else(|| (String::new(), time.clone()));
                json!({ "vertexes": [completed(step, &vertex(step.step), &name, &started, &time)] })
            }
            Some(Kind::Diagnostic(diagnostic)) => json!({"warnings": [{
                "vertex": vertex(0), "level": 1, "short": BASE64_STANDARD.encode(&diagnostic.message),
                "detail": diagnostic.notes.iter().map(|note| BASE64_STANDARD.encode(note)).collect::<Vec<_>>(),
                "range": [{"start": {"line": diagnostic.line}, "end": {"line": diagnostic.line}}],
            }]}),
            Some(Kind::Finished(_)) | None => return Ok(()),
        };
        writeln!(out, "{update}")
    }
}

fn completed(step: &v1::StepFinished, digest: &str, name: &str, started: &str, time: &str) -> Value {
    let mut vertex = json!({"digest": digest, "name": name, "started": started, "completed": time});
    match step.status() {
        Status::Cached => vertex["cached"] = true.into(),
        Status::Error => vertex["error"] = step.error.clone().into(),
        Status::Canceled => vertex["error"] = "context canceled".into(),
        Status::Done | Status::Unspecified => {}
    }
    vertex
}

/// Tools tell steps apart by digests; a step has no other content than its place in its build.
fn vertex_digest(build_id: &str, step: u32) -> String {
    Digest::of(format!("{build_id} {step}").as_bytes()).to_string()
}

/// `1970-01-01T00:00:00.000Z`.
fn rfc3339(time_ms: u64) -> String {
    let (days, ms_of_day) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hours, minutes, seconds) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z",
        ms_of_day % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time_ms: u64, kind: Kind) -> v1::Event {
        v1::Event {
            build_id: "b".to_owned(),
            seq: 7,
            time_ms,
            kind: Some(kind),
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn events_are_flat_objects() {
        let log = v1::StepLog {
            step: 2,
            stream: 1,
            data: b"a\xff".to_vec(),
        };
        assert_eq!(
            event(&at(5, Kind::StepLog(log))),
            json!({"type": "step_log", "step": 2, "stream": 1, "data": "a\u{fffd}", "build_id": "b", "seq": 7, "time_ms": 5})
        );
    }

    #[test]
    fn raw_updates_carry_start_and_end_of_a_step() {
        let mut raw = RawJson::default();
        let mut out = Vec::new();
        let started = v1::StepStarted {
            step: 1,
            name: "RUN x".to_owned(),
            line: 2,
        };
        raw.show(&at(0, Kind::StepStarted(started)), &mut out).unwrap();
        let finished = v1::StepFinished {
            step: 1,
            status: Status::Cached.into(),
            ..v1::StepFinished::default()
        };
        raw.show(&at(1000, Kind::StepFinished(finished)), &mut out).unwrap();
        let lines: Vec<Value> = out
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let digest = lines[0]["vertexes"][0]["digest"].clone();
        assert_eq!(
            lines[1],
            json!({"vertexes": [{"digest": digest, "name": "RUN x", "cached": true,
                "started": "1970-01-01T00:00:00.000Z", "completed": "1970-01-01T00:00:01.000Z"}]})
        );
    }
}
