//! The two builders: how each is asked for the same image.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::parity::cases::Case;
use crate::run::command;

/// A build that takes longer has hung.
const SECONDS: &str = "180";

/// What a build said in the end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Nothing if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Everything it printed.
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// The lines that name an error, or the last ones.
    pub(crate) fn message(&self) -> String {
        let errors: Vec<&str> = self.text.lines().filter(|line| line.starts_with("error")).collect();
        if !errors.is_empty() {
            return errors.join("\n");
        }
        let lines: Vec<&str> = self.text.trim_end().lines().collect();
        lines
            .get(lines.len().saturating_sub(5)..)
            .unwrap_or_default()
            .join("\n")
    }
}

/// Where the files of one build are.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    /// The OCI layout that every case knows as `busybox`.
    pub(crate) base: &'a Path,
    pub(crate) context: &'a Path,
    /// The folder of the Dockerfile.
    pub(crate) beside: &'a Path,
    /// The tar that the image is written to.
    pub(crate) image: &'a Path,
}

impl Places<'_> {
    fn filled(&self, option: &str) -> String {
        let context = self.context.display().to_string();
        let base = self.base.display().to_string();
        option.replace("{context}", &context).replace("{base}", &base)
    }
}

/// Builds with rbuild, in a store of its own.
pub(crate) fn ours(program: &Path, store: &Path, case: &Case, places: &Places<'_>) -> Result<Answer> {
    let mut build = limited(program);
    build
        .args(["build", "--in-process", "--progress", "plain", "--no-cache", "--root"])
        .arg(store)
        .arg("--file")
        .arg(places.beside.join("Dockerfile"))
        .arg("--build-context")
        .arg(places.filled("busybox=oci-layout://{base}:latest"))
        .arg("--output")
        .arg(format!("type=oci,dest={}", places.image.display()))
        .args(case.options.iter().map(|option| places.filled(option)))
        .arg(places.context);
    answer(&mut build, case)
}

/// A BuildKit that answers at an address.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) client: PathBuf,
    pub(crate) address: String,
}

impl Reference {
    /// Whether it answers; the error says how to start one.
    pub(crate) fn check(&self) -> Result<()> {
        let (client, address) = (self.client.display(), &self.address);
        let workers = self.command().args(["debug", "workers"]).stdin(Stdio::null()).output();
        let problem = match workers {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        bail!(
            "`{client} --addr {address}` does not answer: {problem}\n\
             note: the reference is BuildKit; take `buildkitd` and `buildctl` from a release of github.com/moby/buildkit and \
             start it as root: `buildkitd --addr unix:///run/parity.sock --root /tmp/parity-buildkit`\n\
             help: name it with `--against unix:///run/parity.sock` or BUILDKIT_HOST, and the client with `--client` or BUILDCTL"
        )
    }

    fn command(&self) -> Command {
        let mut command = limited(&self.client);
        command.arg("--addr").arg(&self.address);
        command
    }

    /// Builds with the Dockerfile frontend that it has inside.
    pub(crate) fn build(&self, case: &Case, places: &Places<'_>) -> Result<Answer> {
        let mut build = self.command();
        build.args([
            "build",
            "--progress=plain",
            "--frontend=dockerfile.v0",
            "--opt",
            "no-cache=",
        ]);
        for (name, folder) in [("context", places.context), ("dockerfile", places.beside)] {
            build.arg("--local").arg(format!("{name}={}", folder.display()));
        }
        build.args(layout_option("busybox", places.base)?);
        build.args(self::options(case, places)?);
        if let Some((name, value)) = case.environment.iter().find(|(name, _)| name == "SOURCE_DATE_EPOCH") {
            build.arg("--opt").arg(format!("build-arg:{name}={value}"));
        }
        build
            .arg("--output")
            .arg(format!("type=oci,dest={}", places.image.display()));
        answer(&mut build, case)
    }
}

fn limited(program: &Path) -> Command {
    let mut command = command("timeout", &["--kill-after=10", SECONDS]);
    command.arg(program);
    command
}

fn answer(build: &mut Command, case: &Case) -> Result<Answer> {
    for (name, value) in &case.environment {
        build.env(name, value);
    }
    let done = build.stdin(Stdio::null()).output()?;
    let text = [done.stdout, done.stderr].concat();
    Ok(Answer {
        code: done.status.code(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// The options of a case in the words of the reference's client.
fn options(case: &Case, places: &Places<'_>) -> Result<Vec<String>> {
    let mut words = case.options.iter();
    let mut translated = Vec::new();
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        if matches!(option, "--pull" | "--no-cache") {
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => words
                .next()
                .with_context(|| format!("`{option}` has no value"))?
                .clone(),
        };
        translated.extend(one_option(option, &places.filled(&value), case)?);
    }
    Ok(translated)
}

fn one_option(option: &str, value: &str, case: &Case) -> Result<Vec<String>> {
    let opt = |setting: String| Ok(vec!["--opt".to_owned(), setting]);
    match option {
        "--build-arg" if value.contains('=') => opt(format!("build-arg:{value}")),
        "--build-arg" => match case.environment.iter().find(|(name, _)| name == value) {
            Some((name, value)) => opt(format!("build-arg:{name}={value}")),
            None => Ok(Vec::new()),
        },
        "--label" => {
            let (key, text) = value.split_once('=').unwrap_or((value, ""));
            opt(format!("label:{key}={text}"))
        }
        "--target" => opt(format!("target={value}")),
        "--platform" => opt(format!("platform={value}")),
        "--network" => opt(format!("force-network-mode={value}")),
        "--shm-size" => opt(format!("shm-size={value}")),
        "--add-host" => opt(format!("add-hosts={}", value.replacen(':', "=", 1))),
        "--no-cache-filter" => opt(format!("no-cache={value}")),
        "--secret" | "--ssh" | "--allow" => Ok(vec![option.to_owned(), value.to_owned()]),
        "--build-context" => named_context(value),
        _ => bail!("`{option}` has no translation for the reference"),
    }
}

fn named_context(value: &str) -> Result<Vec<String>> {
    let (name, place) = value.split_once('=').context("`--build-context` wants NAME=VALUE")?;
    if let Some(layout) = place.strip_prefix("oci-layout://") {
        let folder = layout.rsplit_once(':').map_or(layout, |(folder, _)| folder);
        return layout_option(name, Path::new(folder));
    }
    if !Path::new(place).is_dir() {
        return Ok(vec!["--opt".to_owned(), format!("context:{name}={place}")]);
    }
    let local = ["--local".to_owned(), format!("parity-{name}={place}")];
    let setting = ["--opt".to_owned(), format!("context:{name}=local:parity-{name}")];
    Ok([local, setting].concat())
}

fn layout_option(name: &str, layout: &Path) -> Result<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let digest = index.pointer("/manifests/0/digest").and_then(serde_json::Value::as_str);
    let digest = digest.context("a layout without an image")?;
    Ok(vec![
        "--oci-layout".to_owned(),
        format!("{name}={}", layout.display()),
        "--opt".to_owned(),
        format!("context:{name}=oci-layout://{name}@{digest}"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(options: &[&str]) -> Result<Vec<String>> {
        let case = Case {
            options: options.iter().map(|&option| option.to_owned()).collect(),
            environment: vec![("E".to_owned(), "5".to_owned())],
            ..Case::default()
        };
        let nowhere = Path::new("/nowhere");
        let places = Places {
            base: nowhere,
            context: nowhere,
            beside: nowhere,
            image: nowhere,
        };
        self::options(&case, &places)
    }

    #[test]
    fn options_are_said_in_the_words_of_the_other_client() {
        let said = translated(&["--build-arg", "A=b=c", "--build-arg=E", "--build-arg", "GONE", "--pull"]);
        assert_eq!(said.unwrap(), ["--opt", "build-arg:A=b=c", "--opt", "build-arg:E=5"]);
        let said = translated(&["--label", "a", "--add-host=h:::1", "--secret", "id=x,src={context}/f"]);
        let expected = [
            "--opt",
            "label:a=",
            "--opt",
            "add-hosts=h=::1",
            "--secret",
            "id=x,src=/nowhere/f",
        ];
        assert_eq!(said.unwrap(), expected);
    }

    #[test]
    fn an_option_without_translation_is_refused() {
        assert!(translated(&["--iidfile", "x"]).is_err());
    }

    #[test]
    fn the_message_of_a_failure_is_its_error_lines() {
        let answer = |text: &str| Answer {
            code: Some(1),
            text: text.to_owned(),
        };
        assert_eq!(answer("#1 x\nerror: bad\n  at 1").message(), "error: bad");
        assert_eq!(answer("1\n2\n3\n4\n5\n6\n").message(), "2\n3\n4\n5\n6");
    }
}
