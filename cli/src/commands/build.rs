//! `rbuild build`.

use std::path::Path;

use proto::platform::Platform;
use proto::v1;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::wait;
use crate::args::BuildArgs;
use crate::config::{Config, Display};
use crate::drive::{self, Job, Start};
use crate::exit::Problem;
use crate::output::Destination;
use crate::request::{self, Build};
use crate::server;
use crate::session::deliver;
use crate::ui;

/// Builds.
///
/// # Errors
/// There is no image, or not everything that was asked for was written.
pub(crate) fn run(args: &BuildArgs, config: &Config) -> Result<(), Problem> {
    let display = Display::new(&args.show, &config.environment)?;
    let call = Call::parse(&args.call)?;
    let build = request::resolve(args, config, std::io::stdin().lock())?;
    if let Some(call) = call {
        return call.answer(&build);
    }
    if let Some(notice) = &build.notice {
        ui::remark(&format!("warning: {notice}"));
    }
    wait(config, build_on_server(args, config, build, display))
}

async fn build_on_server(args: &BuildArgs, config: &Config, build: Build, display: Display) -> Result<(), Problem> {
    let stdout_taken = build.destinations.contains(&Destination::Stdout);
    let exports_manifest = build.exports_manifest;
    let job = Job {
        start: Start::Build(Box::new(build.request)),
        session: build.session,
        destinations: build.destinations,
    };
    let success = server::with(config, async |connection| drive::run(connection, job, display).await).await?;
    if let Some(path) = &args.result.iidfile {
        write("--iidfile", path, image_id(&success).as_bytes())?;
    }
    if let Some(path) = &args.result.metadata_file {
        let text = format!("{:#}\n", metadata(&success));
        write("--metadata-file", path, text.as_bytes())?;
    }
    let digest = result_digest(&success, exports_manifest);
    if stdout_taken || digest.is_empty() {
        return Ok(());
    }
    ui::result(&format!("{digest}\n"))
}

/// The image ID; the digest of the index if there are several images.
fn image_id(success: &v1::Success) -> &str {
    match success.config_digest.as_str() {
        "" => &success.manifest_digest,
        digest => digest,
    }
}

/// What other machines know the result by, if it left this one; else the image ID.
fn result_digest(success: &v1::Success, exported: bool) -> &str {
    if exported && !success.manifest_digest.is_empty() {
        return &success.manifest_digest;
    }
    image_id(success)
}

/// The file of `--metadata-file`, with the keys of other builders.
fn metadata(success: &v1::Success) -> Value {
    let mut metadata = Map::new();
    let mut put = |key: &str, value: Value| drop(metadata.insert(key.to_owned(), value));
    if !success.config_digest.is_empty() {
        put("containerimage.config.digest", success.config_digest.clone().into());
    }
    if !success.manifest_digest.is_empty() {
        put("containerimage.digest", success.manifest_digest.clone().into());
        let mut descriptor = json!({
            "mediaType": success.manifest_media_type,
            "digest": success.manifest_digest,
            "size": success.manifest_size,
        });
        // An index says itself what its images run on.
        if let [image] = success.images.as_slice()
            && image.manifest_digest == success.manifest_digest
            && let Ok(platform) = image.platform.parse::<Platform>()
        {
            descriptor["platform"] = json!(platform);
        }
        put("containerimage.descriptor", descriptor);
    }
    if !success.names.is_empty() {
        put("image.name", success.names.join(",").into());
    }
    Value::Object(metadata)
}

fn write(flag: &str, path: &Path, content: &[u8]) -> Result<(), Problem> {
    deliver::write_small(path, content)
        .map_err(|error| Problem::environment(format!("{flag}: `{}`: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success() -> v1::Success {
        v1::Success {
            config_digest: "sha256:c".to_owned(),
            manifest_digest: "sha256:m".to_owned(),
            manifest_media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            manifest_size: 7,
            names: vec!["a".to_owned(), "b".to_owned()],
            images: vec![v1::success::PlatformImage {
                platform: "linux/arm/v7".to_owned(),
                config_digest: "sha256:c".to_owned(),
                manifest_digest: "sha256:m".to_owned(),
            }],
            ..v1::Success::default()
        }
    }

    #[test]
    fn the_result_is_the_manifest_if_it_left_the_store_and_the_image_id_else() {
        assert_eq!(result_digest(&success(), true), "sha256:m");
        assert_eq!(result_digest(&success(), false), "sha256:c");
        let several = v1::Success {
            config_digest: String::new(),
            ..success()
        };
        assert_eq!(result_digest(&several, false), "sha256:m");
        assert_eq!(image_id(&several), "sha256:m");
    }

    #[test]
    fn metadata_has_the_keys_that_scripts_read() {
        assert_eq!(
            metadata(&success()),
            json!({
                "containerimage.config.digest": "sha256:c",
                "containerimage.digest": "sha256:m",
                "containerimage.descriptor": {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:m", "size": 7,
                    "platform": {"architecture": "arm", "os": "linux", "variant": "v7"},
                },
                "image.name": "a,b",
            })
        );
        assert_eq!(metadata(&v1::Success::default()), json!({}));
    }
}
