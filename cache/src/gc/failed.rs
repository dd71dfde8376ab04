//! What failed steps left: what is over goes in any case, the rest before anything else, since nothing is ever built from it.

use std::io;

use super::filter::{Subject, meets_all};
use super::list::Item;
use super::thing::Kind;
use super::{Freed, Policy};
use crate::kept::KeptStep;
use crate::lease::Held;
use crate::store::Store;

/// Removes what `policy` does not want to keep, the oldest first.
pub(super) fn collect(store: &Store, policy: &Policy, freed: &mut Freed) -> io::Result<()> {
    for step in store.kept().list()? {
        let idle_ms = idle_ms(store, &step);
        let ids = [step.name.to_string()];
        let subject = Subject {
            kind: Kind::FailedStep,
            ids: &ids,
            idle_ms,
            in_use: is_in_use(store, &step),
            description: &step.title,
        };
        let is_old = policy.max_age_ms.is_some_and(|age| idle_ms > age);
        let used_bytes = freed.before_bytes.saturating_sub(freed.bytes);
        let is_unwanted = meets_all(&policy.filters, &subject) && policy.drops(is_old, used_bytes);
        if (is_unwanted || store.kept().is_over(&step)) && store.kept().remove(&step) {
            freed.add(step.bytes);
        }
    }
    Ok(())
}

/// Whether somebody looks into it now.
pub(super) fn is_in_use(store: &Store, step: &KeptStep) -> bool {
    store.leases().held().contains(&Held::Kept(step.name))
}

/// As it is listed.
pub(super) fn item(store: &Store, step: &KeptStep) -> Item {
    let in_use = is_in_use(store, step);
    Item {
        kind: Kind::FailedStep,
        id: step.name.to_string(),
        size_bytes: step.bytes,
        created_ms: step.kept_ms,
        last_used_ms: step.kept_ms,
        in_use,
        reclaimable: !in_use,
        description: step.title.clone(),
    }
}

fn idle_ms(store: &Store, step: &KeptStep) -> u64 {
    store.index().now_ms().saturating_sub(step.kept_ms)
}
