//! One build, one result a vertex: finds the aliases that would mix files of different runs in one image.
//!
//! The key of a `COPY --from=a` is remembered under the key of `a`, so that a build need not look into `a` to find the copy. But
//! a step may make other files each time it runs (`RUN date >/d`), so an alias also says what `a` was when its files were read,
//! and holds as long as nothing in this build says otherwise:
//!
//! | of `a` this build has | the alias |
//! |---|---|
//! | a known result, the one that the alias names | holds |
//! | a known result, another one | does not hold: the copy would be of a run that is over |
//! | no result, and needs none | holds, if all aliases that read `a` name the same one |
//! | no result, and has to run it for somebody else | does not hold: what it will make is not known yet |
//!
//! What is said of `a` is said of every step below it too: a layer stands on the layers under it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use proto::definition::{Definition, InputMode, Op, Vertex, VertexId};
use proto::digest::ChainId;
use proto::record::Alias;

use super::{Inputs, Output};

/// Vertices whose results are files that a step made: the inputs that an alias is about, in the order of the vertex.
pub fn stages_read<'a>(definition: &'a Definition, vertex: &'a Vertex) -> impl Iterator<Item = VertexId> + 'a {
    let inputs = vertex.inputs().into_iter();
    inputs.filter_map(|(input, mode)| {
        let made = mode == InputMode::Content && !definition.vertex(input).op.is_source();
        made.then_some(input)
    })
}

/// What an alias says of the stages that `vertex` reads, given their results.
#[must_use]
pub fn chains_read(definition: &Definition, vertex: &Vertex, inputs: &Inputs) -> Vec<Vec<ChainId>> {
    stages_read(definition, vertex)
        .map(|input| inputs.stack(Some(input)).chains().to_vec())
        .collect()
}

/// The root filesystem that a vertex works on.
#[must_use]
pub fn root_of(vertex: &Vertex) -> Option<VertexId> {
    match &vertex.op {
        Op::Exec(exec) => exec.root,
        Op::File(file) => file.root,
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => None,
    }
}

/// What is known of a graph before anything runs.
#[derive(Debug)]
pub struct Found<'a> {
    /// The graph.
    pub definition: &'a Definition,
    /// What is wanted of it.
    pub targets: &'a [VertexId],
    /// Results that are known.
    pub hits: &'a BTreeMap<VertexId, Output>,
    /// Where a key came from an alias: that alias.
    pub aliases: &'a BTreeMap<VertexId, Alias>,
}

impl Found<'_> {
    /// The vertices whose aliases do not hold. Once they and what follows from them are taken out of the hits, the question has to
    /// be asked again: more has to run then.
    #[must_use]
    pub fn contradicted(&self) -> BTreeSet<VertexId> {
        let (running, relied_on) = self.needed();
        let mut contradicted = BTreeSet::new();
        let mut said: BTreeMap<VertexId, Vec<(ChainId, VertexId)>> = BTreeMap::new();
        for id in relied_on {
            let Some(alias) = self.aliases.get(&id) else { continue };
            let stages: Vec<VertexId> = stages_read(self.definition, self.definition.vertex(id)).collect();
            if stages.len() != alias.inputs.len() {
                contradicted.insert(id);
                continue;
            }
            for (stage, chains) in stages.into_iter().zip(&alias.inputs) {
                for (step, chain) in self.below(stage, chains) {
                    match self.hits.get(&step) {
                        Some(hit) if hit.stack.chain() == Some(chain) => {}
                        Some(_) => drop(contradicted.insert(id)),
                        None if running.contains(&step) => drop(contradicted.insert(id)),
                        None => said.entry(step).or_default().push((chain, id)),
                    }
                }
            }
        }
        for claims in said.into_values() {
            if claims.windows(2).any(|pair| pair[0].0 != pair[1].0) {
                contradicted.extend(claims.into_iter().map(|(_, id)| id));
            }
        }
        contradicted
    }

    /// What has to run for the targets, and everything that the results which are taken instead of running stand on.
    fn needed(&self) -> (BTreeSet<VertexId>, BTreeSet<VertexId>) {
        let (mut running, mut relied_on) = (BTreeSet::new(), BTreeSet::new());
        let inputs = |id: VertexId| self.definition.vertex(id).inputs().into_iter().map(|(input, _)| input);
        let mut open = self.targets.to_vec();
        let mut taken = Vec::new();
        while let Some(id) = open.pop() {
            if self.hits.contains_key(&id) {
                taken.push(id);
            } else if running.insert(id) {
                open.extend(inputs(id));
            }
        }
        while let Some(id) = taken.pop() {
            if relied_on.insert(id) {
                taken.extend(inputs(id));
            }
        }
        (running, relied_on)
    }

    /// `stage` and the steps below it, each with the chain it ended when the layers of `stage` had `chains`.
    fn below(&self, stage: VertexId, chains: &[ChainId]) -> Vec<(VertexId, ChainId)> {
        let mut steps = Vec::new();
        let mut next = Some(stage);
        for chain in chains.iter().rev() {
            let Some(step) = next.filter(|id| !self.definition.vertex(*id).op.is_source()) else {
                break;
            };
            steps.push((step, *chain));
            next = root_of(self.definition.vertex(step));
        }
        steps
    }
}
