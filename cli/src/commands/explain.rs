//! `rbuild explain`: what a build did, and why.

use std::fmt::Write as _;

use proto::date::civil;
use proto::v1;
use proto::v1::explain_reply::{Difference, Step};
use serde_json::{Value, json};

use crate::args::ExplainArgs;
use crate::config::Config;
use crate::exit::Problem;
use crate::server;
use crate::ui;
use crate::ui::{escape, plain::tenths};

/// Differences of a step that are listed when no step was asked for.
const LISTED: usize = 10;
/// Digits of an id that people read.
const ID_DIGITS: usize = 12;

/// Explains.
///
/// # Errors
/// There is no such build or step.
pub(crate) async fn run(args: ExplainArgs, config: &Config) -> Result<(), Problem> {
    let asked = args.step.is_some();
    let request = match (args.build, args.step) {
        // One word may be either: the server knows the builds.
        (Some(word), None) => v1::ExplainRequest {
            build_or_step: word,
            ..v1::ExplainRequest::default()
        },
        (build, step) => v1::ExplainRequest {
            build: build.unwrap_or_default(),
            step: step.unwrap_or_default(),
            build_or_step: String::new(),
        },
    };
    let word = request.build_or_step.clone();
    let reply = server::with(config, async |connection| {
        Ok(connection.admin().explain(request).await?.into_inner())
    })
    .await?;
    let asked = asked || !(word.is_empty() || reply.id.starts_with(&word));
    ui::result(&match args.json {
        true => format!("{}\n", json_of(&reply)),
        false => text_of(&reply, if asked { usize::MAX } else { LISTED }),
    })
}

fn text_of(reply: &v1::ExplainReply, listed: usize) -> String {
    let mut text = head(reply);
    for step in &reply.steps {
        text.push_str(&step_text(step, listed));
    }
    text
}

fn head(reply: &v1::ExplainReply) -> String {
    let id: String = reply.id.chars().take(ID_DIGITS).collect();
    let target = match reply.target.as_str() {
        "" => String::new(),
        target => format!(", target {}", escape::line(target.as_bytes())),
    };
    let mut text = format!(
        "build {id} of {}{target} for {}\n{}, {}s: ",
        escape::line(reply.dockerfile.as_bytes()),
        reply.platforms.join(","),
        time(reply.started_ms),
        tenths(reply.duration_ms)
    );
    text += &match (reply.failure.as_str(), reply.digest.as_str()) {
        ("", "") => "done".to_owned(),
        ("", digest) => digest.to_owned(),
        (failure, _) => format!("failed: {}", escape::line(failure.as_bytes())),
    };
    for name in &reply.names {
        text += &format!(" {}", escape::line(name.as_bytes()));
    }
    text + "\n"
}

fn time(ms: u64) -> String {
    let (seconds, (year, month, day)) = (ms / 1000 % 86_400, civil(ms / 86_400_000));
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{:02} UTC",
        seconds % 60
    )
}

fn step_text(step: &Step, listed: usize) -> String {
    let mut text = format!("\n#{} {}\n", step.number, escape::line(step.name.as_bytes()));
    let mut line =
        |words: &str| writeln!(text, "   {}", escape::line(words.as_bytes())).expect("strings take all text");
    match (step.verdict.as_str(), step.reason.as_str()) {
        ("cached", _) => line("cached"),
        (verdict, "") => line(verdict),
        (verdict, reason) => line(&format!("{verdict} ({}s) because {reason}", tenths(step.duration_ms))),
    }
    for difference in step.differences.iter().take(listed) {
        line(&format!("- {}", difference_text(difference)));
    }
    let left_out = step.differences.len().saturating_sub(listed) as u64 + step.more;
    if left_out > 0 {
        line(&format!("- and {left_out} more"));
    }
    if step.forgotten {
        line("- what it was built from is not in the store any more");
    }
    text
}

fn difference_text(difference: &Difference) -> String {
    let what = match (difference.kind.as_str(), difference.name.as_str()) {
        (kind, "") => kind.replace('-', " "),
        (kind, name) => format!("{} `{name}`", kind.replace('-', " ")),
    };
    let what = format!("{what} {}", difference.change.replace('-', " "));
    match (&difference.old, &difference.new) {
        (None, None) => what,
        (Some(old), Some(new)) => format!("{what}: `{old}` → `{new}`"),
        (Some(old), None) => format!("{what}: it was `{old}`"),
        (None, Some(new)) => format!("{what}: `{new}`"),
    }
}

fn json_of(reply: &v1::ExplainReply) -> Value {
    json!({
        "id": reply.id, "started_ms": reply.started_ms, "duration_ms": reply.duration_ms,
        "dockerfile": reply.dockerfile, "target": reply.target, "platforms": reply.platforms, "names": reply.names,
        "digest": reply.digest, "failure": reply.failure,
        "steps": reply.steps.iter().map(step_json).collect::<Vec<_>>(),
    })
}

fn step_json(step: &Step) -> Value {
    let difference = |found: &Difference| {
        json!({
            "kind": found.kind, "name": found.name, "change": found.change, "old": found.old, "new": found.new,
        })
    };
    let miss = match step.reason_code.as_str() {
        "" => Value::Null,
        code => json!({"reason": code, "text": step.reason}),
    };
    json!({
        "number": step.number, "name": step.name, "line": step.line, "verdict": step.verdict,
        "cached": step.verdict == "cached", "miss": miss, "duration_ms": step.duration_ms, "key": step.key,
        "previous_name": step.previous_name, "previous_key": step.previous_key,
        "differences": step.differences.iter().map(difference).collect::<Vec<_>>(),
        "more": step.more, "forgotten": step.forgotten,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn difference(kind: &str, name: &str, change: &str, values: [Option<&str>; 2]) -> Difference {
        let [old, new] = values.map(|value| value.map(str::to_owned));
        Difference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            change: change.to_owned(),
            old,
            new,
        }
    }

    fn reply() -> v1::ExplainReply {
        let step = |number: u32, name: &str, verdict: &str, reason: &str| Step {
            number,
            name: name.to_owned(),
            verdict: verdict.to_owned(),
            reason_code: if reason.is_empty() { "" } else { "files" }.to_owned(),
            reason: reason.to_owned(),
            duration_ms: 1240,
            ..Step::default()
        };
        v1::ExplainReply {
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            started_ms: 1_700_000_000_000,
            duration_ms: 2500,
            dockerfile: "Dockerfile".to_owned(),
            target: "app".to_owned(),
            platforms: vec!["linux/amd64".to_owned()],
            names: vec!["docker.io/library/app:1".to_owned()],
            digest: "sha256:1".to_owned(),
            failure: String::new(),
            steps: vec![
                step(4, "[1/3] FROM base", "cached", ""),
                Step {
                    differences: vec![
                        difference("file", "a\x1b", "changed", [None, None]),
                        difference("file", "b", "mode", [Some("644"), Some("755")]),
                        difference("build-argument", "V", "added", [None, Some("1")]),
                        difference("earlier-step", "", "changed", [Some("RUN a"), Some("RUN b")]),
                    ],
                    more: 2,
                    ..step(5, "[2/3] COPY . /", "ran", "`a` changed")
                },
                Step {
                    forgotten: true,
                    ..step(6, "[3/3] RUN x", "failed", "never built before")
                },
            ],
        }
    }

    #[test]
    fn people_read_one_block_a_step() {
        expect![[r#"
            build 0123456789ab of Dockerfile, target app for linux/amd64
            2023-11-14 22:13:20 UTC, 2.5s: sha256:1 docker.io/library/app:1

            #4 [1/3] FROM base
               cached

            #5 [2/3] COPY . /
               ran (1.2s) because `a` changed
               - file `a\x1b` changed
               - file `b` mode: `644` → `755`
               - build argument `V` added: `1`
               - and 3 more

            #6 [3/3] RUN x
               failed (1.2s) because never built before
               - what it was built from is not in the store any more
        "#]]
        .assert_eq(&text_of(&reply(), 3));
        assert!(text_of(&reply(), usize::MAX).contains("- earlier step changed: `RUN a` → `RUN b`\n   - and 2 more\n"));
    }

    #[test]
    fn programs_read_what_people_do() {
        let json = json_of(&reply());
        assert_eq!(json["steps"][0]["cached"], true);
        assert_eq!(json["steps"][0]["miss"], Value::Null);
        assert_eq!(
            json["steps"][1]["miss"],
            json!({"reason": "files", "text": "`a` changed"})
        );
        assert_eq!(
            json["steps"][1]["differences"][1],
            json!({"kind": "file", "name": "b", "change": "mode", "old": "644", "new": "755"})
        );
    }
}
