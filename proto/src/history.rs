//! What builds left behind to explain later ones: the steps of a project, and the record of each build.

use crate::convert::{ConvertError, array};
use crate::digest::{ContentDigest, DiffId, Digest};
use crate::record::CacheKey;
use crate::v1;
use crate::v1::stored_build::Verdict as StoredVerdict;

/// A step of some build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastStep {
    /// What its instruction says by itself, whatever is below it.
    pub text: ContentDigest,
    /// The key of its result; nothing if it was never built.
    pub key: Option<CacheKey>,
    /// How the user saw it.
    pub name: String,
    /// Names of those of its variables that are build arguments.
    pub build_arguments: Vec<String>,
    /// The reference of an image; empty for everything else.
    pub image: String,
}

/// The steps of one stage for one platform, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// The stage, and what its steps are for.
    pub of: SeriesName,
    /// Version of what enters keys.
    pub schema: u32,
    /// Version of the engine.
    pub engine: String,
    /// The steps.
    pub steps: Vec<PastStep>,
}

/// Tells one series of a project from the others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesName {
    /// The stage by name or number.
    pub stage: String,
    /// What the steps run on.
    pub platform: String,
    /// The platform of the image they work for, if that is another one and they were told of it; else empty.
    pub image_platform: String,
}

/// What the steps of a project had when they were built last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Each name once.
    pub series: Vec<Series>,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRecord {
    /// 32 hex digits.
    pub id: String,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Milliseconds.
    pub duration_ms: u64,
    /// Name of the Dockerfile.
    pub dockerfile: String,
    /// The stage that was asked for; empty for the last one.
    pub target: String,
    /// What it was built for.
    pub platforms: Vec<String>,
    /// References of the result.
    pub names: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// In the order of their numbers.
    pub steps: Vec<BuildStep>,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a result of this digest; empty if nothing of it left the server.
    Success(String),
    /// With this message.
    Failure(String),
}

impl Outcome {
    /// Digest and message, as messages of the protocol and of the store have them: one of them is empty.
    #[must_use]
    pub fn as_wire(&self) -> (String, String) {
        match self {
            Self::Success(digest) => (digest.clone(), String::new()),
            Self::Failure(message) => (String::new(), message.clone()),
        }
    }
}

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStep {
    /// As progress shows it.
    pub number: u32,
    /// First line in the Dockerfile; 0 if no line asked for it.
    pub line: u32,
    /// The step.
    pub step: PastStep,
    /// What it was compared with.
    pub before: Option<PastStep>,
    /// What became of it.
    pub verdict: Verdict,
    /// Word and line of the reason why it ran; empty if it did not.
    pub reason: (String, String),
    /// Milliseconds.
    pub duration_ms: u64,
    /// The layers of its root filesystem, base first; none if it failed.
    pub diff_ids: Vec<DiffId>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its result was known.
    Cached,
    /// It ran.
    Ran,
    /// It ran and failed.
    Failed,
    /// The build ended first.
    Canceled,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Ran => "ran",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl History {
    /// The series of that name.
    #[must_use]
    pub fn of(&self, name: &SeriesName) -> Option<&Series> {
        self.series.iter().find(|series| series.of == *name)
    }

    /// The step that had `key`.
    #[must_use]
    pub fn step_of(&self, key: CacheKey) -> Option<&PastStep> {
        let mut steps = self.series.iter().flat_map(|series| &series.steps);
        steps.find(|step| step.key == Some(key))
    }

    /// Every key in it.
    pub fn keys(&self) -> impl Iterator<Item = CacheKey> + '_ {
        let steps = self.series.iter().flat_map(|series| &series.steps);
        steps.filter_map(|step| step.key)
    }
}

impl From<&PastStep> for v1::StoredStep {
    fn from(step: &PastStep) -> Self {
        Self {
            text: step.text.as_bytes().to_vec(),
            key: step.key.map(|key| key.0.as_bytes().to_vec()).unwrap_or_default(),
            name: step.name.clone(),
            build_arguments: step.build_arguments.clone(),
            image: step.image.clone(),
        }
    }
}

impl TryFrom<v1::StoredStep> for PastStep {
    type Error = ConvertError;

    fn try_from(message: v1::StoredStep) -> Result<Self, ConvertError> {
        let key = match message.key.as_slice() {
            [] => None,
            key => Some(CacheKey(ContentDigest::from_bytes(array("key", key)?))),
        };
        Ok(Self {
            text: ContentDigest::from_bytes(array("text", &message.text)?),
            key,
            name: message.name,
            build_arguments: message.build_arguments,
            image: message.image,
        })
    }
}

impl From<&History> for v1::StoredHistory {
    fn from(history: &History) -> Self {
        let series = |series: &Series| v1::StoredSeries {
            stage: series.of.stage.clone(),
            platform: series.of.platform.clone(),
            image_platform: series.of.image_platform.clone(),
            schema: series.schema,
            engine: series.engine.clone(),
            steps: series.steps.iter().map(v1::StoredStep::from).collect(),
        };
        Self {
            series: history.series.iter().map(series).collect(),
        }
    }
}

impl TryFrom<v1::StoredHistory> for History {
    type Error = ConvertError;

    fn try_from(message: v1::StoredHistory) -> Result<Self, ConvertError> {
        let series = |series: v1::StoredSeries| {
            Ok(Series {
                of: SeriesName {
                    stage: series.stage,
                    platform: series.platform,
                    image_platform: series.image_platform,
                },
                schema: series.schema,
                engine: series.engine,
                steps: series
                    .steps
                    .into_iter()
                    .map(PastStep::try_from)
                    .collect::<Result<_, _>>()?,
            })
        };
        Ok(Self {
            series: message.series.into_iter().map(series).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&BuildRecord> for v1::StoredBuild {
    fn from(build: &BuildRecord) -> Self {
        let (digest, failure) = build.outcome.as_wire();
        Self {
            id: build.id.clone(),
            started_ms: build.started_ms,
            duration_ms: build.duration_ms,
            dockerfile: build.dockerfile.clone(),
            target: build.target.clone(),
            platforms: build.platforms.clone(),
            names: build.names.clone(),
            digest,
            failure,
            steps: build.steps.iter().map(v1::stored_build::Step::from).collect(),
        }
    }
}

impl TryFrom<v1::StoredBuild> for BuildRecord {
    type Error = ConvertError;

    fn try_from(message: v1::StoredBuild) -> Result<Self, ConvertError> {
        Ok(Self {
            id: message.id,
            started_ms: message.started_ms,
            duration_ms: message.duration_ms,
            dockerfile: message.dockerfile,
            target: message.target,
            platforms: message.platforms,
            names: message.names,
            outcome: match message.failure.as_str() {
                "" => Outcome::Success(message.digest),
                _ => Outcome::Failure(message.failure),
            },
            steps: message
                .steps
                .into_iter()
                .map(BuildStep::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&BuildStep> for v1::stored_build::Step {
    fn from(step: &BuildStep) -> Self {
        let verdict = match step.verdict {
            Verdict::Cached => StoredVerdict::Cached,
            Verdict::Ran => StoredVerdict::Ran,
            Verdict::Failed => StoredVerdict::Failed,
            Verdict::Canceled => StoredVerdict::Canceled,
        };
        Self {
            number: step.number,
            line: step.line,
            step: Some((&step.step).into()),
            before: step.before.as_ref().map(v1::StoredStep::from),
            verdict: verdict.into(),
            reason_code: step.reason.0.clone(),
            reason: step.reason.1.clone(),
            duration_ms: step.duration_ms,
            diff_ids: step
                .diff_ids
                .iter()
                .flat_map(|diff_id| diff_id.0.as_bytes().iter().copied())
                .collect(),
        }
    }
}

impl TryFrom<v1::stored_build::Step> for BuildStep {
    type Error = ConvertError;

    fn try_from(message: v1::stored_build::Step) -> Result<Self, ConvertError> {
        let verdict = match message.verdict() {
            StoredVerdict::Cached => Verdict::Cached,
            StoredVerdict::Ran => Verdict::Ran,
            StoredVerdict::Failed => Verdict::Failed,
            StoredVerdict::Canceled => Verdict::Canceled,
            StoredVerdict::Unspecified => return Err(ConvertError::Missing("verdict")),
        };
        Ok(Self {
            number: message.number,
            line: message.line,
            step: message.step.ok_or(ConvertError::Missing("step"))?.try_into()?,
            before: message.before.map(PastStep::try_from).transpose()?,
            verdict,
            reason: (message.reason_code, message.reason),
            duration_ms: message.duration_ms,
            diff_ids: message
                .diff_ids
                .chunks(32)
                .map(|bytes| Ok(DiffId(Digest::from_bytes(array("diff_ids", bytes)?))))
                .collect::<Result<_, ConvertError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, key: Option<&[u8]>) -> PastStep {
        PastStep {
            text: ContentDigest::of(name.as_bytes()),
            key: key.map(|key| CacheKey(ContentDigest::of(key))),
            name: name.to_owned(),
            build_arguments: vec!["V".to_owned()],
            image: String::new(),
        }
    }

    #[test]
    fn a_history_survives_the_way_there_and_back() {
        let history = History {
            series: vec![Series {
                of: SeriesName {
                    stage: "build".to_owned(),
                    platform: "linux/amd64".to_owned(),
                    image_platform: "arm64".to_owned(),
                },
                schema: 1,
                engine: "0.1.0".to_owned(),
                steps: vec![step("a", Some(b"k")), step("b", None)],
            }],
        };
        assert_eq!(
            History::try_from(v1::StoredHistory::from(&history)),
            Ok(history.clone())
        );
        let key = CacheKey(ContentDigest::of(b"k"));
        assert_eq!(history.step_of(key).map(|step| step.name.as_str()), Some("a"));
        assert_eq!(history.keys().collect::<Vec<_>>(), [key]);
    }

    #[test]
    fn a_build_survives_the_way_there_and_back() {
        let verdicts = [Verdict::Cached, Verdict::Ran, Verdict::Failed, Verdict::Canceled];
        for (verdict, outcome) in verdicts.into_iter().zip([
            Outcome::Success("sha256:x".to_owned()),
            Outcome::Success(String::new()),
            Outcome::Failure("no".to_owned()),
            Outcome::Failure("canceled".to_owned()),
        ]) {
            let build = BuildRecord {
                id: "0f".repeat(16),
                started_ms: 7,
                duration_ms: 8,
                dockerfile: "Dockerfile".to_owned(),
                target: "t".to_owned(),
                platforms: vec!["linux/amd64".to_owned()],
                names: vec!["app:1".to_owned()],
                outcome,
                steps: vec![BuildStep {
                    number: 3,
                    line: 4,
                    step: step("a", Some(b"k")),
                    before: Some(step("b", None)),
                    verdict,
                    reason: ("files".to_owned(), "`f` changed".to_owned()),
                    duration_ms: 9,
                    diff_ids: vec![DiffId(Digest::of(b"base")), DiffId(Digest::of(b"own"))],
                }],
            };
            assert_eq!(BuildRecord::try_from(v1::StoredBuild::from(&build)), Ok(build));
        }
    }

    #[test]
    fn a_step_without_a_verdict_is_refused() {
        let message = v1::stored_build::Step {
            step: Some((&step("a", None)).into()),
            ..v1::stored_build::Step::default()
        };
        assert_eq!(BuildStep::try_from(message), Err(ConvertError::Missing("verdict")));
    }
}
