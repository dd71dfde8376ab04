//! House rules that no lint knows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{command, output, repository, say};

/// Which crates of ours a crate may depend on (beside `testdata` for tests).
const DIRECTION: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("frontend", &["proto"]),
    ("cache", &["proto"]),
    ("builder", &["proto", "frontend", "cache"]),
    ("cli", &["proto", "frontend", "cache", "builder"]),
    ("testdata", &["proto"]),
    ("xtask", &[]),
];

/// Words that a crate must not say, with the reason.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("proto/src", "tokio::", "wire types never wait"),
    ("proto/src", "std::fs", "wire types never do I/O"),
    ("frontend/src", "std::fs", "the frontend is a pure function"),
    ("frontend/src", "std::env", "the frontend is a pure function"),
    ("frontend/src", "std::time", "the frontend is a pure function"),
    ("frontend/src", "std::net", "the frontend is a pure function"),
    (
        "builder/src",
        "std::env::var",
        "configuration comes in through requests",
    ),
];

/// Lines of a file before its `mod tests`, without an excuse in its head.
const FILE_LIMIT: usize = 600;

/// Runs every rule and names every place that breaks one.
pub(crate) fn run() -> Result<()> {
    let root = repository();
    let files = tracked(&root)?;
    let mut problems = Vec::new();
    direction(&root, &mut problems)?;
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
    {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.display().to_string())?;
        source_file(file, &text, &mut problems);
    }
    test_modules(&root, &mut problems)?;
    readme_paths(&root, &mut problems)?;
    evidence(&root, Path::new("docs/parity.md"), &mut problems)?;
    evidence(&root, Path::new("frontend/src/corner_cases.rs"), &mut problems)?;
    evidence(&root, Path::new("docs/security.md"), &mut problems)?;
    threats(&fs::read_to_string(root.join("docs/security.md"))?, &mut problems);
    for file in &files {
        // What is no text has no code.
        if let Ok(text) = fs::read_to_string(root.join(file)) {
            unsafe_code(file, &text, &mut problems);
        }
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems\n{}", problems.len(), problems.join("\n"));
    }
    say(&format!("tidy: {} files in order", files.len()));
    Ok(())
}

/// Rows of the tables of threats: how many each letter has.
const THREATS: &[(char, usize)] = &[('T', 17), ('L', 15), ('R', 9), ('S', 10)];

/// Every threat has a row, and every row a test.
fn threats(page: &str, problems: &mut Vec<String>) {
    for (letter, count) in THREATS {
        for number in 1..=*count {
            let start = format!("| {letter}{number} |");
            let row = page.lines().find(|line| line.starts_with(&start));
            let test = row.and_then(|row| row.split('|').nth(3));
            if !test.is_some_and(|test| test.contains('/')) {
                problems.push(format!("docs/security.md: {letter}{number} has no test"));
            }
        }
    }
}

/// Where `unsafe` may be: the system calls of the engine, and those of the container that tests make.
const UNSAFE_DOORS: [&str; 2] = ["builder/src/sys", "testdata/examples/plain_container.rs"];

/// `unsafe` has its places, and everything else forbids it.
fn unsafe_code(file: &Path, text: &str, problems: &mut Vec<String>) {
    if file.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    let shown = file.display();
    let is_root = file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
    let exempt = file.starts_with("builder") || file.components().any(|part| part.as_os_str() == "fuzz");
    if is_root && !exempt && !text.contains("#![forbid(unsafe_code)]") {
        problems.push(format!("{shown}: does not forbid `unsafe`"));
    }
    let opens = |line: &str| line.contains("unsafe {") || line.contains("unsafe fn ") || line.contains("unsafe impl ");
    let is_door = UNSAFE_DOORS.iter().any(|door| file.starts_with(door));
    if !is_door && !file.starts_with("xtask") && text.lines().any(opens) {
        problems.push(format!("{shown}: `unsafe` belongs into builder/src/sys"));
    }
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root))?;
    Ok(listed
        .lines()
        .map(PathBuf::from)
        .filter(|file| root.join(file).is_file())
        .collect())
}

/// Crates depend on each other in one direction only.
fn direction(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let ours: Vec<&str> = DIRECTION.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in DIRECTION {
        let path = root.join(name).join("Cargo.toml");
        let manifest: BTreeMap<String, toml::Value> = toml::from_str(&fs::read_to_string(&path)?)?;
        let Some(dependencies) = manifest.get("dependencies").and_then(toml::Value::as_table) else {
            continue;
        };
        for dependency in dependencies.keys() {
            if ours.contains(&dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                problems.push(format!(
                    "{}: `{name}` must not depend on `{dependency}`",
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

fn source_file(file: &Path, text: &str, problems: &mut Vec<String>) {
    let shown = file.display();
    if !text.starts_with("//!") {
        problems.push(format!("{shown}: starts without a `//!` that says what it is"));
    }
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().count();
    let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
    if lines > FILE_LIMIT && !head.contains("Long because") {
        problems.push(format!(
            "{shown}: {lines} lines without tests; say `Long because …` in its head, or split it"
        ));
    }
    for (folder, word, reason) in FORBIDDEN {
        if file.starts_with(folder) && code.contains(word) {
            problems.push(format!("{shown}: says `{word}`, but {reason}"));
        }
    }
    if file.starts_with("xtask") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        if line.contains("TODO") && !line.contains("TODO(#") {
            problems.push(format!("{shown}:{}: a TODO without an issue", number + 1));
        }
        if line.contains("#[allow(") {
            problems.push(format!(
                "{shown}:{}: `allow` says nothing when it becomes needless; use `expect`",
                number + 1
            ));
        }
    }
}

/// `cli` has one test binary; a file nobody names would never run.
fn test_modules(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let folder = root.join("cli/tests");
    let main = fs::read_to_string(folder.join("main.rs"))?;
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(module) = name.strip_suffix(".rs") else {
            continue;
        };
        if module != "main" && !main.contains(&format!("mod {module};")) {
            problems.push(format!("cli/tests/{name}: not named in main.rs, so it never runs"));
        }
    }
    Ok(())
}

/// Every path that the README shows in backticks exists.
fn readme_paths(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let readme = fs::read_to_string(root.join("README.md"))?;
    for word in readme.split('`').skip(1).step_by(2) {
        let path_like =
            word.contains('/') && !word.contains([' ', ':', '=', '~', '<', '$', '*', '…']) && !word.starts_with('/');
        if path_like && !root.join(word).exists() {
            problems.push(format!("README.md: `{word}` does not exist"));
        }
    }
    Ok(())
}

/// Every test that a page names in backticks exists: a file of the repository or of `testdata`, or `file::function`.
fn evidence(root: &Path, page: &Path, problems: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root.join(page)).with_context(|| page.display().to_string())?;
    let words = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    for word in words.filter(|word| word.contains('/') && !word.contains([' ', '$', '"', '<', '*', '\\'])) {
        let (file, function) = word
            .split_once("::")
            .map_or((word, None), |(file, name)| (file, Some(name)));
        let places = [
            root.join(file),
            root.join(format!("testdata/dockerfiles/{file}.dockerfile")),
            root.join(format!("testdata/{file}.dockerfile")),
        ];
        let Some(place) = places.iter().find(|place| place.exists()) else {
            problems.push(format!("{}: `{file}` does not exist", page.display()));
            continue;
        };
        let Some(function) = function else { continue };
        if !fs::read_to_string(place)?.contains(&format!("fn {function}(")) {
            problems.push(format!("{}: `{file}` has no test `{function}`", page.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{threats, unsafe_code};

    #[test]
    fn a_threat_without_a_test_is_a_problem() {
        let mut problems = Vec::new();
        threats(
            "| T1 | protected | `a/b.rs::c` |\n| T2 | protected | |\n",
            &mut problems,
        );
        let found = |name: &str| problems.iter().any(|problem| problem.contains(&format!(" {name} has")));
        assert_eq!((found("T1"), found("T2"), found("S10")), (false, true, true));
    }

    #[test]
    fn s10_unsafe_code_outside_of_its_place_is_a_problem() {
        let count = |file: &str, text: &str| {
            let mut problems = Vec::new();
            unsafe_code(Path::new(file), text, &mut problems);
            problems.len()
        };
        let open = "fn a() { unsafe { b() } }";
        assert_eq!(count("builder/src/sys/memory.rs", open), 0);
        assert_eq!(count("builder/src/layer/read.rs", open), 1);
        assert_eq!(count("cache/src/lib.rs", "//! a"), 1);
        assert_eq!(count("cache/src/lib.rs", "//! a\n#![forbid(unsafe_code)]"), 0);
    }
}
