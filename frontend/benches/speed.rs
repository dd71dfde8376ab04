//! How long a large Dockerfile and a large context take: `cargo xtask bench frontend`.
//!
//! Each figure is the best of many rounds, since a shared machine only ever makes them worse.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use frontend::lower::Images;
use frontend::patterns::IgnoreFile;
use frontend::source::SourceFile;
use frontend::{ImageFacts, LowerOptions, Lowered};
use proto::digest::Digest;
use proto::oci::ImageConfig;
use proto::platform::Platform;

fn main() {
    let dockerfile = SourceFile::new("Dockerfile", large_dockerfile());
    let lines = dockerfile.text.lines().count();
    report(&format!("parse {lines} lines"), || {
        frontend::parse(&dockerfile).instructions.len()
    });
    report(&format!("parse and lower {lines} lines"), || build(&dockerfile));
    let ignore_file = large_ignore_file();
    let paths = paths();
    let patterns = ignore_file.lines().count();
    report(&format!("read {patterns} patterns"), || {
        usize::from(IgnoreFile::parse(&ignore_file).is_ok_and(|patterns| patterns.is_empty()))
    });
    report(&format!("{} decisions with {patterns} patterns", paths.len()), || {
        decide(&ignore_file, &paths)
    });
}

/// Prints the best time of many rounds.
fn report(name: &str, work: impl Fn() -> usize) {
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let started = Instant::now();
        black_box(work());
        best = best.min(started.elapsed());
    }
    println!("{name:<44} {:>8.3} ms", best.as_secs_f64() * 1e3);
}

/// Ten stages of a hundred lines: variables, steps with mounts, continuations, heredocs, copies between stages.
fn large_dockerfile() -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG TAG=1\n");
    for stage in 0..10 {
        text += &format!("FROM registry.example/base:${{TAG}} AS stage{stage}\nARG VERSION=1.{stage}\n");
        for step in 0..12 {
            text += &format!(
                "ENV NAME{step}=\"value $VERSION\" OTHER{step}=${{VERSION:-none}}\n\
                 # What the step is for.\n\
                 RUN --mount=type=cache,target=/cache/{step} --mount=type=bind,source=s{step},target=/src \\\n    \
                 make -C /src \\\n    build VERSION=$VERSION \\\n    STEP={step}\n"
            );
            if stage > 0 && step % 4 == 0 {
                text += &format!(
                    "COPY --from=stage{} --chown=1000:1000 /out/{step} /in/$NAME{step}/\n",
                    stage - 1
                );
            }
            text += &format!("COPY <<EOF /etc/app/{step}.conf\nversion = $VERSION\nEOF\n");
        }
        text += "WORKDIR /srv/$NAME1\nLABEL org.example.version=$VERSION\nEXPOSE 80 443\nCMD [\"app\", \"--serve\"]\n";
    }
    text
}

fn build(source: &SourceFile) -> usize {
    let parsed = frontend::parse(source);
    let options = LowerOptions::new(Platform::new("linux", "amd64", ""));
    let mut images = Images::new();
    loop {
        match frontend::lower(source, &parsed, &options, &images) {
            Ok(Lowered::Done(plan)) => return plan.definition.vertices.len(),
            Ok(Lowered::Need(requests)) => {
                for request in requests {
                    let facts = ImageFacts {
                        manifest: Digest::of(request.reference.as_bytes()),
                        config: ImageConfig::default(),
                    };
                    images.insert((request.reference, request.platform), facts);
                }
            }
            Err(errors) => panic!("the large file has no errors, but {errors:?}"),
        }
    }
}

/// Every kind of pattern that ignore files have.
fn large_ignore_file() -> String {
    let kinds = |n: usize| match n % 10 {
        0 => format!("build{n}"),
        1 => format!("*.ext{n}"),
        2 => format!("**/*.cache{n}"),
        3 => format!("**/node_modules{n}"),
        4 => format!("docs{n}/**"),
        5 => format!("src/**/test{n}"),
        6 => format!("!src/**/test{n}/keep"),
        7 => format!("vendor/*/[a-f]?{n}"),
        8 => format!("logs{n}*"),
        _ => format!("**/.tmp{n}/**"),
    };
    (0..100).map(|n| kinds(n) + "\n").collect()
}

/// Directories, each before what it holds.
fn paths() -> Vec<(String, Option<usize>)> {
    let mut paths: Vec<(String, Option<usize>)> = Vec::new();
    for top in 0..10 {
        let top_at = paths.len();
        paths.push((format!("src{top}"), None));
        for module in 0..37 {
            let module_at = paths.len();
            paths.push((format!("src{top}/module{module}"), Some(top_at)));
            for file in 0..26 {
                paths.push((format!("src{top}/module{module}/some_file_{file}.rs"), Some(module_at)));
            }
        }
    }
    paths
}

/// As a walk does it: the state of a directory is handed down.
fn decide(ignore_file: &str, paths: &[(String, Option<usize>)]) -> usize {
    let patterns = IgnoreFile::parse(ignore_file).expect("the patterns are well formed");
    let root = patterns.root();
    let mut states = Vec::with_capacity(paths.len());
    let mut excluded = 0;
    for (path, parent) in paths {
        let parent = parent.map_or(&root, |at| &states[at]);
        let state = patterns.descend(parent, path.as_bytes());
        excluded += usize::from(patterns.excludes(&state));
        states.push(state);
    }
    excluded
}
