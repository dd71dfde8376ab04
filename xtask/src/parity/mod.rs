//! The same Dockerfile here and in the reference builder, BuildKit: configs and trees compared.
//!
//! Cases are `testdata/parity/*.txt`, their format is told in `cases.rs`. What differs on purpose is
//! `testdata/parity/differences.table`. Two builds that fail count as equal, whatever they say.

mod builders;
mod cases;
mod compare;
mod context;
mod differences;
mod image;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::base;
use crate::parity::builders::{Answer, Places, Reference};
use crate::parity::cases::Case;
use crate::parity::compare::Difference;
use crate::parity::differences::{Sorted, Wanted};
use crate::run::{rbuild, repository, say};

/// Exit codes of a build that failed for a reason it knows: the user's, a wrong option, somebody else's.
const PLAIN_FAILURES: [i32; 3] = [1, 2, 4];

/// Differences of one case that are shown.
const SHOWN: usize = 12;

/// How cases are run and reported.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the reference, a BuildKit, answers; else BUILDKIT_HOST, else its usual address.
    #[arg(long, value_name = "ADDRESS")]
    against: Option<String>,
    /// The client of the reference; else BUILDCTL, else `buildctl`.
    #[arg(long, value_name = "PATH")]
    client: Option<PathBuf>,
    /// Show what both say where both fail.
    #[arg(long)]
    messages: bool,
    /// Cases at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Only cases whose `topic/name` contains one of these.
    names: Vec<String>,
}

/// What came out of one case.
enum Outcome {
    Same,
    /// Messages of the reference and of rbuild.
    BothFail(String, String),
    Differs(Sorted),
}

/// What all cases need.
struct Setup {
    reference: Reference,
    rbuild: PathBuf,
    base: PathBuf,
    wanted: Vec<Wanted>,
    folder: tempfile::TempDir,
}

/// Runs every case whose name is asked for, and fails if one differs against what is written down.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (cases, wanted) = read()?;
    let reference = reference(options);
    reference.check()?;
    let setup = Setup {
        reference,
        rbuild: rbuild()?,
        base: base::parity()?,
        wanted,
        folder: tempfile::tempdir()?,
    };
    let asked = |case: &Case| options.names.is_empty() || options.names.iter().any(|name| case.name.contains(name));
    let cases: Vec<Case> = cases.into_iter().filter(asked).collect();
    let queue = Mutex::new(cases.iter().enumerate());
    let counts = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for lane in 0..options.jobs.max(1) {
            let (setup, queue, counts) = (&setup, &queue, &counts);
            scope.spawn(move || {
                while let Some((number, case)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let outcome = setup.case(case, number, lane);
                    let word = report(case, outcome, options.messages);
                    if let Ok(mut counts) = counts.lock() {
                        *counts.entry(word).or_insert(0_usize) += 1;
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().map_err(|_| anyhow::anyhow!("a lane ended early"))?;
    summary(&counts, cases.len())
}

fn read() -> Result<(Vec<Case>, Vec<Wanted>)> {
    let folder = repository().join("testdata/parity");
    let cases = cases::load(&folder)?;
    let table = folder.join("differences.table");
    let wanted = differences::parse(&fs::read_to_string(&table).with_context(|| table.display().to_string())?)?;
    let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    let unknown = differences::unknown(&wanted, &names);
    if !unknown.is_empty() {
        bail!(
            "`{}` names cases that do not exist: {}",
            table.display(),
            unknown.join(", ")
        );
    }
    Ok((cases, wanted))
}

#[expect(clippy::disallowed_methods, reason = "the reference's own tools are told so")]
fn reference(options: &Options) -> Reference {
    let address = options.against.clone().or_else(|| std::env::var("BUILDKIT_HOST").ok());
    let client = options
        .client
        .clone()
        .or_else(|| std::env::var_os("BUILDCTL").map(PathBuf::from));
    Reference {
        client: client.unwrap_or_else(|| "buildctl".into()),
        address: address.unwrap_or_else(|| "unix:///run/buildkit/buildkitd.sock".to_owned()),
    }
}

impl Setup {
    fn case(&self, case: &Case, number: usize, lane: usize) -> Result<Outcome> {
        let folder = self.folder.path().join(number.to_string());
        let outcome = self.built(case, &folder, &self.folder.path().join(format!("store-{lane}")));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        outcome
    }

    fn built(&self, case: &Case, folder: &Path, store: &Path) -> Result<Outcome> {
        let (context, beside) = (folder.join("context"), folder.join("dockerfile"));
        context::make(case, &context, &beside)?;
        let (their_image, our_image) = (folder.join("reference.tar"), folder.join("ours.tar"));
        let places = |image| Places {
            base: &self.base,
            context: &context,
            beside: &beside,
            image,
        };
        let ours = builders::ours(&self.rbuild, store, case, &places(our_image.as_path()))?;
        let reference = self.reference.build(case, &places(their_image.as_path()))?;
        let mut found = Vec::new();
        match (reference.succeeded(), ours.succeeded()) {
            (true, true) => {
                found = compare::images(&image::read(&their_image)?, &image::read(&our_image)?)?;
            }
            (false, false) => {}
            _ => found.push(Difference {
                field: "result".to_owned(),
                reference: result(&reference),
                ours: result(&ours),
            }),
        }
        if !ours.succeeded() && !ours.code.is_some_and(|code| PLAIN_FAILURES.contains(&code)) {
            found.push(Difference {
                field: "exit code".to_owned(),
                reference: format!("{:?}", reference.code),
                ours: format!("{:?}: {}", ours.code, ours.message()),
            });
        }
        let sorted = differences::sort(&case.name, found, &self.wanted);
        Ok(match sorted == Sorted::default() {
            false => Outcome::Differs(sorted),
            true if ours.succeeded() => Outcome::Same,
            true => Outcome::BothFail(reference.message(), ours.message()),
        })
    }
}

fn result(answer: &Answer) -> String {
    if answer.succeeded() {
        return "an image".to_owned();
    }
    format!("failed: {}", answer.message())
}

/// Shows what is worth seeing, all at once, and returns the word that the case counts under.
fn report(case: &Case, outcome: Result<Outcome>, messages: bool) -> &'static str {
    let name = &case.name;
    match outcome {
        Ok(Outcome::Same) => "same",
        Ok(Outcome::BothFail(reference, ours)) => {
            if messages {
                say(&format!(
                    "both fail  {name}\n    reference: {reference}\n    ours:      {ours}"
                ));
            }
            "both fail"
        }
        Ok(Outcome::Differs(sorted)) => {
            let wrong = !sorted.unexpected.is_empty() || !sorted.vanished.is_empty();
            say(&differing(name, &sorted, wrong).join("\n"));
            if wrong { "different" } else { "differs on purpose" }
        }
        Err(error) => {
            say(&format!("BROKEN     {name}\n    {error:#}"));
            "broken"
        }
    }
}

fn differing(name: &str, sorted: &Sorted, wrong: bool) -> Vec<String> {
    let mut lines = vec![format!("{} {name}", if wrong { "DIFFERENT " } else { "on purpose" })];
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (field, reason) in &sorted.on_purpose {
        reasons.entry(reason).or_default().push(field);
    }
    for (reason, fields) in reasons {
        let more = if fields.len() > 1 {
            format!(" and {} more", fields.len() - 1)
        } else {
            String::new()
        };
        lines.push(format!(
            "  {}{more}: {reason}",
            fields.first().copied().unwrap_or_default()
        ));
    }
    lines.extend(
        sorted
            .vanished
            .iter()
            .map(|field| format!("  {field} no longer differs: take it out of the table")),
    );
    for difference in sorted.unexpected.iter().take(SHOWN) {
        let Difference { field, reference, ours } = difference;
        lines.push(format!("  {field}\n    reference: {reference}\n    ours:      {ours}"));
    }
    if sorted.unexpected.len() > SHOWN {
        lines.push(format!("  and {} more", sorted.unexpected.len() - SHOWN));
    }
    lines
}

fn summary(counts: &BTreeMap<&str, usize>, all: usize) -> Result<()> {
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let line = format!("{all} cases: {}", words.join(", "));
    let wrong = counts.get("different").unwrap_or(&0) + counts.get("broken").unwrap_or(&0);
    if wrong > 0 || counts.values().sum::<usize>() != all {
        bail!("{line}");
    }
    say(&line);
    Ok(())
}
