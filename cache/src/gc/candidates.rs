//! What may go, and in which order: what a policy names as too old first, then what is cheap to have again for its size.

use proto::record::CacheKey;

use super::filter::{Fact, Subject, meets_all};
use super::survey::{Facts, Survey};
use super::thing::{Kind, Thing, things_of};
use super::{Policy, RECENT_MS};

/// How fast base images, git repositories and the like come back: a registry that is neither near nor far.
const FETCHED_BYTES_PER_MS: u64 = 10_000;
/// What fetching takes, however little it is.
const FETCH_MS: u64 = 500;
/// What steps fetched or compiled into a cache mount takes them so much longer than fetching the same bytes would.
const MOUNT_FACTOR: u64 = 4;

/// Within a few minutes nothing is older than anything else, or what was made just now would be kept however large it is.
const SAME_TIME_MS: u64 = 5 * 60_000;

/// What can be dropped at once, and how gladly.
pub(super) struct Candidate {
    pub(super) what: What,
    /// Older than the policy keeps anything.
    pub(super) is_old: bool,
    facts: Facts,
    /// How long it takes to have it again.
    cost_ms: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Record(CacheKey),
    Loose(Thing),
}

impl Candidate {
    /// Long unused, large and quickly had again goes first.
    fn eagerness(&self, now_ms: u64) -> f64 {
        let idle = now_ms.saturating_sub(self.facts.last_use_ms) + SAME_TIME_MS;
        (idle as f64) * (self.facts.bytes as f64 + 1.0) / (self.cost_ms as f64 + 1.0)
    }
}

/// What may go, in the order in which it goes.
pub(super) fn candidates(survey: &Survey, policy: &Policy) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = records(survey, policy).chain(loose(survey, policy)).collect();
    candidates.sort_by(|a, b| {
        let eagerness = |candidate: &Candidate| candidate.eagerness(survey.now_ms);
        b.is_old.cmp(&a.is_old).then(eagerness(b).total_cmp(&eagerness(a)))
    });
    candidates
}

fn records(survey: &Survey, policy: &Policy) -> impl Iterator<Item = Candidate> {
    let free = survey
        .records
        .iter()
        .filter(|(key, _)| !survey.kept_records.contains(key));
    free.filter_map(|(key, (record, facts))| {
        let things = things_of(record);
        let ids: Vec<String> = [key.to_string()]
            .into_iter()
            .chain(things.iter().map(|thing| thing.id()))
            .collect();
        let subject = Subject {
            kind: Kind::Record,
            ids: &ids,
            idle_ms: survey.idle_ms(facts),
            in_use: false,
            description: &record.step,
        };
        let is_old = may_go(&subject, policy)?;
        // Only what goes with it: the record of a layer that an image keeps is no more than a small file.
        let goes_too = |thing: &&Thing| {
            !survey.kept.contains(thing) && survey.references.get(thing).is_none_or(|count| *count <= 1)
        };
        let led_to = things
            .iter()
            .filter(goes_too)
            .filter_map(|thing| survey.things.get(thing));
        Some(Candidate {
            what: What::Record(*key),
            is_old,
            facts: Facts {
                bytes: facts.bytes + led_to.map(|facts| facts.bytes).sum::<u64>(),
                ..*facts
            },
            cost_ms: record.duration_ms,
        })
    })
}

fn loose(survey: &Survey, policy: &Policy) -> impl Iterator<Item = Candidate> {
    let free = survey.things.iter().filter(|(thing, _)| {
        // Explanations of misses outlive what they explain, and go only with everything.
        let explains = matches!(thing, Thing::Preimage(key) if survey.last_keys.contains(key));
        let needed = survey.kept.contains(thing) || survey.references.contains_key(thing);
        !needed && (!explains || policy.is_everything())
    });
    free.filter_map(|(thing, facts)| {
        let about = survey.mounts.get(thing);
        let subject = Subject {
            kind: thing.kind(),
            ids: &[thing.id()],
            idle_ms: survey.idle_ms(facts),
            in_use: false,
            description: &about
                .map(|about| format!("{} {}", about.id, about.step))
                .unwrap_or_default(),
        };
        Some(Candidate {
            what: What::Loose(*thing),
            is_old: may_go(&subject, policy)?,
            facts: *facts,
            cost_ms: cost_ms(*thing, facts.bytes),
        })
    })
}

/// Nothing if it has to stay; else whether it is older than the policy keeps anything.
fn may_go(subject: &Subject<'_>, policy: &Policy) -> Option<bool> {
    let is_old = policy.max_age_ms.is_some_and(|age| subject.idle_ms > age);
    // Whoever gives an age means what is recent, too.
    let by_age = policy
        .filters
        .iter()
        .any(|filter| matches!(filter.fact, Fact::UnusedFor(_)));
    let recent = !policy.all && !is_old && !by_age && subject.idle_ms < RECENT_MS;
    (!recent && meets_all(&policy.filters, subject)).then_some(is_old)
}

/// How long it takes to have something again that no step makes. What no build asks for any more costs nobody anything, but
/// nobody can know that.
fn cost_ms(thing: Thing, bytes: u64) -> u64 {
    let fetched = FETCH_MS + bytes / FETCHED_BYTES_PER_MS;
    match thing {
        Thing::Preimage(_) => 0,
        Thing::CacheMount(_) => fetched.saturating_mul(MOUNT_FACTOR),
        Thing::Blob(_) | Thing::Tree(_) | Thing::Forms(_) | Thing::Snapshot(_) | Thing::Mirror(_) => fetched,
    }
}
