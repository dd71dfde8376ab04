//! `rbuild images`, `tag`, `rmi`, `inspect` and `history`.

use proto::date::civil;
use proto::platform::Platform;
use proto::reference::Reference;
use proto::v1;
use serde_json::{Value, json};

use crate::args::{Format, ImagesArgs, ReferenceArgs, ReferencesArgs, RmiArgs, TagArgs};
use crate::config::Config;
use crate::exit::{Blame, Problem};
use crate::output;
use crate::server::{self, Connection};
use crate::ui;
use crate::ui::{escape, plain::bytes};

/// Lists images.
pub(crate) async fn list(args: &ImagesArgs, config: &Config) -> Result<(), Problem> {
    let ask = async |connection: &Connection| {
        let reply = connection.admin().list_images(v1::ListImagesRequest {}).await?;
        Ok(reply.into_inner())
    };
    let reply = server::with(config, ask).await?;
    let text = match (args.quiet, args.format.format) {
        (true, _) => reply.images.iter().map(|image| format!("{}\n", id_of(image))).collect(),
        (false, Format::Json) => reply
            .images
            .iter()
            .map(|image| format!("{}\n", image_json(image)))
            .collect(),
        (false, Format::Text) => table(
            reply.images.iter().map(image_row).collect(),
            ["NAME", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"],
        ),
    };
    ui::result(&text)
}

fn image_json(image: &v1::list_images_reply::Image) -> Value {
    json!({
        "reference": image.reference, "config_digest": image.config_digest, "created_ms": image.created_ms,
        "size_bytes": image.size_bytes, "platform": image.platform, "index_digest": image.index_digest,
        "platforms": image.platforms,
    })
}

/// What the name stands for: an index, or an image known by its config.
fn id_of(image: &v1::list_images_reply::Image) -> &str {
    match image.index_digest.as_str() {
        "" => &image.config_digest,
        index => index,
    }
}

fn image_row(image: &v1::list_images_reply::Image) -> [String; 5] {
    let name = match image.reference.parse::<Reference>() {
        Ok(reference) => reference.familiar(),
        Err(_) => escape::line(image.reference.as_bytes()),
    };
    [
        name,
        short_id(id_of(image)),
        image.platforms.join(","),
        date(image.created_ms),
        bytes(image.size_bytes),
    ]
}

/// The first 12 digits of a digest, as people read them.
pub(super) fn short_id(digest: &str) -> String {
    digest
        .strip_prefix("sha256:")
        .unwrap_or(digest)
        .chars()
        .take(12)
        .collect()
}

pub(super) fn date(time_ms: u64) -> String {
    let (year, month, day) = civil(time_ms / 86_400_000);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Columns, separated by three spaces.
pub(super) fn table<const N: usize>(rows: Vec<[String; N]>, head: [&str; N]) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// Gives a further name.
pub(crate) async fn tag(args: TagArgs, config: &Config) -> Result<(), Problem> {
    let target = output::reference(&args.target)?;
    let source = args.source;
    let request = v1::TagImageRequest { source, target };
    server::with(config, async |connection| {
        connection.admin().tag_image(request).await?;
        Ok(())
    })
    .await
}

/// Removes names; goes on after one that is not there.
pub(crate) async fn remove(args: RmiArgs, config: &Config) -> Result<(), Problem> {
    server::with(config, async |connection| {
        let mut failed = None;
        for reference in args.references {
            let request = v1::RemoveImageRequest { reference };
            match connection.admin().remove_image(request).await {
                Ok(reply) => ui::result(&lines(&reply.into_inner().removed))?,
                Err(status) => {
                    let problem = Problem::from(status);
                    ui::problem(&problem);
                    failed.get_or_insert(problem.blame);
                }
            }
        }
        failed.map_or(Ok(()), |blame| Err(Problem::told(blame)))
    })
    .await
}

fn lines(names: &[String]) -> String {
    let lines = names.iter().map(|name| format!("{}\n", escape::line(name.as_bytes())));
    lines.collect()
}

/// A platform in its normal form; nothing for nothing.
fn platform(text: Option<&str>) -> Result<String, Problem> {
    let platform = text.map(str::parse::<Platform>).transpose();
    let platform = platform.map_err(|error| Problem::usage(error.to_string()))?;
    Ok(platform.map(|platform| platform.to_string()).unwrap_or_default())
}

/// All images behind a name, or the one for `platform`.
async fn facts(
    connection: &Connection,
    reference: &str,
    platform: &str,
) -> Result<Vec<v1::InspectImageReply>, Problem> {
    let ask = async |platform: &str| {
        let request = v1::InspectImageRequest {
            reference: reference.to_owned(),
            platform: platform.to_owned(),
        };
        Ok::<_, Problem>(connection.admin().inspect_image(request).await?.into_inner())
    };
    let first = ask(platform).await?;
    if !platform.is_empty() || first.platforms.len() == 1 {
        return Ok(vec![first]);
    }
    let mut images = Vec::new();
    for platform in &first.platforms {
        images.push(ask(platform).await?);
    }
    Ok(images)
}

fn config_of(image: &v1::InspectImageReply) -> Result<Value, Problem> {
    serde_json::from_slice(&image.config).map_err(|error| {
        Problem::new(
            Blame::Bug,
            format!("the config of `{}` is no JSON: {error}", image.reference),
        )
    })
}

/// Prints an array with one object per image.
pub(crate) async fn inspect(args: ReferencesArgs, config: &Config) -> Result<(), Problem> {
    let platform = platform(args.platform.as_deref())?;
    let images = server::with(config, async |connection| {
        let mut images = Vec::new();
        for reference in &args.references {
            images.push(facts(connection, reference, &platform).await?);
        }
        Ok(images)
    })
    .await?;
    let images: Vec<Value> = images
        .iter()
        .map(|images| name_json(images))
        .collect::<Result<_, _>>()?;
    ui::result(&format!("{:#}\n", Value::Array(images)))
}

/// What a name stands for: an image, or an index with its images.
fn name_json(images: &[v1::InspectImageReply]) -> Result<Value, Problem> {
    match images {
        [single] if single.platforms.len() <= 1 && single.index_digest.is_empty() => inspect_json(single),
        [first, ..] => {
            let all: Vec<Value> = images.iter().map(inspect_json).collect::<Result<_, _>>()?;
            Ok(json!({"reference": first.reference, "id": first.index_digest, "images": all}))
        }
        [] => Ok(Value::Null),
    }
}

fn inspect_json(image: &v1::InspectImageReply) -> Result<Value, Problem> {
    let layers = image.layers.iter().map(|layer| {
        let forms = layer.forms.iter();
        let forms = forms.map(|form| json!({"mediaType": form.media_type, "digest": form.digest, "size": form.size}));
        json!({"diffId": layer.diff_id, "size": layer.size_bytes, "forms": forms.collect::<Vec<_>>()})
    });
    Ok(json!({
        "reference": image.reference,
        "id": image.config_digest,
        "platform": image.platform,
        "config": config_of(image)?,
        "layers": layers.collect::<Vec<_>>(),
    }))
}

/// Prints the history, the newest first.
pub(crate) async fn history(args: ReferenceArgs, config: &Config) -> Result<(), Problem> {
    let request = v1::InspectImageRequest {
        reference: args.reference,
        platform: platform(args.platform.as_deref())?,
    };
    let ask = async |connection: &Connection| Ok(connection.admin().inspect_image(request).await?.into_inner());
    let image = server::with(config, ask).await?;
    let rows = history_rows(&config_of(&image)?, &image.layers);
    let text = match args.format.format {
        Format::Text => {
            let cells = rows
                .iter()
                .map(|row| [row.created.clone(), bytes(row.size), row.created_by.clone()]);
            table(cells.collect(), ["CREATED", "SIZE", "CREATED BY"])
        }
        Format::Json => rows
            .iter()
            .map(|row| {
                format!(
                    "{}\n",
                    json!({"created": row.created, "size": row.size, "created_by": row.created_by})
                )
            })
            .collect(),
    };
    ui::result(&text)
}

#[derive(Debug, PartialEq, Eq)]
struct HistoryRow {
    created: String,
    size: u64,
    created_by: String,
}

/// Entries of the config with the sizes of their layers; an entry without a layer has none.
fn history_rows(config: &Value, layers: &[v1::inspect_image_reply::Layer]) -> Vec<HistoryRow> {
    let mut layers = layers.iter();
    let entries = config["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows: Vec<HistoryRow> = entries
        .iter()
        .map(|entry| {
            let empty = entry["empty_layer"].as_bool().unwrap_or(false);
            let size = if empty {
                0
            } else {
                layers.next().map_or(0, |layer| layer.size_bytes)
            };
            let text = |key: &str| escape::line(entry[key].as_str().unwrap_or_default().as_bytes());
            HistoryRow {
                created: text("created"),
                size,
                created_by: text("created_by"),
            }
        })
        .collect();
    rows.reverse();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_by_characters() {
        let rows = vec![["ä".to_owned(), "1".to_owned()], ["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(rows, ["N", "SIZE"]), "N      SIZE\nä      1\nlong   2\n");
    }

    #[test]
    fn images_are_listed_by_their_short_names() {
        let image = v1::list_images_reply::Image {
            reference: "docker.io/library/app:1".to_owned(),
            config_digest: format!("sha256:{}", "ab".repeat(32)),
            created_ms: 86_400_000,
            size_bytes: 2048,
            platform: "linux/amd64".to_owned(),
            platforms: vec!["linux/amd64".to_owned()],
            index_digest: String::new(),
        };
        assert_eq!(
            image_row(&image),
            ["app:1", "abababababab", "linux/amd64", "1970-01-02", "2.00KiB"]
        );
        let index = v1::list_images_reply::Image {
            index_digest: format!("sha256:{}", "cd".repeat(32)),
            platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
            ..image
        };
        assert_eq!(image_row(&index)[1..3], ["cdcdcdcdcdcd", "linux/amd64,linux/arm64"]);
    }

    #[test]
    fn history_gives_layers_to_the_entries_that_have_one() {
        let layer = |size_bytes| v1::inspect_image_reply::Layer {
            size_bytes,
            ..v1::inspect_image_reply::Layer::default()
        };
        let config = json!({"history": [
            {"created": "t1", "created_by": "ADD a"},
            {"created": "t2", "created_by": "CMD\u{1b}", "empty_layer": true},
            {"created": "t3", "created_by": "RUN b"},
        ]});
        let rows = history_rows(&config, &[layer(1), layer(2)]);
        let shown: Vec<_> = rows.iter().map(|row| (row.created_by.as_str(), row.size)).collect();
        assert_eq!(shown, [("RUN b", 2), ("CMD\\x1b", 0), ("ADD a", 1)]);
        assert!(history_rows(&json!({}), &[]).is_empty());
    }
}
