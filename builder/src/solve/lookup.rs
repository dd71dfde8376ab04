//! Before anything runs: all keys that can be known, one batch of record lookups, and what follows from the hits.

use std::collections::{BTreeMap, BTreeSet};

use cache::lease::Held;
use cache::records::RecordStore;
use proto::canonical;
use proto::definition::{InputMode, VertexId};
use proto::record::{Alias, CacheKey, CacheRecord, Preimage};

use super::agree::{self, Found};
use super::{Inputs, Output, Solve, cache_key};
use crate::request::BuildError;
use crate::stack::{Layer, Stack};

/// What is known of a vertex before it runs.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its key, if no stage has to be looked into for it.
    pub key: Option<CacheKey>,
    /// What the key was computed from; missing when the key came from an alias.
    pub preimage: Option<Preimage>,
}

/// Result of the first look at the whole graph.
#[derive(Debug, Default)]
pub struct Looked {
    /// By vertex.
    pub known: Vec<Known>,
    /// Outputs of the vertices that need not run.
    pub hits: BTreeMap<VertexId, Output>,
}

/// Computes keys bottom-up and looks all of them up.
///
/// # Errors
/// A store that cannot be read; sources that are missing from the context.
pub async fn look(solve: &Solve, targets: &[VertexId]) -> Result<Looked, BuildError> {
    let mut known: Vec<Known> = Vec::with_capacity(solve.definition.vertices.len());
    let mut aliases = BTreeMap::new();
    for index in 0..solve.definition.vertices.len() {
        let id = vertex_id(index);
        known.push(match know(solve, id, &known).await? {
            Answer::Known(known) => known,
            Answer::Alias(alias) => {
                let key = Some(alias.key);
                aliases.insert(id, alias);
                Known { key, preimage: None }
            }
        });
    }
    let mut looked = Looked {
        hits: hits(solve, &known),
        known,
    };
    loop {
        let found = Found {
            definition: &solve.definition,
            targets,
            hits: &looked.hits,
            aliases: &aliases,
        };
        let contradicted = found.contradicted();
        if contradicted.is_empty() {
            break;
        }
        aliases.retain(|id, _| !contradicted.contains(id));
        forget(solve, contradicted, &mut looked);
    }
    for output in looked.hits.values() {
        solve.results.keep(output);
    }
    Ok(looked)
}

/// The outputs of all vertices that need not run, if every key is right.
fn hits(solve: &Solve, known: &[Known]) -> BTreeMap<VertexId, Output> {
    let keys: Vec<CacheKey> = known.iter().filter_map(|known| known.key).collect();
    // Held first: what is found then stays until this build has used it.
    for key in &keys {
        solve.lease.hold(Held::Record(*key));
    }
    let found = solve.store.records().lookup(&keys);
    let records: BTreeMap<CacheKey, CacheRecord> = keys
        .into_iter()
        .zip(found)
        .filter_map(|(key, record)| Some((key, record?)))
        .collect();
    let mut hits = BTreeMap::new();
    let mut forced = BTreeSet::new();
    for (index, known) in known.iter().enumerate() {
        let id = vertex_id(index);
        let vertex = solve.definition.vertex(id);
        // What reads a step that must run waits for it, even if its own result is known: the user wants to see it run.
        let is_step = !vertex.op.is_source();
        let reads_forced = vertex.inputs().iter().any(|(input, _)| forced.contains(input));
        if is_step && (reads_forced || solve.no_cache.applies_to(&vertex.stage)) {
            forced.insert(id);
            continue;
        }
        if let Some(output) = hit(solve, id, known, &records, &hits) {
            hits.insert(id, output);
        }
    }
    hits
}

/// Takes back what is known of `doubted` and of everything whose key was computed from theirs.
fn forget(solve: &Solve, mut doubted: BTreeSet<VertexId>, looked: &mut Looked) {
    for index in 0..looked.known.len() {
        let id = vertex_id(index);
        let inputs = solve.definition.vertex(id).inputs();
        if doubted.contains(&id) || inputs.iter().any(|(input, _)| doubted.contains(input)) {
            doubted.insert(id);
            looked.known[index] = Known::default();
            looked.hits.remove(&id);
        }
    }
}

/// What the first look found out about `id`, if that was computed from the keys its inputs turned out to have.
#[must_use]
pub fn still_known(solve: &Solve, id: VertexId, inputs: &Inputs, known: &[Known]) -> Known {
    let agrees = |(input, _): &(VertexId, InputMode)| {
        let key = inputs.get(*input).map(|output| output.key);
        key.is_some() && key == known[input.0 as usize].key
    };
    if solve.definition.vertex(id).inputs().iter().all(agrees) {
        known[id.0 as usize].clone()
    } else {
        Known::default()
    }
}

fn vertex_id(index: usize) -> VertexId {
    VertexId(u32::try_from(index).expect("ids of a definition are 32 bits"))
}

/// The key of a vertex, or where it may be had from.
enum Answer {
    Known(Known),
    Alias(Alias),
}

/// The key of one vertex, given what is known of those before it.
async fn know(solve: &Solve, id: VertexId, known: &[Known]) -> Result<Answer, BuildError> {
    let vertex = solve.definition.vertex(id);
    let inputs = vertex.inputs();
    if inputs.iter().any(|(input, _)| known[input.0 as usize].key.is_none()) {
        return Ok(Answer::Known(Known::default()));
    }
    let key_of = |input: VertexId| {
        known[input.0 as usize]
            .key
            .expect("checked above: all inputs have keys")
    };
    if agree::stages_read(&solve.definition, vertex).next().is_some() {
        let alias = solve
            .store
            .records()
            .aliases(&[cache_key::alias(vertex, &key_of)])
            .pop();
        return Ok(alias.flatten().map_or(Answer::Known(Known::default()), Answer::Alias));
    }
    let content = solve.work.content(id, &Inputs::default()).await?;
    let preimage = cache_key::with_content(cache_key::fields(vertex, &key_of), content);
    Ok(Answer::Known(Known {
        key: Some(canonical::key(&preimage)),
        preimage: Some(preimage),
    }))
}

fn hit(
    solve: &Solve,
    id: VertexId,
    known: &Known,
    records: &BTreeMap<CacheKey, CacheRecord>,
    hits: &BTreeMap<VertexId, Output>,
) -> Option<Output> {
    let key = known.key?;
    let vertex = solve.definition.vertex(id);
    if vertex.op.is_source() {
        return Some(Output {
            stack: solve.work.source(id),
            key,
            created_ms: None,
            ran: None,
        });
    }
    let below = match agree::root_of(vertex) {
        None => Stack::default(),
        Some(root) => hits.get(&root)?.stack.clone(),
    };
    output_of(solve, &below, records.get(&key)?)
}

/// The output that `record` stands for on top of `below`, unless it was made on another stack or its bytes are gone.
///
/// The stack is compared because keys name the *vertex* below and not its bytes: a step that ran again may have made others.
#[must_use]
pub fn output_of(solve: &Solve, below: &Stack, record: &CacheRecord) -> Option<Output> {
    let layer = Layer::built(
        record.layer.diff_id,
        record.layer.size_bytes,
        record.layer.forms.clone(),
    );
    let stack = below.with(layer);
    if stack.chain() != Some(record.chain) || !solve.work.is_present(&stack) {
        return None;
    }
    Some(Output {
        stack,
        key: record.key,
        created_ms: Some(record.created_ms),
        ran: None,
    })
}
