//! What is built: contexts and Dockerfiles of fixed seeds, the phases that are timed, and how our time may compare.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::packages;
use crate::base;
use crate::run::{check, command, output, repository, target_dir};

/// Writes a context.
type Make = Box<dyn Fn(&Site<'_>) -> Result<()>>;

/// One kind of build.
pub(super) struct Workload {
    /// As on the command line.
    pub(super) id: &'static str,
    /// For the table.
    pub(super) what: String,
    /// Size of what is copied from the context.
    pub(super) megabytes: f64,
    /// Too long for every day.
    pub(super) only_by_name: bool,
    /// Writes the context.
    pub(super) make: Make,
    /// In order; each phase finds what the one before it left.
    pub(super) phases: Vec<Phase>,
    /// Whether steps need the network of this machine.
    pub(super) host_network: bool,
    /// The file that [`Before::Touched`] changes.
    pub(super) touched: &'static str,
}

/// Where a context is made.
pub(super) struct Site<'a> {
    /// An empty directory.
    pub(super) directory: &'a Path,
    /// `host:port` with the base images.
    pub(super) registry: &'a str,
}

/// What is timed.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) before: Before,
    pub(super) step: Step,
    /// The largest ratio of our time to the best peer's that we are content with.
    pub(super) allowed: f64,
    /// Bytes on disk that we may use afterwards for each byte of the context; nothing: nobody asks.
    pub(super) disk: Option<f64>,
}

/// What happens before the clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// All is as the phase before left it.
    Nothing,
    /// The engine begins with nothing, not even a base image.
    Empty,
    /// The engine begins with nothing but a finished build of this context.
    Built,
    /// One file of the context has new contents.
    Touched,
}

/// What happens while the clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A build that may use the cache.
    Build,
    /// A build that may not.
    BuildAnew,
    /// Eight builds at once; with one build argument that is new to all, equal or different.
    Eight { equal: bool },
    /// The image that was built last, into a tar with an OCI layout.
    Export(Form),
    /// The image that was built last, to a registry that has nothing of it.
    FirstPush,
    /// A build, and its image to a registry that has it.
    BuildAndPush,
}

/// How layers of an export are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Gzip,
    Zstd,
}

impl Phase {
    pub(super) fn new(name: &'static str, before: Before, step: Step, allowed: f64) -> Self {
        Self {
            name,
            before,
            step,
            allowed,
            disk: None,
        }
    }

    fn with_disk(self, bytes_per_byte: f64) -> Self {
        Self {
            disk: Some(bytes_per_byte),
            ..self
        }
    }
}

/// All workloads; small ones for a quick run.
pub(super) fn all(quick: bool) -> Vec<Workload> {
    let mut all = vec![tiny(), thirty()];
    all.push(many_files("w3s", if quick { 500 } else { 10_000 }));
    all.push(many_files("w3", if quick { 1000 } else { 50_000 }).only_by_name());
    all.push(large_files("w4s", if quick { 16 } else { 256 }));
    all.push(large_files("w4", if quick { 32 } else { 2048 }).only_by_name());
    all.push(if quick { stages(4, 10) } else { stages(16, 160) });
    all.push(runs("w6s", if quick { 8 } else { 20 }, (0.5, 0.25)));
    all.push(runs("w6", if quick { 12 } else { 60 }, (0.1, 0.25)));
    all.push(made_files("w7s", if quick { 1000 } else { 20_000 }));
    all.push(made_files("w7", if quick { 2000 } else { 100_000 }).only_by_name());
    all.extend(packages::all(quick));
    all.push(together(if quick { 10 } else { 80 }));
    all.push(pulled("w11", if quick { 16 } else { 256 }));
    all
}

impl Workload {
    pub(super) fn new(
        id: &'static str,
        what: impl Into<String>,
        make: impl Fn(&Site<'_>) -> Result<()> + 'static,
        phases: Vec<Phase>,
    ) -> Self {
        Self {
            id,
            what: what.into(),
            megabytes: 0.0,
            only_by_name: false,
            make: Box::new(make),
            phases,
            host_network: false,
            touched: "file0",
        }
    }

    pub(super) fn only_by_name(self) -> Self {
        Self {
            only_by_name: true,
            ..self
        }
    }

    pub(super) fn touching(self, touched: &'static str) -> Self {
        Self { touched, ..self }
    }
}

impl Site<'_> {
    /// A Dockerfile on the base image.
    fn dockerfile(&self, lines: &str) -> Result<()> {
        let text = format!("FROM {}/busybox:1\n{lines}", self.registry);
        Ok(fs::write(self.directory.join("Dockerfile"), text)?)
    }

    /// Small files to copy: `file0` to `file4`.
    fn small_files(&self) -> Result<()> {
        for n in 0..5 {
            fs::write(self.directory.join(format!("file{n}")), format!("{n}\n"))?;
        }
        Ok(())
    }

    /// Files of the generator of `testdata`.
    fn generate(&self, kind: &str, below: &str, numbers: &[u64]) -> Result<()> {
        generate(kind, &self.directory.join(below), numbers)
    }
}

/// Builds the generator. With the features of the whole workspace, so that nothing is compiled that tests have not compiled before.
pub(super) fn build_generator() -> Result<()> {
    let words = ["build", "--quiet", "--workspace", "--example", "context"];
    check(command("cargo", &words).current_dir(repository()))
}

fn generate(kind: &str, directory: &Path, numbers: &[u64]) -> Result<()> {
    let mut generator = command(target_dir().join("debug/examples/context"), &[kind]);
    output(generator.arg(directory).args(numbers.iter().map(u64::to_string))).map(drop)
}

fn tiny() -> Workload {
    let make = |site: &Site<'_>| {
        site.small_files()?;
        site.dockerfile("RUN echo hello > /hello\nCOPY file0 /file0\nCMD [\"sh\"]\n")
    };
    let phases = vec![
        Phase::new("cold", Before::Empty, Step::Build, 0.5),
        Phase::new("no cache", Before::Nothing, Step::BuildAnew, 0.25),
        Phase::new("cached", Before::Nothing, Step::Build, 0.3),
        Phase::new("one file touched", Before::Touched, Step::Build, 0.3),
    ];
    Workload::new("w1", "RUN, COPY, CMD", make, phases)
}

fn thirty() -> Workload {
    let make = |site: &Site<'_>| {
        site.small_files()?;
        let five = |n: u32| {
            format!(
                "ENV NAME{n}=value\nCOPY file{n} /files/{n}\nLABEL label{n}=x\n\
                 RUN echo {n} > /a{n}\nRUN echo {n} > /b{n}\nRUN echo {n} > /c{n}\n"
            )
        };
        site.dockerfile(&(0..5).map(five).collect::<String>())
    };
    let phases = vec![
        Phase::new("no cache", Before::Nothing, Step::BuildAnew, 0.5),
        Phase::new("cached", Before::Nothing, Step::Build, 0.2),
        Phase::new("cached, push", Before::Nothing, Step::BuildAndPush, 0.25),
    ];
    Workload::new("w2", "30 instructions", make, phases)
}

#[expect(clippy::cast_precision_loss, reason = "a limit for people")]
fn many_files(id: &'static str, count: u64) -> Workload {
    let excluded = 2 * count;
    let bytes = count * 8300;
    let make = move |site: &Site<'_>| {
        site.generate("files", "src", &[count, bytes, 3])?;
        site.generate("files", "node_modules", &[excluded, excluded * 500, 4])?;
        fs::write(site.directory.join(".dockerignore"), "**/node_modules\n*.log\n")?;
        site.dockerfile("COPY . /app\n")
    };
    let large = id == "w3";
    let phases = vec![
        // 120 and 240 MB for the 83 MB of the full size.
        Phase::new("cold", Before::Empty, Step::Build, 0.25).with_disk(1.45),
        Phase::new("cached", Before::Nothing, Step::Build, 0.1),
        Phase::new(
            "one file touched",
            Before::Touched,
            Step::Build,
            if large { 0.25 } else { 0.2 },
        )
        .with_disk(2.9),
    ];
    let what = format!(
        "COPY of {count} files ({} MB), {excluded} more excluded",
        bytes / 1_000_000
    );
    Workload {
        megabytes: bytes as f64 / 1e6,
        ..Workload::new(id, what, make, phases).touching("src/d2/f217.txt")
    }
}

fn large_files(id: &'static str, mib: u64) -> Workload {
    let make = move |site: &Site<'_>| {
        site.generate("mixed", "data", &[mib << 20, 5])?;
        fs::write(site.directory.join("Dockerfile"), "FROM scratch\nCOPY data /data\n")?;
        Ok(())
    };
    let phases = vec![
        Phase::new("build", Before::Empty, Step::Build, 0.3),
        Phase::new("export, plain", Before::Nothing, Step::Export(Form::Plain), 0.2),
        Phase::new("export, zstd", Before::Nothing, Step::Export(Form::Zstd), 0.3),
        Phase::new("export, gzip", Before::Built, Step::Export(Form::Gzip), 0.5),
        Phase::new("first push, gzip", Before::Built, Step::FirstPush, 0.5),
    ];
    Workload::new(id, format!("COPY of {mib} MiB, half noise, half text"), make, phases)
}

fn stages(count: u32, mib: u64) -> Workload {
    let make = move |site: &Site<'_>| {
        let base = format!("{}/busybox:1", site.registry);
        let mut text = String::new();
        for n in 0..count {
            let work = format!("dd if=/dev/zero bs=1M count={mib} | sha256sum > /out");
            text += &format!("FROM {base} AS s{n}\nRUN echo {n} && {work}\n");
        }
        text += &format!("FROM {base}\n");
        text += &(0..count)
            .map(|n| format!("COPY --from=s{n} /out /out{n}\n"))
            .collect::<String>();
        fs::write(site.directory.join("Dockerfile"), text)?;
        Ok(())
    };
    let phases = vec![Phase::new("no cache", Before::Nothing, Step::BuildAnew, 0.85)];
    let what = format!("{count} stages, each a SHA-256 of {mib} MiB, one COPY from each");
    Workload::new("w5", what, make, phases)
}

fn runs(id: &'static str, count: u32, (anew, cached): (f64, f64)) -> Workload {
    let make = move |site: &Site<'_>| {
        site.dockerfile(
            &(0..count)
                .map(|n| format!("RUN echo {n} > /file{n}\n"))
                .collect::<String>(),
        )
    };
    let phases = vec![
        Phase::new("no cache", Before::Nothing, Step::BuildAnew, anew),
        Phase::new("cached", Before::Nothing, Step::Build, cached),
    ];
    Workload::new(id, format!("{count} RUN"), make, phases)
}

fn made_files(id: &'static str, count: u64) -> Workload {
    let make = move |site: &Site<'_>| {
        let last = count / 100 - 1;
        site.dockerfile(&format!(
            "RUN for d in $(seq 0 {last}); do mkdir -p /made/$d; for f in $(seq 1 100); do echo $d $f > /made/$d/$f; done; done\n"
        ))
    };
    let phases = vec![
        Phase::new("no cache", Before::Nothing, Step::BuildAnew, 0.6),
        // The build above made other times, hence another layer: nobody has exported it yet.
        Phase::new("first export, gzip", Before::Nothing, Step::Export(Form::Gzip), 0.3),
    ];
    Workload::new(id, format!("RUN that makes {count} files"), make, phases)
}

fn together(mib: u64) -> Workload {
    let make = move |site: &Site<'_>| {
        site.small_files()?;
        let work = format!("RUN echo $NUMBER && dd if=/dev/zero bs=1M count={mib} | sha256sum > ");
        site.dockerfile(&format!(
            "ARG NUMBER\nCOPY file0 /\n{work}/a\n{work}/b\n{work}/c\nCOPY file1 /\n"
        ))
    };
    let phases = vec![
        Phase::new("8 different builds", Before::Nothing, Step::Eight { equal: false }, 0.7),
        Phase::new("8 equal builds", Before::Nothing, Step::Eight { equal: true }, 0.6),
    ];
    let what = format!("8 builds at once, each 3 × SHA-256 of {mib} MiB");
    Workload::new("w10", what, make, phases)
}

fn pulled(id: &'static str, mib: u64) -> Workload {
    let make = move |site: &Site<'_>| {
        let image = format!("{}/base:{mib}", site.registry);
        publish_large_base(&image, mib)?;
        let text = format!("FROM {image}\nRUN true\n");
        fs::write(site.directory.join("Dockerfile"), text)?;
        Ok(())
    };
    let phases = vec![Phase::new("cold", Before::Empty, Step::Build, 0.4)];
    Workload::new(
        id,
        format!("pull and unpack of {mib} MiB in 4 layers, RUN true"),
        make,
        phases,
    )
}

/// Four equal parts, each three quarters large files. skopeo compresses the layers, so that no engine meets its own gzip.
fn publish_large_base(image: &str, mib: u64) -> Result<()> {
    let context = tempfile::tempdir()?;
    let mut text = "FROM busybox\n".to_owned();
    for part in 0..4 {
        let bytes = (mib << 20) / 4;
        let directory = context.path().join(format!("part{part}"));
        generate("mixed", &directory, &[bytes / 4 * 3, 10 + part])?;
        generate("files", &directory, &[bytes / 4 / 10_000, bytes / 4, 20 + part])?;
        text += &format!("COPY part{part} /part{part}\n");
    }
    fs::write(context.path().join("Dockerfile"), text)?;
    let layout = context.path().join("layout");
    base::on_busybox(context.path(), &layout)?;
    copy_to_registry(&layout, image)
}

/// An OCI layout as an image that engines pull.
pub(super) fn copy_to_registry(layout: &Path, image: &str) -> Result<()> {
    let mut copy = command("skopeo", &["copy", "--quiet", "--dest-tls-verify=false"]);
    copy.arg(format!("oci:{}", layout.display()))
        .arg(format!("docker://{image}"));
    output(&mut copy).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_phases_compare() {
        let all = all(true);
        let mut ids: Vec<&str> = all.iter().map(|workload| workload.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        for phase in all.iter().flat_map(|workload| &workload.phases) {
            assert!(phase.allowed > 0.0 && phase.allowed < 1.0, "{}", phase.name);
        }
    }

    #[test]
    fn an_export_never_follows_another_of_the_same_form() {
        for workload in all(false) {
            let mut seen = Vec::new();
            for phase in &workload.phases {
                if matches!(phase.before, Before::Empty | Before::Built) || phase.step == Step::BuildAnew {
                    seen.clear();
                }
                assert!(
                    !seen.contains(&phase.step) || !matches!(phase.step, Step::Export(_)),
                    "{}",
                    workload.id
                );
                seen.push(phase.step);
            }
        }
    }
}
