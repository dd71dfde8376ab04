//! `Admin.Explain`: a build from the store, and for each of its steps that ran all that differs from the time before.
//!
//! The reason of a step was settled when it ran. What differs is compared now, from what both keys were computed from, as far as
//! the store still has it.

use cache::records::RecordStore;
use cache::store::Store;
use proto::history::{BuildRecord, BuildStep, PastStep};
use proto::miss::{Change, FileChange, FileDifference};
use proto::record::{CacheKey, Preimage};
use proto::v1;
use proto::v1::explain_reply::{Difference, Step};
use tonic::Status;

use crate::inspect::find::{self, FindError, Words};
use crate::solve::compare::{self, Side, instruction_of};
use crate::solve::explain::root_key;

/// Differences in one answer: more would not fit into a message.
const MOST_DIFFERENCES: usize = 10_000;

/// Answers.
///
/// # Errors
/// No such build or step.
pub(super) fn explain(store: &Store, request: &v1::ExplainRequest) -> Result<v1::ExplainReply, Status> {
    let words = Words {
        build: &request.build,
        step: &request.step,
        build_or_step: &request.build_or_step,
    };
    let found = find::find(store, &words).map_err(|error| status(&error))?;
    let (build, chosen) = (&found.build, found.chosen());
    let mut room = MOST_DIFFERENCES;
    let steps = chosen.into_iter().map(|step| step_reply(store, build, step, &mut room));
    let steps = steps.collect();
    Ok(build_reply(build, steps))
}

fn status(error: &FindError) -> Status {
    match error {
        FindError::List(_) => Status::internal(error.to_string()),
        _ => Status::not_found(error.to_string()),
    }
}

fn build_reply(build: &BuildRecord, steps: Vec<Step>) -> v1::ExplainReply {
    let (digest, failure) = build.outcome.as_wire();
    v1::ExplainReply {
        id: build.id.clone(),
        started_ms: build.started_ms,
        duration_ms: build.duration_ms,
        dockerfile: build.dockerfile.clone(),
        target: build.target.clone(),
        platforms: build.platforms.clone(),
        names: build.names.clone(),
        digest,
        failure,
        steps,
    }
}

fn step_reply(store: &Store, build: &BuildRecord, step: &BuildStep, room: &mut usize) -> Step {
    let hex = |key: Option<CacheKey>| key.map(|key| key.to_string()).unwrap_or_default();
    let (differences, forgotten) = match (&step.before, step.step.key) {
        (Some(before), Some(key)) if before.key.is_some_and(|old| old != key) => {
            match compared(store, build, before, &step.step) {
                Some(differences) => (differences, false),
                // An image has no preimage: its reference says all there is.
                None => (Vec::new(), step.step.image.is_empty()),
            }
        }
        _ => (Vec::new(), false),
    };
    let total = differences.len();
    let sent: Vec<Difference> = differences.into_iter().take(*room).collect();
    *room -= sent.len();
    let (reason_code, reason) = step.reason.clone();
    Step {
        number: step.number,
        name: step.step.name.clone(),
        line: step.line,
        verdict: step.verdict.word().to_owned(),
        reason_code,
        reason,
        duration_ms: step.duration_ms,
        key: hex(step.step.key),
        previous_name: step
            .before
            .as_ref()
            .map(|before| before.name.clone())
            .unwrap_or_default(),
        previous_key: hex(step.before.as_ref().and_then(|before| before.key)),
        more: (total - sent.len()) as u64,
        differences: sent,
        forgotten,
    }
}

/// All that differs; nothing if the store does not know any more what one of the two was made of.
fn compared(store: &Store, build: &BuildRecord, old: &PastStep, new: &PastStep) -> Option<Vec<Difference>> {
    let records = store.records();
    let (before, after) = (records.preimage(old.key?)?, records.preimage(new.key?)?);
    let sides = [(old, &before), (new, &after)].map(|(step, preimage)| Side { step, preimage });
    let mut found: Vec<Difference> = compare::differences(sides[0], sides[1]).iter().map(to_wire).collect();
    found.extend(below(store, build, &before, &after));
    Some(found)
}

/// What is another one below.
fn below(store: &Store, build: &BuildRecord, old: &Preimage, new: &Preimage) -> Option<Difference> {
    let (old, new) = (root_key(old), root_key(new));
    if old == new {
        return None;
    }
    let steps = || {
        build
            .steps
            .iter()
            .flat_map(|step| step.before.iter().chain([&step.step]))
    };
    let known = |key: CacheKey| steps().find(|step| step.key == Some(key));
    let is_image = new.and_then(known).is_some_and(|step| !step.image.is_empty());
    let name = |key: CacheKey| match known(key) {
        Some(step) if step.image.is_empty() => Some(instruction_of(&step.name).to_owned()),
        Some(step) => Some(step.image.clone()),
        // A step that was taken out is in no list of this build.
        None => {
            let record = store.records().lookup(&[key]).pop().flatten()?;
            Some(instruction_of(&record.step).to_owned())
        }
    };
    let kind = if is_image { "base-image" } else { "earlier-step" };
    Some(difference(
        kind,
        "",
        Change::Changed.word(),
        [old.and_then(name), new.and_then(name)],
    ))
}

fn difference(kind: &str, name: &str, change: &str, [old, new]: [Option<String>; 2]) -> Difference {
    Difference {
        kind: kind.to_owned(),
        name: name.to_owned(),
        change: change.to_owned(),
        old,
        new,
    }
}

fn to_wire(found: &compare::Difference) -> Difference {
    match found {
        compare::Difference::Instruction { old, new } => {
            let values = [Some(old.clone()), Some(new.clone())];
            difference("instruction", "", Change::Changed.word(), values)
        }
        compare::Difference::Variable(variable) => {
            let kind = if variable.build_argument {
                "build-argument"
            } else {
                "environment"
            };
            let values = [variable.old.clone(), variable.new.clone()];
            difference(kind, &variable.name, variable.change.word(), values)
        }
        compare::Difference::File(file) => file_to_wire(file),
        compare::Difference::Option { name, change, old, new } => {
            difference("option", name, change.word(), [old.clone(), new.clone()])
        }
    }
}

fn file_to_wire(file: &FileChange) -> Difference {
    let owner = |(uid, gid): (u32, u32)| format!("{uid}:{gid}");
    let (change, values) = match &file.what {
        FileDifference::Content => ("changed", None),
        FileDifference::Added => ("added", None),
        FileDifference::Removed => ("removed", None),
        FileDifference::Mode { old, new } => ("mode", Some([old, new].map(|mode| format!("{mode:o}")))),
        FileDifference::Owner { old, new } => ("owner", Some([*old, *new].map(owner))),
        FileDifference::ModeAndOwner { old, new } => {
            let text = |(mode, uid, gid): (u32, u32, u32)| format!("{mode:o} {uid}:{gid}");
            ("mode-and-owner", Some([*old, *new].map(text)))
        }
        FileDifference::Attributes => ("attributes", None),
    };
    let values = values.map_or([None, None], |values| values.map(Some));
    difference("file", &file.path, change, values)
}

#[cfg(test)]
mod tests {
    use proto::digest::ContentDigest;
    use proto::history::{Outcome, Verdict};

    use super::*;

    fn build(id: &str, started_ms: u64, steps: &[&str]) -> BuildRecord {
        let step = |(number, name): (usize, &&str)| BuildStep {
            number: u32::try_from(number).unwrap() + 4,
            line: 1,
            step: PastStep {
                text: ContentDigest::of(name.as_bytes()),
                key: None,
                name: (*name).to_owned(),
                build_arguments: Vec::new(),
                image: String::new(),
            },
            before: None,
            verdict: Verdict::Ran,
            reason: ("no-cache".to_owned(), "--no-cache".to_owned()),
            duration_ms: 1,
            diff_ids: Vec::new(),
        };
        BuildRecord {
            id: format!("{id:0<32}"),
            started_ms,
            duration_ms: 0,
            dockerfile: "Dockerfile".to_owned(),
            target: String::new(),
            platforms: Vec::new(),
            names: Vec::new(),
            outcome: Outcome::Success(String::new()),
            steps: steps.iter().enumerate().map(step).collect(),
        }
    }

    /// The id and the steps that an answer is about, or why there is none.
    fn check(request: [&str; 3], expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let options = cache::store::Options::new(std::sync::Arc::new(|| 1));
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        for build in [
            build("ab12", 1, &["[1/1] RUN old"]),
            build("ab34", 2, &["[1/2] RUN a", "[2/2] RUN b"]),
        ] {
            store.builds().put(&build).unwrap();
        }
        let [build, step, build_or_step] = request.map(str::to_owned);
        let request = v1::ExplainRequest {
            build,
            step,
            build_or_step,
        };
        let answer = match explain(&store, &request) {
            Ok(reply) => {
                let names = reply
                    .steps
                    .iter()
                    .map(|step| format!(" #{}{}", step.number, &step.name[5..]));
                format!("{}:{}", &reply.id[..4], names.collect::<String>())
            }
            Err(status) => status.message().to_owned(),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn builds_are_found_by_their_first_digits_and_steps_by_number_or_words() {
        check(["", "", ""], "ab34: #4 RUN a #5 RUN b");
        check(["ab1", "", ""], "ab12: #4 RUN old");
        check(["", "5", ""], "ab34: #5 RUN b");
        check(["", "#4", ""], "ab34: #4 RUN a");
        check(["", "RUN b", ""], "ab34: #5 RUN b");
        check(["ab12", "RUN", ""], "ab12: #4 RUN old");
        check(["", "", "ab12"], "ab12: #4 RUN old");
        check(["", "", "5"], "ab34: #5 RUN b");
        check(["", "", "RUN a"], "ab34: #4 RUN a");
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        check(
            ["ab", "", ""],
            "`ab` begins the ids of 2 builds: give more of its digits",
        );
        check(
            ["ff", "", ""],
            "no build `ff` is remembered, the last ones are ab3400000000, ab1200000000",
        );
        check(["", "RUN c", ""], "build ab3400000000 has no step `RUN c`");
        check(["", "", "abcd"], "build ab3400000000 has no step `abcd`");
    }
}
