//! `rbuild store verify`: what is wrong with the store, as it is found.

use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::verify_store_reply::{Finding, Kind, Progress, Summary};
use serde_json::json;

use crate::args::VerifyArgs;
use crate::config::Config;
use crate::exit::{Blame, Problem};
use crate::server::{self, Connection};
use crate::ui;
use crate::ui::escape;
use crate::ui::plain::bytes;

/// Time between two lines on progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Has the server read its store; findings go to stdout as they come.
///
/// # Errors
/// Also if something is wrong, and was not mended.
pub(crate) async fn run(args: &VerifyArgs, config: &Config) -> Result<(), Problem> {
    let summary = server::with(config, async |connection| follow(args, connection).await).await?;
    ui::result(&match args.json {
        true => format!("{}\n", summary_json(&summary)),
        false => summary_text(&summary, args.repair),
    })?;
    match summary.open {
        0 => Ok(()),
        _ => Err(Problem::told(Blame::Environment)),
    }
}

async fn follow(args: &VerifyArgs, connection: &Connection) -> Result<Summary, Problem> {
    let request = v1::VerifyStoreRequest { repair: args.repair };
    let mut replies = connection.admin().verify_store(request).await?.into_inner();
    let mut told = Instant::now();
    while let Some(reply) = replies.message().await? {
        match reply.kind {
            Some(Kind::Finding(finding)) => ui::result(&match args.json {
                true => format!("{}\n", finding_json(&finding)),
                false => finding_text(&finding),
            })?,
            Some(Kind::Progress(progress)) if told.elapsed() >= PROGRESS_EVERY => {
                told = Instant::now();
                ui::remark(&progress_text(&progress));
            }
            Some(Kind::Summary(summary)) => return Ok(summary),
            // A newer server may say more.
            Some(Kind::Progress(_)) | None => {}
        }
    }
    Err(Problem::new(Blame::Bug, "the server ended before the store was read"))
}

fn progress_text(progress: &Progress) -> String {
    format!(
        "verifying: {} {} of {}, {} read",
        escape::line(progress.part.as_bytes()),
        progress.done,
        progress.total,
        bytes(progress.bytes)
    )
}

fn finding_text(finding: &Finding) -> String {
    let needed_by = match finding.needed_by.as_slice() {
        [] => String::new(),
        users => format!("; needed by {}", users.join(", ")),
    };
    let remedy = match finding.remedy.as_str() {
        "set-aside" => "; set aside".to_owned(),
        "failed" => format!("; cannot be mended: {}", finding.failure),
        "none" => String::new(),
        done => format!("; {done}"),
    };
    // Names of files and steps are a stranger's.
    let text = format!(
        "{} {} {}: {}{needed_by}{remedy}",
        finding.wrong, finding.part, finding.name, finding.detail
    );
    format!("{}\n", escape::line(text.as_bytes()))
}

fn summary_text(summary: &Summary, repair: bool) -> String {
    let mut text = format!("{} files, {} read", summary.files, bytes(summary.bytes));
    let found = [
        (summary.damaged, "damaged"),
        (summary.missing, "missing"),
        (summary.left_over, "left over"),
    ];
    let found: Vec<String> = found
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    text += &match found.as_slice() {
        [] => ": nothing is wrong\n".to_owned(),
        found => format!(": {}\n", found.join(", ")),
    };
    if summary.in_use > 0 {
        text += &format!("{} in use by running builds, not judged\n", summary.in_use);
    }
    if summary.unchecked > 0 {
        text += &format!(
            "{} snapshots that nothing needs, with nothing to compare them with\n",
            summary.unchecked
        );
    }
    if summary.set_aside > 0 {
        text += &format!(
            "{} files are set aside; `rbuild prune` removes them\n",
            summary.set_aside
        );
    }
    if summary.open > 0 {
        text += &match repair {
            true => format!("{} still wrong\n", summary.open),
            false => "`rbuild store verify --repair` mends it; what builds need is made again\n".to_owned(),
        };
    }
    text
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    json!({
        "wrong": finding.wrong, "part": finding.part, "name": finding.name, "detail": finding.detail,
        "needed_by": finding.needed_by, "remedy": finding.remedy, "failure": finding.failure,
    })
}

fn summary_json(summary: &Summary) -> serde_json::Value {
    json!({
        "files": summary.files, "bytes": summary.bytes, "damaged": summary.damaged, "missing": summary.missing,
        "left_over": summary.left_over, "open": summary.open, "in_use": summary.in_use, "unchecked": summary.unchecked,
        "set_aside": summary.set_aside,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_what_is_wrong_who_needs_it_and_what_was_done() {
        let finding = Finding {
            wrong: "damaged".to_owned(),
            part: "blob".to_owned(),
            name: "sha256:ab".to_owned(),
            detail: "it is bad".to_owned(),
            needed_by: vec!["step RUN \u{1b}[2J".to_owned(), "image app:1".to_owned()],
            remedy: "set-aside".to_owned(),
            failure: String::new(),
        };
        assert_eq!(
            finding_text(&finding),
            "damaged blob sha256:ab: it is bad; needed by step RUN \\x1b[2J, image app:1; set aside\n"
        );
        let failed = Finding {
            needed_by: Vec::new(),
            remedy: "failed".to_owned(),
            failure: "no".to_owned(),
            ..finding
        };
        assert_eq!(
            finding_text(&failed),
            "damaged blob sha256:ab: it is bad; cannot be mended: no\n"
        );
    }

    #[test]
    fn the_sum_says_what_to_do() {
        let clean = Summary {
            files: 3,
            bytes: 4096,
            ..Summary::default()
        };
        assert_eq!(summary_text(&clean, false), "3 files, 4.00KiB read: nothing is wrong\n");
        let bad = Summary {
            damaged: 2,
            left_over: 1,
            open: 3,
            in_use: 1,
            ..clean
        };
        assert_eq!(
            summary_text(&bad, false),
            "3 files, 4.00KiB read: 2 damaged, 1 left over\n1 in use by running builds, not judged\n\
             `rbuild store verify --repair` mends it; what builds need is made again\n"
        );
        assert!(summary_text(&bad, true).ends_with("3 still wrong\n"));
    }
}
