//! `rbuild du`, `prune`, `version` and `doctor`.

use proto::v1;
use serde_json::json;

use super::images::{date, short_id, table};
use crate::args::{DuArgs, Format, FormatArgs, PruneArgs};
use crate::config::Config;
use crate::exit::{Blame, Problem};
use crate::server::{self, Connection};
use crate::ui;
use crate::ui::escape;
use crate::ui::plain::bytes;
use crate::values;

/// Shows what the store holds.
pub(crate) async fn du(args: &DuArgs, config: &Config) -> Result<(), Problem> {
    let request = v1::DiskUsageRequest {
        verbose: args.verbose,
        filters: filters(&args.filters)?,
    };
    let ask = async |connection: &Connection| {
        let reply = connection.admin().disk_usage(request).await?;
        Ok(reply.into_inner())
    };
    let usage = server::with(config, ask).await?;
    ui::result(&match (args.format.format, args.verbose) {
        (Format::Text, true) => items_text(&usage.items),
        (format, verbose) => usage_text(&usage, format, verbose),
    })
}

fn filters(texts: &[String]) -> Result<Vec<v1::ItemFilter>, Problem> {
    texts.iter().map(|text| filter(text)).collect()
}

/// `KEY=VALUE` or `KEY!=VALUE`, the keys that docker's `builder prune` has.
fn filter(text: &str) -> Result<v1::ItemFilter, Problem> {
    use v1::item_filter::Fact;
    let (key, value) = values::key_value("--filter", text)?;
    let (key, negated) = key.strip_suffix('!').map_or((key, false), |key| (key, true));
    let fact = match key {
        "until" | "unused-for" => {
            let age = values::duration("--filter until", value)?;
            Fact::UnusedForMs(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        }
        "type" => Fact::Kind(value.to_owned()),
        "id" => Fact::Id(value.to_owned()),
        "inuse" => Fact::InUse(values::boolean("inuse", value)?),
        "description" => Fact::Description(value.to_owned()),
        other => {
            return Err(Problem::usage(format!("--filter: there is no `{other}`"))
                .help("use until, type, id, inuse or description"));
        }
    };
    Ok(v1::ItemFilter {
        fact: Some(fact),
        negated,
    })
}

fn items_text(items: &[v1::disk_usage_reply::Item]) -> String {
    let row = |item: &v1::disk_usage_reply::Item| {
        [
            item.kind.clone(),
            short_id(&item.id),
            bytes(item.size_bytes),
            time(item.created_ms),
            time(item.last_used_ms),
            match (item.in_use, item.reclaimable) {
                (true, _) => "in use",
                (false, true) => "",
                (false, false) => "in an image",
            }
            .to_owned(),
            escape::line(item.description.as_bytes()),
        ]
    };
    table(
        items.iter().map(row).collect(),
        ["KIND", "ID", "SIZE", "CREATED", "LAST USED", "HELD", "DESCRIPTION"],
    )
}

/// Date and time of day, UTC; nothing if it is not known.
fn time(time_ms: u64) -> String {
    let minutes = time_ms / 60_000 % (24 * 60);
    match time_ms {
        0 => String::new(),
        _ => format!("{} {:02}:{:02}", date(time_ms), minutes / 60, minutes % 60),
    }
}

fn item_json(item: &v1::disk_usage_reply::Item) -> serde_json::Value {
    json!({
        "kind": item.kind, "id": item.id, "size_bytes": item.size_bytes, "created_ms": item.created_ms,
        "last_used_ms": item.last_used_ms, "in_use": item.in_use, "reclaimable": item.reclaimable,
        "description": item.description,
    })
}

fn usage_text(usage: &v1::DiskUsageReply, format: Format, verbose: bool) -> String {
    match format {
        Format::Text => {
            let row = |row: &v1::disk_usage_reply::Row| {
                [
                    row.kind.clone(),
                    row.count.to_string(),
                    bytes(row.size_bytes),
                    bytes(row.reclaimable_bytes),
                ]
            };
            let mut rows: Vec<[String; 4]> = usage.rows.iter().map(row).collect();
            rows.push([
                "total".to_owned(),
                String::new(),
                bytes(usage.total_bytes),
                String::new(),
            ]);
            table(rows, ["KIND", "COUNT", "SIZE", "RECLAIMABLE"])
        }
        Format::Json => {
            let row = |row: &v1::disk_usage_reply::Row| {
                json!({
                    "kind": row.kind, "count": row.count, "size_bytes": row.size_bytes,
                    "reclaimable_bytes": row.reclaimable_bytes,
                })
            };
            let rows: Vec<_> = usage.rows.iter().map(row).collect();
            let mut answer = json!({"rows": rows, "total_bytes": usage.total_bytes});
            if verbose {
                answer["items"] = usage.items.iter().map(item_json).collect();
            }
            format!("{answer}\n")
        }
    }
}

/// Frees space.
pub(crate) async fn prune(args: &PruneArgs, config: &Config) -> Result<(), Problem> {
    let keep_bytes = match &args.keep_storage {
        Some(text) => values::bytes("--keep-storage", text)?,
        None => 0,
    };
    let reserved_bytes = match &args.reserved {
        Some(text) => values::bytes("--reserved", text)?,
        None => 0,
    };
    let max_age_ms = match &args.max_age {
        Some(text) => {
            let age = values::duration("--max-age", text)?;
            Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        }
        None => None,
    };
    let request = v1::PruneRequest {
        all: args.all,
        keep_bytes,
        reserved_bytes,
        max_age_ms,
        filters: filters(&args.filters)?,
    };
    let reply = server::with(config, async |connection| {
        Ok(connection.admin().prune(request).await?.into_inner())
    })
    .await?;
    ui::result(&format!(
        "freed {} in {} entries\n",
        bytes(reply.freed_bytes),
        reply.removed
    ))
}

/// Shows versions; never starts a server.
pub(crate) async fn version(args: &FormatArgs, config: &Config) -> Result<(), Problem> {
    let server = server::running(config).await?;
    let text = match (args.format, &server) {
        (Format::Json, server) => {
            let server = server
                .as_ref()
                .map(|info| json!({"version": info.version, "pid": info.pid, "root": info.root}));
            format!("{}\n", json!({"client": {"version": crate::VERSION}, "server": server}))
        }
        (Format::Text, Some(info)) => {
            format!(
                "client {}\nserver {} (process {})\n",
                crate::VERSION,
                info.version,
                info.pid
            )
        }
        (Format::Text, None) => format!("client {}\nserver not running\n", crate::VERSION),
    };
    ui::result(&text)
}

/// Shows what the server found out about this machine.
///
/// # Errors
/// Also if a probe failed: then builds may fail.
pub(crate) async fn doctor(args: &FormatArgs, config: &Config) -> Result<(), Problem> {
    let info = server::with(config, async |connection| {
        let request = v1::InfoRequest { with_probes: true };
        Ok(connection.admin().info(request).await?.into_inner())
    })
    .await?;
    ui::result(&match args.format {
        Format::Text => probes_text(&info.probes),
        Format::Json => {
            let probe = |probe: &v1::info_reply::Probe| json!({"name": probe.name, "ok": probe.ok, "detail": probe.detail, "help": probe.help});
            let probes: Vec<_> = info.probes.iter().map(probe).collect();
            format!(
                "{}\n",
                json!({"version": info.version, "root": info.root, "sandbox": info.sandbox, "probes": probes})
            )
        }
    })?;
    if info.probes.iter().all(|probe| probe.ok) {
        return Ok(());
    }
    Err(Problem::told(Blame::Environment))
}

fn probes_text(probes: &[v1::info_reply::Probe]) -> String {
    let line = |probe: &v1::info_reply::Probe| {
        let mark = if probe.ok { "ok  " } else { "FAIL" };
        let help = match probe.help.as_str() {
            "" => String::new(),
            help => format!("     help: {help}\n"),
        };
        format!("{mark} {}: {}\n{help}", probe.name, probe.detail)
    };
    probes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_ends_with_its_total() {
        let usage = v1::DiskUsageReply {
            rows: vec![v1::disk_usage_reply::Row {
                kind: "layer blobs".to_owned(),
                count: 3,
                size_bytes: 4096,
                reclaimable_bytes: 1,
            }],
            total_bytes: 5000,
            items: Vec::new(),
        };
        assert_eq!(
            usage_text(&usage, Format::Text, false),
            "KIND          COUNT   SIZE      RECLAIMABLE\nlayer blobs   3       4.00KiB   1B\ntotal                 4.88KiB\n"
        );
    }

    #[test]
    fn items_are_listed_with_what_is_known_of_them() {
        let item = v1::disk_usage_reply::Item {
            kind: "cache-mount".to_owned(),
            id: "ab".repeat(32),
            size_bytes: 4096,
            created_ms: 0,
            last_used_ms: 86_400_000 + 5_400_000,
            in_use: true,
            reclaimable: false,
            description: "/root/.cache in RUN x\u{1b}[2J".to_owned(),
        };
        assert_eq!(
            items_text(&[item]),
            "KIND          ID             SIZE      CREATED   LAST USED          HELD     DESCRIPTION\n\
             cache-mount   abababababab   4.00KiB             1970-01-02 01:30   in use   /root/.cache in RUN x\\x1b[2J\n"
        );
    }

    #[test]
    fn filters_are_those_of_other_builders() {
        use v1::item_filter::Fact;
        let check = |text: &str, fact: Fact, negated: bool| {
            let expected = v1::ItemFilter {
                fact: Some(fact),
                negated,
            };
            assert_eq!(filter(text).unwrap(), expected, "{text}");
        };
        check("until=24h", Fact::UnusedForMs(86_400_000), false);
        check("type=exec.cachemount", Fact::Kind("exec.cachemount".to_owned()), false);
        check("id!=ab", Fact::Id("ab".to_owned()), true);
        check("inuse=false", Fact::InUse(false), false);
        for bad in ["until=soon", "colour=red", "type", "inuse=maybe"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_failed_probe_says_what_would_help() {
        let probe = v1::info_reply::Probe {
            name: "overlay".to_owned(),
            ok: false,
            detail: "permission denied".to_owned(),
            help: "run as root".to_owned(),
        };
        assert_eq!(
            probes_text(&[probe]),
            "FAIL overlay: permission denied\n     help: run as root\n"
        );
    }
}
