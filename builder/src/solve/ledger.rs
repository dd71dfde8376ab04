//! What became of each step of a build, and what the last builds of the same project had: read once, when the first step has to
//! be explained, and brought up to date when the build has ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cache::durable::WriteError;
use cache::history::Remembered;
use cache::store::Store;
use proto::canonical::SCHEMA;
use proto::definition::{Definition, VertexId};
use proto::digest::{ContentDigest, DiffId};
use proto::history::{BuildStep, History, PastStep, Series, SeriesName, Verdict};
use proto::miss::MissReason;
use proto::record::CacheKey;

use super::history::{is_step, pair, past_step, series};
use crate::event::StepNumber;
use crate::stack::Stack;

/// The version that makes keys now.
pub const ENGINE: &str = env!("CARGO_PKG_VERSION");

/// Series of a project that are remembered; beyond these the longest unbuilt are forgotten.
const SERIES_KEPT: usize = 256;

/// The ledger of one build.
#[derive(Debug)]
pub struct Ledger {
    projects: Vec<ContentDigest>,
    past: OnceLock<Past>,
    /// The steps as they are now, without keys; nothing for what is no step.
    now: OnceLock<Vec<Option<PastStep>>>,
    entries: Mutex<BTreeMap<VertexId, Entry>>,
}

/// What is known of earlier builds.
#[derive(Debug, Default)]
pub struct Past {
    /// The steps of the project.
    pub history: History,
    /// Which of the projects these were.
    project: Option<ContentDigest>,
    /// Whether there was a history that cannot be read.
    pub lost: bool,
    /// For each step the series and the place in it of the one it is compared with.
    partners: HashMap<VertexId, (usize, usize)>,
}

/// What became of a step.
#[derive(Debug, Clone)]
struct Entry {
    number: StepNumber,
    key: Option<CacheKey>,
    verdict: Verdict,
    reason: Option<MissReason>,
    duration: Duration,
    diff_ids: Vec<DiffId>,
}

/// A step that ran.
#[derive(Debug)]
pub struct Ran {
    /// As progress shows it.
    pub number: StepNumber,
    /// The key of its result; nothing if it has none.
    pub key: Option<CacheKey>,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it ran.
    pub reason: MissReason,
    /// How long it took.
    pub duration: Duration,
    /// The layers of its result; none if it failed.
    pub diff_ids: Vec<DiffId>,
}

impl Past {
    /// The step that `id` is compared with, and the series it is in.
    #[must_use]
    pub fn partner(&self, id: VertexId) -> Option<(&Series, &PastStep)> {
        let (series, at) = self.partners.get(&id)?;
        let series = self.history.series.get(*series)?;
        Some((series, series.steps.get(*at)?))
    }
}

impl Ledger {
    /// An empty ledger of a build of `projects`: any texts that tell the steps of one Dockerfile from those of others. The first of
    /// them that was built before is what the build is compared with; it is remembered under all of them.
    #[must_use]
    pub fn new(projects: &[String]) -> Self {
        let identity = |project: &String| ContentDigest::of(project.as_bytes());
        Self {
            projects: projects.iter().map(identity).collect(),
            past: OnceLock::new(),
            now: OnceLock::new(),
            entries: Mutex::default(),
        }
    }

    /// What earlier builds had.
    pub fn past(&self, store: &Store, definition: &Definition) -> &Past {
        self.past.get_or_init(|| {
            let mut lost = false;
            for project in &self.projects {
                match store.histories().of(*project) {
                    Remembered::Steps(history) => {
                        return Past {
                            partners: self.partners(&history, definition),
                            project: Some(*project),
                            history,
                            lost: false,
                        };
                    }
                    Remembered::Nothing => {}
                    Remembered::Lost => lost = true,
                }
            }
            Past {
                lost,
                ..Past::default()
            }
        })
    }

    /// Notes that the result of a step was known.
    pub fn cached(&self, id: VertexId, number: StepNumber, key: CacheKey, stack: &Stack) {
        let entry = Entry {
            number,
            key: Some(key),
            verdict: Verdict::Cached,
            reason: None,
            duration: Duration::ZERO,
            diff_ids: stack.diff_ids(),
        };
        // A build that starts again finds what it made itself a moment ago.
        self.entries().entry(id).or_insert(entry);
    }

    /// Notes that a step ran.
    pub fn ran(&self, id: VertexId, ran: Ran) {
        let entry = Entry {
            number: ran.number,
            key: ran.key,
            verdict: ran.verdict,
            reason: Some(ran.reason),
            duration: ran.duration,
            diff_ids: ran.diff_ids,
        };
        self.entries().insert(id, entry);
    }

    /// The steps of the build, in the order of their numbers.
    #[must_use]
    pub fn steps(&self, store: &Store, definition: &Definition) -> Vec<BuildStep> {
        let entries = self.entries();
        let step = |(id, entry): (&VertexId, &Entry)| {
            let vertex = definition.vertex(*id);
            let reason = entry.reason.as_ref();
            let before = self.past(store, definition).partner(*id);
            let before = before.filter(|(_, step)| reason.is_some() || step.key != entry.key);
            BuildStep {
                number: entry.number.0,
                line: vertex.lines.map_or(0, |(first, _)| first),
                step: self.step(definition, *id, entry.key),
                before: before.map(|(_, step)| step.clone()),
                verdict: entry.verdict,
                reason: reason.map_or_else(Default::default, |reason| {
                    (reason.code().to_owned(), reason.to_string())
                }),
                duration_ms: u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX),
                diff_ids: entry.diff_ids.clone(),
            }
        };
        let mut steps: Vec<BuildStep> = entries.iter().map(step).collect();
        steps.sort_by_key(|step| step.number);
        steps
    }

    /// Remembers what the steps of this build had, unless that is known. What did not get to be built keeps what it had before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember(&self, store: &Store, definition: &Definition) -> Result<(), WriteError> {
        let past = self.past(store, definition);
        for project in &self.projects {
            let read = || match store.histories().of(*project) {
                Remembered::Steps(history) => history,
                Remembered::Nothing | Remembered::Lost => History::default(),
            };
            let is_past = past.project == Some(*project);
            let known = if is_past { past.history.clone() } else { read() };
            let next = self.next(known.clone(), past, definition);
            if next != known {
                store.histories().put(*project, &next)?;
            }
        }
        Ok(())
    }

    /// `known`, with what the steps of this build have now.
    fn next(&self, known: History, past: &Past, definition: &Definition) -> History {
        let entries = self.entries();
        let mut series_now: Vec<Series> = Vec::new();
        for (of, ids) in series(definition) {
            let built = |id: &VertexId| entries.get(id).is_some_and(|entry| entry.key.is_some());
            if !ids.iter().any(built) {
                continue;
            }
            series_now.push(series_after(of, &ids, past, |id| {
                let key = entries.get(&id).and_then(|entry| entry.key)?;
                Some(self.step(definition, id, Some(key)))
            }));
        }
        let mut next = known;
        // A series keeps its place, so that builds of several targets in turn change nothing.
        for old in &mut next.series {
            if let Some(at) = series_now.iter().position(|new| new.of == old.of) {
                *old = series_now.remove(at);
            }
        }
        next.series.extend(series_now);
        let surplus = next.series.len().saturating_sub(SERIES_KEPT);
        next.series.drain(..surplus);
        next
    }

    /// What is remembered of a step that was built under `key`.
    fn step(&self, definition: &Definition, id: VertexId, key: Option<CacheKey>) -> PastStep {
        let now = self.now.get_or_init(|| {
            let vertices = definition.vertices.iter();
            vertices
                .map(|vertex| is_step(vertex).then(|| past_step(vertex, None)))
                .collect()
        });
        let known = now.get(id.0 as usize).cloned().flatten();
        PastStep {
            key,
            ..known.unwrap_or_else(|| past_step(definition.vertex(id), None))
        }
    }

    fn partners(&self, history: &History, definition: &Definition) -> HashMap<VertexId, (usize, usize)> {
        let mut partners = HashMap::new();
        for (of, ids) in series(definition) {
            let Some(at) = history.series.iter().position(|known| known.of == of) else {
                continue;
            };
            let new: Vec<PastStep> = ids.iter().map(|id| self.step(definition, *id, None)).collect();
            let pairs = pair(&history.series[at].steps, &new);
            let found = ids
                .iter()
                .zip(pairs)
                .filter_map(|(id, place)| Some((*id, (at, place?))));
            partners.extend(found);
        }
        partners
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<VertexId, Entry>> {
        // Single insertions only: a panic elsewhere leaves the map whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps of a series after this build: what it built, and for the rest what they had.
fn series_after(of: SeriesName, ids: &[VertexId], past: &Past, built: impl Fn(VertexId) -> Option<PastStep>) -> Series {
    let before = |id: &VertexId| past.partner(*id).map(|(_, step)| step.clone());
    Series {
        of,
        schema: SCHEMA,
        engine: ENGINE.to_owned(),
        steps: ids.iter().filter_map(|id| built(*id).or_else(|| before(id))).collect(),
    }
}
