//! Which vertices are wanted, which wait, which are done. Pure: no time, no tasks, no I/O.

use std::collections::BTreeMap;

use proto::definition::{Definition, VertexId};

use super::{Inputs, Output};

/// Progress of one solve.
#[derive(Debug)]
pub struct State {
    vertices: BTreeMap<VertexId, VertexState>,
    /// Who waits for a vertex.
    dependents: BTreeMap<VertexId, Vec<VertexId>>,
}

/// Progress of one wanted vertex; what is not wanted has none.
#[derive(Debug)]
enum VertexState {
    /// So many distinct inputs are not done yet.
    Waiting(usize),
    /// Handed out.
    Running,
    /// Done.
    Done(Box<Output>),
}

impl State {
    /// Wants `targets`, and of their inputs what is needed to run what is no hit. Returns what can start at once.
    #[must_use]
    pub fn new(
        definition: &Definition,
        targets: &[VertexId],
        hits: &BTreeMap<VertexId, Output>,
    ) -> (Self, Vec<VertexId>) {
        let mut state = Self {
            vertices: BTreeMap::new(),
            dependents: BTreeMap::new(),
        };
        let mut ready = Vec::new();
        let mut open = targets.to_vec();
        while let Some(id) = open.pop() {
            if state.vertices.contains_key(&id) {
                continue;
            }
            if let Some(hit) = hits.get(&id) {
                state.vertices.insert(id, VertexState::Done(Box::new(hit.clone())));
                continue;
            }
            let inputs = distinct_inputs(definition, id);
            let missing = inputs.iter().filter(|input| !hits.contains_key(input)).count();
            for input in inputs {
                state.dependents.entry(input).or_default().push(id);
                open.push(input);
            }
            state.vertices.insert(
                id,
                if missing == 0 {
                    VertexState::Running
                } else {
                    VertexState::Waiting(missing)
                },
            );
            if missing == 0 {
                ready.push(id);
            }
        }
        ready.sort();
        (state, ready)
    }

    /// `id` is done. Returns what can start now.
    pub fn done(&mut self, id: VertexId, output: Output) -> Vec<VertexId> {
        self.vertices.insert(id, VertexState::Done(Box::new(output)));
        let mut ready = Vec::new();
        for dependent in self.dependents.get(&id).into_iter().flatten() {
            if let Some(state @ VertexState::Waiting(_)) = self.vertices.get_mut(dependent)
                && let VertexState::Waiting(missing) = state
            {
                *missing -= 1;
                if *missing == 0 {
                    *state = VertexState::Running;
                    ready.push(*dependent);
                }
            }
        }
        ready
    }

    /// The outputs that `id` reads.
    #[must_use]
    pub fn inputs_of(&self, definition: &Definition, id: VertexId) -> Inputs {
        let mut inputs = Inputs::default();
        for input in distinct_inputs(definition, id) {
            if let Some(VertexState::Done(output)) = self.vertices.get(&input) {
                inputs.insert(input, (**output).clone());
            }
        }
        inputs
    }

    /// All outputs there are.
    #[must_use]
    pub fn into_outputs(self) -> BTreeMap<VertexId, Output> {
        let done = |(id, state)| match state {
            VertexState::Done(output) => Some((id, *output)),
            VertexState::Waiting(_) | VertexState::Running => None,
        };
        self.vertices.into_iter().filter_map(done).collect()
    }
}

fn distinct_inputs(definition: &Definition, id: VertexId) -> Vec<VertexId> {
    let mut inputs: Vec<VertexId> = definition
        .vertex(id)
        .inputs()
        .into_iter()
        .map(|(input, _)| input)
        .collect();
    inputs.sort();
    inputs.dedup();
    inputs
}

#[cfg(test)]
mod tests {
    use proto::definition::{FileAction, FileOp, LocalOp, MakeDirAction, Op, Vertex};
    use proto::digest::ContentDigest;
    use proto::platform::Platform;
    use proto::record::CacheKey;

    use super::*;
    use crate::stack::Stack;

    fn chain(length: u32) -> Definition {
        let platform = Platform::new("linux", "amd64", "");
        let vertex = |op| Vertex {
            op,
            platform: platform.clone(),
            name: String::new(),
            lines: None,
            stage: String::new(),
        };
        let mut definition = Definition::default();
        definition.push(vertex(Op::Local(LocalOp { name: "context".into() })));
        for root in 0..length {
            let action = FileAction::MakeDir(MakeDirAction {
                path: "/".into(),
                owner: None,
            });
            definition.push(vertex(Op::File(FileOp {
                root: Some(VertexId(root)),
                action,
            })));
        }
        definition
    }

    fn output() -> Output {
        Output {
            stack: Stack::default(),
            key: CacheKey(ContentDigest::of(b"")),
            created_ms: None,
            ran: None,
        }
    }

    #[test]
    fn a_hit_hides_everything_below_it() {
        let definition = chain(3);
        let hits = BTreeMap::from([(VertexId(2), output())]);
        let (state, ready) = State::new(&definition, &[VertexId(3)], &hits);
        assert_eq!(ready, [VertexId(3)]);
        assert!(!state.vertices.contains_key(&VertexId(1)));
    }

    #[test]
    fn vertices_start_when_their_last_input_is_done() {
        let definition = chain(2);
        let (mut state, ready) = State::new(&definition, &[VertexId(2)], &BTreeMap::new());
        assert_eq!(ready, [VertexId(0)]);
        assert_eq!(state.done(VertexId(0), output()), [VertexId(1)]);
        assert_eq!(state.done(VertexId(1), output()), [VertexId(2)]);
        assert!(state.done(VertexId(2), output()).is_empty());
        assert_eq!(state.into_outputs().len(), 3);
    }

    #[test]
    fn targets_share_what_both_need() {
        let mut definition = chain(2);
        let action = FileAction::MakeDir(MakeDirAction {
            path: "/other".into(),
            owner: None,
        });
        let twin = definition.vertex(VertexId(2)).clone();
        let other = definition.push(Vertex {
            op: Op::File(FileOp {
                root: Some(VertexId(1)),
                action,
            }),
            ..twin
        });
        let (mut state, ready) = State::new(&definition, &[VertexId(2), other], &BTreeMap::new());
        assert_eq!(ready, [VertexId(0)]);
        assert_eq!(state.done(VertexId(0), output()), [VertexId(1)]);
        let mut both = state.done(VertexId(1), output());
        both.sort();
        assert_eq!(both, [VertexId(2), other]);
    }

    #[test]
    fn a_target_that_hits_needs_nothing() {
        let (state, ready) = State::new(&chain(1), &[VertexId(1)], &BTreeMap::from([(VertexId(1), output())]));
        assert!(ready.is_empty());
        assert_eq!(state.into_outputs().len(), 1);
    }
}
