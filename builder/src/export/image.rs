//! The image around a root filesystem: its config with history, and manifests over any encoding of its layers.

use std::collections::BTreeMap;

use frontend::plan::HistoryEntry;
use proto::date::civil;
use proto::definition::VertexId;
use proto::digest::Digest;
use proto::oci::config::Config;
use proto::oci::{Descriptor, History, ImageConfig, Index, Manifest, RootFs, json, media_type};
use proto::platform::Platform;

use crate::build::Job;
use crate::plan::{Planned, PlannedImage};
use crate::request::BuildError;
use crate::solve::Output;
use crate::stack::Stack;

/// What other tools look for in the history to tell who wrote an entry.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// A finished image, layers not encoded yet.
#[derive(Debug, Clone)]
pub struct Image {
    /// Config without the list of layers.
    pub config: ImageConfig,
    /// The layers.
    pub stack: Stack,
    /// What it runs on.
    pub platform: Platform,
    /// Time of the newest entry, in milliseconds since 1970.
    pub created_ms: u64,
    /// How many of the lowest layers come from a base image.
    pub base_layers: usize,
    /// Times after this are lowered to it, in seconds since 1970.
    pub epoch: Option<i64>,
}

/// Exact bytes and what they are called.
#[derive(Debug, Clone)]
pub struct Document {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Digest and size of them.
    pub descriptor: Descriptor,
}

impl Document {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        Self { bytes, descriptor }
    }

    /// An image config.
    #[must_use]
    pub fn config(bytes: Vec<u8>) -> Self {
        Self::new(media_type::CONFIG, bytes)
    }
}

/// The one member of a base's config beyond those of ours that says something of images built on it.
const OS_FEATURES: &str = "os.features";

/// The images that `outputs` make, in the order of the platforms.
///
/// # Errors
/// Never for a solved plan; a plan whose target has no output is a bug.
pub fn assemble(planned: &Planned, outputs: &BTreeMap<VertexId, Output>, job: &Job) -> Result<Vec<Image>, BuildError> {
    let now_ms = job.host.clock.now_ms();
    let images = planned.images_to_make.iter();
    images
        .map(|image| assemble_one(image, outputs, now_ms, planned.source_date_epoch))
        .collect()
}

fn assemble_one(
    planned: &PlannedImage,
    outputs: &BTreeMap<VertexId, Output>,
    now_ms: u64,
    epoch: Option<i64>,
) -> Result<Image, BuildError> {
    let stack = match planned.target {
        None => Stack::default(),
        Some(target) => {
            let output = outputs
                .get(&target)
                .ok_or_else(|| BuildError::bug("the target has no result"))?;
            output.stack.clone()
        }
    };
    let template = &planned.template;
    let base = template.base.clone().unwrap_or_default();
    let base_layers = base.rootfs.diff_ids.len();
    let times = Times::new(&template.history, outputs, &base, epoch);
    let mut history = reconciled(&base.history, base_layers);
    for (entry, time) in template.history.iter().zip(&times.entries) {
        history.push(History {
            created: time.map(Time::to_rfc3339),
            created_by: entry.created_by.clone(),
            author: String::new(),
            comment: COMMENT.to_owned(),
            empty_layer: entry.layer.is_none(),
        });
    }
    let config = ImageConfig {
        architecture: template.platform.architecture.clone(),
        author: template.author.clone(),
        config: Config {
            // What only the engine that made the base knows says nothing of this image.
            other: BTreeMap::new(),
            ..template.config.clone()
        },
        created: times.newest.map(Time::to_rfc3339),
        history,
        os: template.platform.os.clone(),
        os_version: base.os_version,
        rootfs: RootFs {
            diff_ids: stack.diff_ids(),
            ..RootFs::default()
        },
        variant: template.platform.variant.clone(),
        other: base.other.into_iter().filter(|(name, _)| name == OS_FEATURES).collect(),
    };
    let created_ms = times.newest.map_or(now_ms, Time::ms);
    let platform = template.platform.clone();
    Ok(Image {
        config,
        stack,
        platform,
        created_ms,
        base_layers,
        epoch,
    })
}

impl Image {
    /// The config over layers with these diff IDs.
    #[must_use]
    pub fn config_document(&self, diff_ids: Vec<proto::digest::DiffId>) -> Document {
        let mut config = self.config.clone();
        config.rootfs.diff_ids = diff_ids;
        Document::new(media_type::CONFIG, json::compact(&config))
    }
}

/// The manifest over a config and layers.
#[must_use]
pub fn manifest(config: &Document, layers: Vec<Descriptor>) -> Document {
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.to_owned(),
        config: config.descriptor.clone(),
        layers,
        annotations: BTreeMap::new(),
    };
    Document::new(media_type::MANIFEST, json::pretty(&manifest))
}

/// The index over manifests and what they run on, in this order.
#[must_use]
pub fn index<'a>(entries: impl Iterator<Item = (&'a Document, &'a Platform)>) -> Document {
    let entries = entries.map(|(manifest, platform)| Descriptor {
        platform: Some(platform.clone()),
        ..manifest.descriptor.clone()
    });
    let index = Index {
        schema_version: 2,
        media_type: media_type::INDEX.to_owned(),
        manifests: entries.collect(),
        annotations: BTreeMap::new(),
    };
    Document::new(media_type::INDEX, json::pretty(&index))
}

/// When each entry of the history was made; nothing where nobody knows: without any layer there is no time to tell.
struct Times {
    /// The epoch stands in for a time that nobody knows.
    entries: Vec<Option<Time>>,
    /// Of the image.
    newest: Option<Time>,
}

impl Times {
    /// A layer has the time it was made. Entries before the first new layer take its time, later ones that of the layer before
    /// them: so a build that finds everything in the cache writes the same config again.
    fn new(
        history: &[HistoryEntry],
        outputs: &BTreeMap<VertexId, Output>,
        base: &ImageConfig,
        epoch: Option<i64>,
    ) -> Self {
        let limit = epoch.map(|seconds| Time::of_ms(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)));
        let clamp = |time: Time| limit.map_or(time, |limit| time.min(limit));
        let made = |entry: &HistoryEntry| {
            let output = entry.layer.and_then(|id| outputs.get(&id));
            output.and_then(|output| output.created_ms).map(Time::of_ms)
        };
        // The base's own `created` says when somebody put its config together, not when the last thing in it was made.
        let stated = base.history.iter().rev().find_map(|entry| entry.created.as_deref());
        let of_base = stated.and_then(Time::parse);
        let mut last = history.iter().find_map(made).or(of_base);
        let mut entries = Vec::with_capacity(history.len());
        for entry in history {
            last = made(entry).or(last);
            entries.push(last.map(clamp).or(limit));
        }
        Self {
            entries,
            newest: last.map(clamp).or(limit),
        }
    }
}

/// The base's history with as many layer entries as it has layers, so that ours line up behind it.
fn reconciled(history: &[History], layers: usize) -> Vec<History> {
    let mut history = history.to_vec();
    let stated = history.iter().filter(|entry| !entry.empty_layer).count();
    for _ in stated..layers {
        let comment = "buildkit.exporter.image.v0".to_owned();
        history.push(History {
            comment,
            ..History::default()
        });
    }
    let surplus = stated.saturating_sub(layers);
    for entry in history
        .iter_mut()
        .rev()
        .filter(|entry| !entry.empty_layer)
        .take(surplus)
    {
        entry.empty_layer = true;
    }
    history
}

/// `2026-01-02T03:04:05.678Z`: RFC 3339 in UTC, without a fraction where it is zero. `ms` since 1970.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    Time::of_ms(ms).to_rfc3339()
}

/// Nanoseconds since 1970: bases tell theirs that exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Time(u128);

impl Time {
    fn of_ms(ms: u64) -> Self {
        Self(u128::from(ms) * 1_000_000)
    }

    /// Whole milliseconds, for the store.
    fn ms(self) -> u64 {
        u64::try_from(self.0 / 1_000_000).unwrap_or(u64::MAX)
    }

    fn to_rfc3339(self) -> String {
        let ms = self.ms();
        let (days, second_of_day) = (ms / 86_400_000, ms / 1000 % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        let fraction = match self.0 % 1_000_000_000 {
            0 => String::new(),
            fraction => format!(".{fraction:09}").trim_end_matches('0').to_owned(),
        };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }

    /// An RFC 3339 time in UTC; nothing for what is no such time.
    fn parse(text: &str) -> Option<Self> {
        let whole = seconds_of(text.get(..19)?)?;
        let digits = match text.get(19..)?.strip_suffix('Z')? {
            "" => "0",
            fraction => fraction.strip_prefix('.')?,
        };
        // What is finer than a nanosecond is nobody's measurement.
        let digits = digits.get(..digits.len().min(9))?;
        let scale = 10_u128.pow(9 - u32::try_from(digits.len()).ok()?);
        let nanoseconds = digits.parse::<u32>().ok()?;
        Some(Self(
            u128::from(whole) * 1_000_000_000 + u128::from(nanoseconds) * scale,
        ))
    }
}

/// Seconds since 1970 of `2026-01-02T03:04:05`.
fn seconds_of(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || year < 1970 {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_other_builders_print_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_700_000_000_120), "2023-11-14T22:13:20.12Z");
    }

    #[test]
    fn printed_times_parse_back() {
        for ms in [0, 951_782_400_000, 1_700_000_000_120, 4_102_444_799_000] {
            assert_eq!(Time::parse(&rfc3339(ms)), Some(Time::of_ms(ms)));
        }
        let exact = "2015-01-02T03:04:05.678901234Z";
        assert_eq!(Time::parse(exact).unwrap().to_rfc3339(), exact);
        for bad in [
            "2020-01-01T00:00:00+01:00",
            "nonsense",
            "2020-01-01T00:00:00.Z",
            "2020-01-01T00:00:00",
        ] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn history_of_a_base_is_brought_in_line_with_its_layers() {
        let entry = |empty_layer| History {
            empty_layer,
            created_by: "x".into(),
            ..History::default()
        };
        let layers = |history: &[History]| history.iter().filter(|entry| !entry.empty_layer).count();
        let missing = reconciled(&[entry(true)], 2);
        assert_eq!((missing.len(), layers(&missing)), (3, 2));
        let surplus = reconciled(&[entry(false), entry(false)], 1);
        assert_eq!(
            surplus.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>(),
            [false, true]
        );
    }
}
