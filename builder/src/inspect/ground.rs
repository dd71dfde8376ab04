//! What a process runs on that looks into something: the files of a failed step, the layers of one that succeeded, an image.

use std::path::PathBuf;

use cache::images::{Image, Variant};
use cache::kept::{KeptName, KeptStep};
use cache::lease::Held;
use proto::digest::DiffId;
use proto::history::{BuildStep, Verdict};
use proto::oci::{Config, ImageConfig};
use proto::platform::Platform;
use proto::record::LayerInfo;
use proto::reference::Reference;
use proto::v1;
use proto::v1::exec_root::Root;

use super::find::{self, FindError, Found, Words};
use super::setup::Setup;
use crate::build::Job;
use crate::images;
use crate::request::{Blame, BuildError};
use crate::snapshot::{Active, SnapshotError, Snapshotter};
use crate::stack::{Layer, Origin, Stack};

/// Fewer digits are no id of an image.
const LEAST_IMAGE_ID: usize = 4;

/// Files, and what a process on them has.
#[derive(Debug)]
pub struct Ground {
    /// The layers.
    pub stack: Stack,
    /// What a failed step left over them.
    pub kept: Option<PathBuf>,
    /// What a process has if nobody says otherwise.
    pub setup: Setup,
    /// What an image says of its programs.
    pub image: Option<Config>,
}

impl Ground {
    /// A snapshot to write to, which must be abandoned.
    ///
    /// # Errors
    /// Layers that are not here; a store that fails.
    pub fn prepare(&self, job: &Job) -> Result<Active, SnapshotError> {
        let (snapshots, chains) = (job.host.layers.snapshots(), self.stack.chains());
        match &self.kept {
            Some(kept) => snapshots.prepare_on_kept(chains, kept),
            None => snapshots.prepare(chains),
        }
    }
}

/// Finds what `root` means. What is found stays for as long as the lease of `job`.
///
/// # Errors
/// There is no such thing, or not any more.
pub fn find(root: &Root, platform: &str, job: &Job) -> Result<Ground, BuildError> {
    match root {
        Root::Step(step) => {
            let words = Words {
                build: &step.build,
                step: &step.step,
                build_or_step: &step.build_or_step,
            };
            of_step(&words, job)
        }
        Root::Image(name) => of_image(name, platform, &[], job),
        Root::Any(words) => {
            let (build, step) = words.split_once('/').unwrap_or((words, ""));
            let is_build = find::is_build(&job.host.store, build).map_err(|error| said(&error))?;
            match is_build {
                true => of_step(
                    &Words {
                        build,
                        step,
                        build_or_step: "",
                    },
                    job,
                ),
                false => of_image(words, platform, &[], job),
            }
        }
    }
}

fn said(error: &FindError) -> BuildError {
    match error {
        FindError::List(_) => BuildError::environment(error.to_string()),
        _ => BuildError::user(error.to_string()),
    }
}

fn of_step(words: &Words<'_>, job: &Job) -> Result<Ground, BuildError> {
    let store = &job.host.store;
    let found = find::find(store, words).map_err(|error| said(&error))?;
    let step = step_of(&found)?;
    let name = KeptName::new(&found.build.id, step.number);
    let name = name.map_err(|error| BuildError::bug(error.to_string()))?;
    // Held first: what is found then stays.
    job.lease.hold(Held::Kept(name));
    if let Some(kept) = store.kept().find(name) {
        return of_kept(&kept, job);
    }
    let what = format!("step #{} of build {}", step.number, find::short(&found.build.id));
    match step.verdict {
        Verdict::Cached | Verdict::Ran => of_result(step, &what, job),
        Verdict::Failed => Err(BuildError::user(format!("what {what} left is not here any more")).note(
            "it is kept for an hour, if it is not too large, until newer ones need the room or the store is pruned",
        )),
        Verdict::Canceled => Err(BuildError::user(format!(
            "{what} did not come to an end: nothing of it is kept"
        ))),
    }
}

/// The step that is meant: without words the one that failed, or the last one.
fn step_of(found: &Found) -> Result<&BuildStep, BuildError> {
    let chosen = found.chosen();
    let failed = chosen.iter().find(|step| step.verdict == Verdict::Failed);
    match (found.is_said(), failed, chosen.as_slice()) {
        (_, Some(failed), _) if !found.is_said() || chosen.len() == 1 => Ok(failed),
        (false, _, [.., last]) => Ok(last),
        (true, _, [only]) => Ok(only),
        (true, _, several) => {
            let numbers: Vec<String> = several.iter().map(|step| format!("#{}", step.number)).collect();
            Err(
                BuildError::user(format!("these words mean several steps: {}", numbers.join(", ")))
                    .help("give the number of one"),
            )
        }
        (false, _, []) => Err(BuildError::user(format!(
            "build {} has no steps",
            find::short(&found.build.id)
        ))),
    }
}

fn of_kept(kept: &KeptStep, job: &Job) -> Result<Ground, BuildError> {
    let setup: Setup = serde_json::from_slice(&kept.setup)
        .map_err(|error| BuildError::environment(format!("what the step had cannot be read: {error}")))?;
    let below = kept.stacks.first().map(Vec::as_slice).unwrap_or_default();
    Ok(Ground {
        stack: stack_of(below, job),
        kept: Some(job.host.store.kept().dir(kept.name)),
        setup,
        image: None,
    })
}

fn of_result(step: &BuildStep, what: &str, job: &Job) -> Result<Ground, BuildError> {
    let stack = stack_of(&step.diff_ids, job);
    if !images::is_whole(&stack, job) {
        return Err(
            BuildError::user(format!("the result of {what} is not in the store any more")).help("build it again"),
        );
    }
    let preimage = step.step.key.and_then(|key| job.host.store.records().preimage(key));
    let setup = preimage.map_or_else(Setup::default, |preimage| Setup::of_key(&preimage));
    Ok(Ground {
        stack,
        kept: None,
        setup,
        image: None,
    })
}

/// Layers of the store, by their identities.
#[must_use]
pub fn stack_of(diff_ids: &[DiffId], job: &Job) -> Stack {
    let layer = |diff_id: &DiffId| Layer {
        info: LayerInfo {
            diff_id: *diff_id,
            size_bytes: 0,
            forms: job.host.store.records().forms(*diff_id),
        },
        origin: Origin::Built,
    };
    Stack::new(diff_ids.iter().map(layer).collect())
}

/// The image `name`, with `secrets` as files.
///
/// # Errors
/// No such image, or not all of it.
pub fn of_image(name: &str, platform: &str, secrets: &[String], job: &Job) -> Result<Ground, BuildError> {
    let image = image_of(name, job)?;
    let variant = variant_of(&image, platform, job)?;
    let gone = || {
        BuildError::user(format!("not all of the image `{name}` is in the store any more"))
            .help("build or pull it again")
    };
    let found = images::from_store(variant, job)?.ok_or_else(gone)?;
    let ImageConfig { config, .. } = &found.config;
    Ok(Ground {
        setup: Setup::of_image(&found.config, &variant.platform, secrets),
        image: Some(config.clone()),
        stack: found.stack,
        kept: None,
    })
}

/// By name, else by the first digits of its ID.
fn image_of(name: &str, job: &Job) -> Result<Image, BuildError> {
    let images = job.host.store.images();
    let by_name = name
        .parse::<Reference>()
        .ok()
        .and_then(|reference| images.image(&reference));
    if let Some(image) = by_name {
        return Ok(image);
    }
    let id = name.strip_prefix("sha256:").unwrap_or(name);
    let all = images
        .list()
        .map_err(|error| BuildError::environment(format!("cannot list the images: {error}")))?;
    let has_id = |image: &Image| {
        let mut digests = image.variants().map(|variant| variant.config).chain(image.index);
        digests.any(|digest| digest.hex().starts_with(id))
    };
    let is_id = id.len() >= LEAST_IMAGE_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = all.into_iter().find(|image| is_id && has_id(image));
    found.ok_or_else(|| {
        BuildError::user(format!("no image `{}` in the store", name.escape_debug()))
            .help("`rbuild images` lists what is there, `rbuild pull` fetches one")
    })
}

fn variant_of<'a>(image: &'a Image, platform: &str, job: &Job) -> Result<&'a Variant, BuildError> {
    if platform.is_empty() {
        return Ok(image.variant(&job.host.platform).unwrap_or(&image.first));
    }
    let wanted = platform
        .parse::<Platform>()
        .map_err(|error| BuildError::new(Blame::Usage, error.to_string()))?;
    image.variant(&wanted).ok_or_else(|| {
        let there: Vec<String> = image.variants().map(|variant| variant.platform.to_string()).collect();
        BuildError::user(format!(
            "`{}` has no image for {wanted}, only for {}",
            image.reference.familiar(),
            there.join(", ")
        ))
    })
}

/// The step `root` of the protocol, or what is wrong with it.
///
/// # Errors
/// Nothing was said.
pub fn root_of(root: Option<v1::ExecRoot>) -> Result<Root, BuildError> {
    root.and_then(|root| root.root)
        .ok_or_else(|| BuildError::new(Blame::Usage, "it was not said what is meant"))
}
