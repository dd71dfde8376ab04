//! `rbuild debug ignore`: patterns matched, ignore files read, folders walked.

use std::path::PathBuf;

use frontend::patterns::{IgnoreFile, Patterns};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine;

/// A question about ignore patterns.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    id: Value,
    #[serde(flatten)]
    question: Question,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Question {
    /// Whether a path or a parent of it matches.
    Match { patterns: Vec<String>, path: String },
    /// The patterns of an ignore file.
    Parse { text: String },
    /// What of a folder is sent.
    Walk { text: String, dir: PathBuf },
}

/// The answer to a [`Case`].
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    id: Value,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Found {
    Matched(bool),
    Patterns(Vec<String>),
    Sent(Vec<String>),
    Error(String),
}

/// Answers one question.
pub(super) fn answer(case: Case) -> Answer {
    let found = match case.question {
        Question::Match { patterns, path } => Patterns::new(&patterns)
            .map(|patterns| Found::Matched(patterns.matches(path.as_bytes())))
            .map_err(|error| error.to_string()),
        Question::Parse { text } => Ok(Found::Patterns(IgnoreFile::cleaned(&text))),
        Question::Walk { text, dir } => engine::sent(&dir, &text).map(Found::Sent),
    };
    Answer {
        id: case.id,
        found: found.unwrap_or_else(Found::Error),
    }
}
