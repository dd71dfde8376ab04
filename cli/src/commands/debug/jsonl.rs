//! One JSON case a line on stdin, one JSON answer a line on stdout, each as soon as it is known.

use std::io::BufRead;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::print_json;
use crate::exit::Problem;

/// Answers all cases.
///
/// # Errors
/// A line that is no case ends the conversation: what follows could be answered, but not told apart.
pub(super) fn answer_each<C: DeserializeOwned, A: Serialize>(answer: &impl Fn(C) -> A) -> Result<(), Problem> {
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| Problem::environment(format!("stdin: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let case = serde_json::from_str(&line)
            .map_err(|error| Problem::usage(format!("line {number} of stdin is no case: {error}")))?;
        print_json(&answer(case))?;
    }
    Ok(())
}
