//! Which build, and which of its steps: the words that every command takes.

use std::io;

use cache::store::Store;
use proto::history::{BuildRecord, BuildStep};

/// Fewer digits are no id of a build where something else could be meant.
const LEAST_ID: usize = 4;
/// Builds that are named when one is not found.
const BUILDS_NAMED: usize = 5;
/// The word for the last build.
const LATEST: &str = "latest";

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store knows no build at all.
    #[error("no build is remembered in this store")]
    NoBuilds,
    /// No id begins so.
    #[error("no build `{}` is remembered, the last ones are {}", id.escape_debug(), last.join(", "))]
    NoSuchBuild {
        /// What was said.
        id: String,
        /// Ids of the last builds, as people read them.
        last: Vec<String>,
    },
    /// Several ids begin so.
    #[error("`{}` begins the ids of {count} builds: give more of its digits", id.escape_debug())]
    SeveralBuilds {
        /// What was said.
        id: String,
        /// How many.
        count: usize,
    },
    /// The build has no such step.
    #[error("build {build} has no step `{}`", step.escape_debug())]
    NoSuchStep {
        /// The id of the build, as people read it.
        build: String,
        /// What was said.
        step: String,
    },
    /// The builds cannot be listed.
    #[error("cannot list the builds: {0}")]
    List(#[from] io::Error),
}

/// What somebody said. What is empty was not said.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// First digits of the id of a build, or `latest`; the last one if it is empty.
    pub build: &'a str,
    /// Number of a step, or words of its name.
    pub step: &'a str,
    /// One word that is either.
    pub build_or_step: &'a str,
}

/// A build, and which of its steps are meant.
#[derive(Debug)]
pub struct Found {
    /// The build.
    pub build: BuildRecord,
    wanted: String,
}

impl Found {
    /// The steps that are meant; all if no words say which.
    #[must_use]
    pub fn chosen(&self) -> Vec<&BuildStep> {
        let steps = self.build.steps.iter();
        steps.filter(|step| is_meant(step, &self.wanted)).collect()
    }

    /// Whether it was said which step.
    #[must_use]
    pub fn is_said(&self) -> bool {
        !self.wanted.is_empty()
    }
}

/// Finds the build and its steps.
///
/// # Errors
/// No such build or step.
pub fn find(store: &Store, words: &Words<'_>) -> Result<Found, FindError> {
    let builds = store.builds().list()?;
    let last = builds.first().ok_or(FindError::NoBuilds)?;
    let (build, wanted) = match (words.build_or_step, words.build) {
        ("", "" | LATEST) => (last, words.step),
        ("", id) => (build_of(&builds, id)?, words.step),
        (LATEST, _) => (last, ""),
        (word, _) if begins_one(&builds, word) => (build_of(&builds, word)?, ""),
        (word, _) => (last, word),
    };
    let found = Found {
        build: build.clone(),
        wanted: wanted.to_owned(),
    };
    if found.chosen().is_empty() && found.is_said() {
        return Err(FindError::NoSuchStep {
            build: short(&build.id).to_owned(),
            step: wanted.to_owned(),
        });
    }
    Ok(found)
}

/// Whether `word` means a build of the store: `latest`, or enough digits of an id.
///
/// # Errors
/// The builds cannot be listed.
pub fn is_build(store: &Store, word: &str) -> Result<bool, FindError> {
    let builds = store.builds().list()?;
    Ok(word == LATEST && !builds.is_empty() || begins_one(&builds, word))
}

fn begins_one(builds: &[BuildRecord], word: &str) -> bool {
    may_be_id(word) && builds.iter().any(|build| build.id.starts_with(word))
}

fn may_be_id(word: &str) -> bool {
    (LEAST_ID..=32).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As people read it.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn build_of<'a>(builds: &'a [BuildRecord], id: &str) -> Result<&'a BuildRecord, FindError> {
    let mut found = builds.iter().filter(|build| build.id.starts_with(id));
    let id = id.to_owned();
    match (found.next(), found.count()) {
        (Some(build), 0) => Ok(build),
        (Some(_), others) => Err(FindError::SeveralBuilds { id, count: others + 1 }),
        (None, _) => {
            let last = builds.iter().take(BUILDS_NAMED);
            let last = last.map(|build| short(&build.id).to_owned()).collect();
            Err(FindError::NoSuchBuild { id, last })
        }
    }
}

/// Whether `wanted` is the number of the step, or is part of its name; no words mean every step.
fn is_meant(step: &BuildStep, wanted: &str) -> bool {
    match wanted.strip_prefix('#').unwrap_or(wanted).parse::<u32>() {
        Ok(number) => step.number == number,
        Err(_) => step.step.name.contains(wanted),
    }
}
