//! Why a step ran: what is known of its own key first, then the same step in the last build that had it.
//!
//! The order of the questions is what makes the answer true: a result that is there and does not fit says more than any
//! history, and no key may be compared with one that was made in another way.

use cache::records::RecordStore;
use proto::canonical::SCHEMA;
use proto::definition::{Op, Vertex, VertexId};
use proto::history::{History, PastStep, Series, SeriesName};
use proto::miss::MissReason;
use proto::record::{CacheKey, CacheRecord, Preimage};

use super::compare::{self, Difference, Side, instruction_of};
use super::history::{past_step, series_of};
use super::ledger::{ENGINE, Past};
use super::{Inputs, Solve};
use crate::stack::{Layer, Stack};

/// Files and variables that are named in one line; the rest is counted.
const NAMED: usize = 3;

/// A step that was not found.
#[derive(Debug)]
pub struct Miss<'a> {
    /// The key it was looked up by.
    pub key: CacheKey,
    /// What the key was computed from.
    pub preimage: &'a Preimage,
    /// The layers below.
    pub below: &'a Stack,
}

/// The step below the one that is explained.
struct Parent<'a> {
    vertex: &'a Vertex,
    /// Whether it ran in this build.
    ran: bool,
}

/// The reason, as far as the store still knows earlier builds. Never fails: a history that is lost is a reason of its own.
#[must_use]
pub fn why(solve: &Solve, id: VertexId, inputs: &Inputs, miss: &Miss<'_>) -> MissReason {
    let vertex = solve.definition.vertex(id);
    if solve.no_cache.applies_to(&vertex.stage) {
        return MissReason::NoCache;
    }
    let root = match &vertex.op {
        Op::Exec(exec) => exec.root,
        Op::File(file) => file.root,
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => None,
    };
    let parent = root.map(|root| Parent {
        vertex: solve.definition.vertex(root),
        ran: inputs.get(root).is_some_and(|output| output.ran.is_some()),
    });
    if let Some(record) = solve.store.records().lookup(&[miss.key]).pop().flatten() {
        return unusable(solve, &record, miss.below, parent.as_ref());
    }
    let gone = || solve.store.records().absence(miss.key).unwrap_or(MissReason::Evicted);
    // It is written with the record and outlives it: what has one was built once, by whatever build.
    if solve.store.records().preimage(miss.key).is_some() {
        return gone();
    }
    let past = solve.ledger.past(&solve.store, &solve.definition);
    match past
        .partner(id)
        .and_then(|(series, before)| Some((series, before, before.key?)))
    {
        None => unknown(vertex, past),
        Some((.., last)) if last == miss.key => gone(),
        Some((series, ..)) if series.schema != SCHEMA => engine_changed(series),
        Some((series, before, last)) => {
            let Some(old) = solve.store.records().preimage(last) else {
                return unless_parent_ran(parent.as_ref(), MissReason::Forgotten);
            };
            let now = past_step(vertex, Some(miss.key));
            let sides = [(before, &old), (&now, miss.preimage)].map(|(step, preimage)| Side { step, preimage });
            let own = reason_of(&compare::differences(sides[0], sides[1]));
            own.unwrap_or_else(|| match parent.as_ref() {
                _ if old == *miss.preimage => engine_changed(series),
                Some(parent) => unless_parent_ran(Some(parent), below(&past.history, &old, parent.vertex)),
                None => MissReason::Forgotten,
            })
        }
    }
}

fn unless_parent_ran(parent: Option<&Parent<'_>>, otherwise: MissReason) -> MissReason {
    match parent {
        Some(parent) if parent.ran => MissReason::ParentRan {
            step: parent.vertex.name.clone(),
        },
        _ => otherwise,
    }
}

fn engine_changed(series: &Series) -> MissReason {
    MissReason::EngineChanged {
        old: series.engine.clone(),
        new: ENGINE.to_owned(),
    }
}

/// Why a result that is there was not taken.
fn unusable(solve: &Solve, record: &CacheRecord, below: &Stack, parent: Option<&Parent<'_>>) -> MissReason {
    let layer = Layer::built(record.layer.diff_id, record.layer.size_bytes, Vec::new());
    if below.with(layer).chain() != Some(record.chain) {
        let other_result = match parent {
            Some(parent) => MissReason::ParentChanged {
                step: parent.vertex.name.clone(),
            },
            // On nothing, a layer has one chain only: the record is not what it was.
            None => MissReason::Damaged,
        };
        return unless_parent_ran(parent, other_result);
    }
    let known = solve.store.records().forms(record.layer.diff_id);
    let mut forms = record.layer.forms.iter().chain(&known);
    match forms.any(|form| solve.store.blobs().was_damaged(form.digest)) {
        true => MissReason::Damaged,
        false => MissReason::Evicted,
    }
}

/// Nothing to compare with: never built, built for other platforms, or lost.
fn unknown(vertex: &Vertex, past: &Past) -> MissReason {
    if past.lost {
        return MissReason::Forgotten;
    }
    let (name, now) = (series_of(vertex), past_step(vertex, None));
    let said = |step: &PastStep| step.text == now.text && step.key.is_some();
    let mut built: Vec<String> = past
        .history
        .series
        .iter()
        .filter(|series| series.of.stage == name.stage && series.of != name && series.steps.iter().any(said))
        .map(|series| platform_of(&series.of))
        .collect();
    built.sort();
    built.dedup();
    if built.is_empty() {
        return MissReason::NeverSeen;
    }
    MissReason::OtherPlatform {
        built,
        wanted: platform_of(&name),
    }
}

/// A step that works for the image of another platform is told apart by that.
fn platform_of(name: &SeriesName) -> String {
    match name.image_platform.as_str() {
        "" => name.platform.clone(),
        image => format!("{} → {image}", name.platform),
    }
}

/// What is another one below a step that is itself the same.
fn below(history: &History, old: &Preimage, parent: &Vertex) -> MissReason {
    let was = root_key(old).and_then(|key| history.step_of(key));
    match (was, &parent.op) {
        (Some(was), Op::Image(image)) if !was.image.is_empty() => MissReason::BaseImageChanged {
            old: was.image.clone(),
            new: image.reference.clone(),
        },
        (Some(was), _) if instruction_of(&was.name) != instruction_of(&parent.name) => MissReason::ParentMoved {
            old: instruction_of(&was.name).to_owned(),
            new: instruction_of(&parent.name).to_owned(),
        },
        _ => MissReason::ParentChanged {
            step: parent.name.clone(),
        },
    }
}

/// The key of what is below, as a preimage has it; nothing for an empty root.
#[must_use]
pub fn root_key(preimage: &Preimage) -> Option<CacheKey> {
    let field = preimage.fields.iter().find(|field| field.name == "root")?;
    // `none`, and nothing else, is no key.
    let key = std::str::from_utf8(&field.value).ok()?.parse().ok()?;
    Some(CacheKey(key))
}

/// One line for `differences`: those of the first kind there is, the first of them named and the rest counted.
#[must_use]
pub fn reason_of(differences: &[Difference]) -> Option<MissReason> {
    let more = |count: usize| count.saturating_sub(NAMED) as u64;
    Some(match differences.first()? {
        Difference::Instruction { old, new } => MissReason::InstructionChanged {
            old: old.clone(),
            new: new.clone(),
        },
        Difference::Variable(_) => {
            let all = differences.iter().filter_map(|difference| match difference {
                Difference::Variable(variable) => Some(variable.clone()),
                _ => None,
            });
            let all: Vec<_> = all.collect();
            MissReason::VariablesChanged {
                more: more(all.len()),
                variables: all.into_iter().take(NAMED).collect(),
            }
        }
        Difference::File(_) => {
            let all = differences.iter().filter_map(|difference| match difference {
                Difference::File(file) => Some(file.clone()),
                _ => None,
            });
            let all: Vec<_> = all.collect();
            MissReason::FilesChanged {
                more: more(all.len()),
                files: all.into_iter().take(NAMED).collect(),
            }
        }
        Difference::Option { name, old, new, .. } => MissReason::OptionChanged {
            name: name.clone(),
            old: old.clone(),
            new: new.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use proto::miss::{FileChange, FileDifference};

    use super::*;

    #[test]
    fn files_beyond_three_are_counted() {
        let file = |number: u32| {
            Difference::File(FileChange {
                path: number.to_string(),
                what: FileDifference::Removed,
            })
        };
        let files: Vec<Difference> = (0..5).map(file).collect();
        assert_eq!(
            reason_of(&files).unwrap().to_string(),
            "`0` removed, `1` removed, `2` removed and 2 more"
        );
        assert_eq!(reason_of(&[]), None);
    }
}
