//! `du` and `prune` of the admin service, from wire to store and back.

use cache::gc::{Fact, Filter, Item, Kind, Policy};
use cache::usage::Row;
use proto::v1;
use proto::v1::item_filter::Fact as Wire;
use tonic::Status;

/// What is to be collected.
///
/// # Errors
/// Filters that this server does not know.
pub(super) fn policy(request: v1::PruneRequest) -> Result<Policy, Status> {
    Ok(Policy {
        keep_bytes: request.keep_bytes,
        reserved_bytes: request.reserved_bytes,
        max_age_ms: request.max_age_ms,
        all: request.all,
        filters: filters(request.filters)?,
    })
}

/// # Errors
/// Filters that this server does not know: to leave one out would take away what was not meant.
pub(super) fn filters(wire: Vec<v1::ItemFilter>) -> Result<Vec<Filter>, Status> {
    wire.into_iter().map(filter).collect()
}

fn filter(wire: v1::ItemFilter) -> Result<Filter, Status> {
    let unknown = || Status::invalid_argument("a filter asks for something that this server does not know");
    let fact = match wire.fact.ok_or_else(unknown)? {
        Wire::UnusedForMs(ms) => Fact::UnusedFor(ms),
        Wire::Kind(name) => Fact::Kind(kinds(&name)?),
        Wire::Id(id) => Fact::Id(id),
        Wire::InUse(in_use) => Fact::InUse(in_use),
        Wire::Description(words) => Fact::Description(words),
    };
    Ok(Filter {
        fact,
        negated: wire.negated,
    })
}

fn kinds(name: &str) -> Result<Vec<Kind>, Status> {
    let kinds = Kind::named(name).ok_or_else(|| {
        let name = name.escape_debug();
        Status::invalid_argument(format!(
            "there is no type `{name}`: expected record, blob, snapshot, tree, cache-mount, git-mirror or damaged"
        ))
    });
    kinds.map(<[Kind]>::to_vec)
}

pub(super) fn usage_reply(rows: Vec<Row>, items: Vec<Item>) -> v1::DiskUsageReply {
    let total_bytes = rows.iter().map(|row| row.size_bytes).sum();
    let rows = rows.into_iter().map(|row| v1::disk_usage_reply::Row {
        kind: row.kind.to_owned(),
        count: row.count,
        size_bytes: row.size_bytes,
        reclaimable_bytes: row.reclaimable_bytes,
    });
    let items = items.into_iter().map(|item| v1::disk_usage_reply::Item {
        kind: item.kind.name().to_owned(),
        id: item.id,
        size_bytes: item.size_bytes,
        created_ms: item.created_ms,
        last_used_ms: item.last_used_ms,
        in_use: item.in_use,
        reclaimable: item.reclaimable,
        description: item.description,
    });
    v1::DiskUsageReply {
        rows: rows.collect(),
        total_bytes,
        items: items.collect(),
    }
}
