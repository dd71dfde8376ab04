//! Builds on a base image made here, and what their progress says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use testdata::image::{Image, busybox};
use testdata::machine::Need;

use super::{Outcome, Place};

/// What every build with a step needs.
pub(crate) const STEPS: [Need; 2] = [Need::Sandbox, Need::Busybox];

/// Leaves the test if the machine lacks something; the test is named by its function.
macro_rules! needs {
    ($($need:expr),* $(,)?) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
        let mut needs = $crate::support::build::STEPS.to_vec();
        needs.extend_from_slice(&[$($need),*]);
        if testdata::machine::lacks(test, &needs) {
            return;
        }
    }};
}
pub(crate) use needs;

/// A step as the plain view shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// `[build] RUN make`, or `RUN make` in a stage without a name: how steps are counted is not everybody's business.
    pub(crate) name: String,
    numbered: bool,
    /// `CACHED`, `DONE`, `CANCELED`, `ERROR: …`
    pub(crate) status: String,
    /// Why it ran; empty if it did not, or is no step of a Dockerfile.
    pub(crate) reason: String,
    /// What it printed.
    pub(crate) log: String,
}

impl Place {
    /// The base image, made on first use, as the flag of a build.
    pub(crate) fn base(&self) -> String {
        let directory = self.base_directory();
        if !directory.exists() {
            let digest = busybox(&directory, "base");
            assert_eq!(Image::read(&directory).digest, digest);
        }
        format!("--build-context=base=oci-layout://{}", directory.to_str().unwrap())
    }

    /// Where the base image is.
    pub(crate) fn base_directory(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    /// `build` with further arguments inside the process, ready for more.
    pub(crate) fn build_command(&self, arguments: &[&str]) -> Command {
        let base = self.base();
        let mut all = vec!["build", "--in-process", "--progress=plain", base.as_str()];
        all.extend_from_slice(arguments);
        self.command(&all)
    }

    /// Builds inside the process.
    #[must_use]
    pub(crate) fn build(&self, arguments: &[&str]) -> Outcome {
        let output = self.build_command(arguments).output().unwrap();
        self.outcome(output)
    }

    /// A place with a Dockerfile, and thirty small files in `data`.
    pub(crate) fn with_data(dockerfile: &str) -> Self {
        let place = Self::new();
        place.dockerfile(dockerfile);
        for number in 0..30 {
            place.file(&format!("data/{number}"), &format!("{number}\n").repeat(1000));
        }
        place
    }

    /// Writes the Dockerfile.
    pub(crate) fn dockerfile(&self, content: &str) -> &Self {
        self.file("Dockerfile", content)
    }

    /// Builds the working directory into an OCI layout directory, and reads that.
    pub(crate) fn image(&self, arguments: &[&str]) -> Image {
        let directory = self.directory.path().join("image");
        if directory.exists() {
            std::fs::remove_dir_all(&directory).unwrap();
        }
        let output = format!("--output=type=oci,tar=false,dest={}", directory.to_str().unwrap());
        let mut all = vec![output.as_str()];
        all.extend_from_slice(arguments);
        all.push(".");
        let outcome = self.build(&all).exits(0);
        let image = Image::read(&directory);
        assert_eq!(outcome.digest(), image.digest.to_string());
        image
    }

    /// Runs another program in the working directory, which must work, and returns its stdout.
    pub(crate) fn other(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.work())
            .env("HOME", self.directory.path().join("home"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
        output.stdout
    }

    /// Builds the working directory, which must work, and returns the steps of the Dockerfile.
    pub(crate) fn steps(&self, arguments: &[&str]) -> Vec<Step> {
        let mut all = arguments.to_vec();
        all.push(".");
        self.build(&all).exits(0).steps()
    }
}

impl Outcome {
    /// The steps of the Dockerfile, in the order of their numbers, base images left out.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: BTreeMap<u32, Step> = BTreeMap::new();
        for line in self.stderr.lines() {
            let Some((number, text)) = numbered(line) else {
                continue;
            };
            let step = steps.entry(number).or_default();
            if step.name.is_empty() {
                step.name = unnumbered(text);
                step.numbered = step.name != text;
            } else if let Some(reason) = text.strip_prefix("ran because ") {
                step.reason = unnumbered(reason);
            } else if let Some(log) = text.strip_prefix("[time] ") {
                step.log += &format!("{log}\n");
            } else if text.starts_with("DONE ") {
                "DONE".clone_into(&mut step.status);
            } else if text == "CACHED" || text == "CANCELED" || text.starts_with("ERROR: ") {
                text.clone_into(&mut step.status);
            }
        }
        steps.into_values().filter(Step::is_instruction).collect()
    }

    /// The step whose name ends with these words.
    pub(crate) fn step(&self, name: &str) -> Step {
        let found = self.steps().into_iter().find(|step| step.name.ends_with(name));
        found.unwrap_or_else(|| panic!("no step `{name}` in:\n{}", self.stderr))
    }

    /// One line a step: `CACHED RUN a`, `DONE [stage] RUN b: its reason`.
    pub(crate) fn summary(&self) -> String {
        self.steps().iter().map(Step::line).collect()
    }
}

impl Step {
    fn line(&self) -> String {
        let colon = if self.reason.is_empty() { "" } else { ": " };
        format!("{} {}{colon}{}\n", self.status, self.name, self.reason)
    }

    fn is_instruction(&self) -> bool {
        let text = self.name.rsplit("] ").next();
        self.numbered && !text.is_some_and(|text| text.starts_with("FROM "))
    }
}

/// `#7 text` in its parts.
fn numbered(line: &str) -> Option<(u32, &str)> {
    let (number, text) = line.strip_prefix('#')?.split_once(' ')?;
    Some((number.parse().ok()?, text))
}

/// The text without ` 2/3` in its first brackets, and without brackets that have nothing else.
fn unnumbered(text: &str) -> String {
    let parts = text
        .split_once('[')
        .and_then(|(before, rest)| Some((before, rest.split_once("] ")?)));
    let Some((before, (inside, after))) = parts else {
        return text.to_owned();
    };
    let (stage, number) = inside.rsplit_once(' ').unwrap_or(("", inside));
    let counts = number
        .split_once('/')
        .is_some_and(|(n, m)| n.parse::<u32>().is_ok() && m.parse::<u32>().is_ok());
    match (counts, stage) {
        (false, _) => text.to_owned(),
        (true, "") => format!("{before}{after}"),
        (true, stage) => format!("{before}[{stage}] {after}"),
    }
}

#[test]
fn steps_are_read_from_interleaved_progress() {
    let outcome = Outcome {
        code: Some(0),
        stdout: String::new(),
        stderr: "#1 [internal] load\n#1 DONE [time]s\n\n#2 [a 1/2] RUN x\n\n#3 [1/1] RUN y\n#3 CACHED\n\n\
                 #2 [a 1/2] RUN x\n#2 [time] out\n#2 ran because of\n#2 ran because never\n#2 DONE [time]s\n"
            .to_owned(),
        raw_stdout: Vec::new(),
    };
    assert_eq!(outcome.summary(), "DONE [a] RUN x: never\nCACHED RUN y\n");
    assert_eq!(outcome.step("RUN x").log, "out\n");
}
