//! `rbuild du`, `prune`, `version` and `doctor`.

use proto::v1;
use serde_json::json;

use super::images::table;
use crate::args::{Format, FormatArgs, PruneArgs};
use crate::config::Config;
use crate::exit::{Blame, Problem};
use crate::server::{self, Connection};
use crate::ui;
use crate::ui::plain::bytes;
use crate::values;

/// Shows what the store holds.
pub(crate) async fn du(args: &FormatArgs, config: &Config) -> Result<(), Problem> {
    let ask = async |connection: &Connection| {
        let reply = connection.admin().disk_usage(v1::DiskUsageRequest {}).await?;
        Ok(reply.into_inner())
    };
    let usage = server::with(config, ask).await?;
    ui::result(&usage_text(&usage, args.format))
}

fn usage_text(usage: &v1::DiskUsageReply, format: Format) -> String {
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
            format!("{}\n", json!({"rows": rows, "total_bytes": usage.total_bytes}))
        }
    }
}

/// Frees space.
pub(crate) async fn prune(args: &PruneArgs, config: &Config) -> Result<(), Problem> {
    let keep_bytes = match &args.keep_storage {
        Some(text) => values::bytes("--keep-storage", text)?,
        None => 0,
    };
    let request = v1::PruneRequest {
        all: args.all,
        keep_bytes,
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
        Ok(connection.admin().info(v1::InfoRequest {}).await?.into_inner())
    })
    .await?;
    ui::result(&match args.format {
        Format::Text => probes_text(&info.probes),
        Format::Json => {
            let probe = |probe: &v1::info_reply::Probe| json!({"name": probe.name, "ok": probe.ok, "detail": probe.detail, "help": probe.help});
            let probes: Vec<_> = info.probes.iter().map(probe).collect();
            format!(
                "{}\n",
                json!({"version": info.version, "root": info.root, "probes": probes})
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
        };
        assert_eq!(
            usage_text(&usage, Format::Text),
            "KIND          COUNT   SIZE      RECLAIMABLE\nlayer blobs   3       4.00KiB   1B\ntotal                 4.88KiB\n"
        );
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
