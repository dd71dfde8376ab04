//! Lowering without registries: every image is taken for the same small one. For checks and for looking at a file.

use proto::digest::{DiffId, Digest};
use proto::oci::config::RootFs;
use proto::oci::{Config, ImageConfig};
use proto::platform::Platform;

use crate::args::DEFAULT_PATH;
use crate::diagnostic::Diagnostic;
use crate::lower::{Images, LowerOptions, lower};
use crate::parse::Parsed;
use crate::plan::{ImageFacts, ImageRequest, Lowered, Plan};
use crate::source::SourceFile;

/// What stands in for an image that nobody asked a registry for: one layer that changes nothing, a search path, `/` as
/// working directory.
#[must_use]
pub fn image(platform: &Platform) -> ImageFacts {
    let config = Config {
        env: vec![format!("PATH={DEFAULT_PATH}")],
        working_dir: "/".to_owned(),
        ..Config::default()
    };
    ImageFacts {
        manifest: Digest::of(b"stub"),
        config: ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            variant: platform.variant.clone(),
            config,
            rootfs: RootFs {
                diff_ids: vec![DiffId::EMPTY],
                ..RootFs::default()
            },
            ..ImageConfig::default()
        },
    }
}

/// [`image`] for every image that is asked for.
pub(crate) fn answers(requests: Vec<ImageRequest>) -> impl Iterator<Item = ((String, Platform), ImageFacts)> {
    requests.into_iter().map(|request| {
        let facts = image(&request.platform);
        ((request.reference, request.platform), facts)
    })
}

/// [`lower`] with [`image`] for every image that it asks for.
///
/// # Errors
/// As [`lower`].
pub fn lower_stubbed(
    source: &SourceFile,
    parsed: &Parsed,
    options: &LowerOptions,
) -> Result<Box<Plan>, Vec<Diagnostic>> {
    let mut images = Images::new();
    // Ends, since every answer names images that are missing still.
    loop {
        match lower(source, parsed, options, &images)? {
            Lowered::Done(plan) => return Ok(plan),
            Lowered::Need(requests) => images.extend(answers(requests)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    #[test]
    fn every_image_of_a_target_is_stubbed() {
        let text = "FROM a AS one\nFROM b\nCOPY --from=one / /\nRUN --mount=from=c,target=/m x\nWORKDIR d\n";
        let source = SourceFile::new("Dockerfile", text);
        let platform: Platform = "linux/arm/v7".parse().unwrap();
        let plan = lower_stubbed(&source, &parse(&source), &LowerOptions::new(platform)).unwrap();
        assert_eq!(plan.image.config.working_dir, "/d");
        assert_eq!(plan.image.config.env, [format!("PATH={DEFAULT_PATH}")]);
        let base = plan.image.base.unwrap();
        assert_eq!((base.architecture.as_str(), base.variant.as_str()), ("arm", "v7"));
    }
}
