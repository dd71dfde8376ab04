//! What a build left on the machine: mounts, processes, files.

use std::path::{Path, PathBuf};

/// Mount points below `directory`, in the mount namespace of the tests.
pub(crate) fn mounts_below(directory: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| Path::new(point).starts_with(directory))
        .map(str::to_owned)
        .collect()
}

/// Processes whose command line, working directory or root directory is about `directory`, with what shows it.
pub(crate) fn processes_about(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let is_process = path
            .file_name()
            .unwrap()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        if is_process && let Some(what) = about(&path, directory) {
            found.push(format!("{}: {what}", path.display()));
        }
    }
    found
}

/// A process that ends meanwhile is about nothing.
fn about(process: &Path, directory: &Path) -> Option<String> {
    let status = std::fs::read_to_string(process.join("stat")).ok()?;
    if status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')) {
        return None;
    }
    for link in ["cwd", "root"] {
        let target: PathBuf = std::fs::read_link(process.join(link)).ok()?;
        if target.starts_with(directory) {
            return Some(format!("{link} {}", target.display()));
        }
    }
    let directory = directory.to_str().unwrap();
    let words = std::fs::read(process.join("cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    if words.contains(directory) {
        return Some(words);
    }
    // A step sees another root; its mounts still say where their files are.
    let mounts = std::fs::read_to_string(process.join("mountinfo")).ok()?;
    mounts.contains(directory).then(|| format!("mounts of {words}"))
}

/// What builds write while they run, below the store: nothing of it may be there when no build runs.
pub(crate) fn unfinished(store: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let places = [
        ("", "pending-"),
        ("", "synced-"),
        ("snapshots", "active-"),
        ("snapshots", "removed-"),
        ("snapshots", "damaged-"),
        ("tmp", ""),
    ];
    for (directory, prefix) in places {
        let Ok(entries) = std::fs::read_dir(store.join(directory)) else {
            // Nothing was ever written there.
            continue;
        };
        for entry in entries {
            let entry = entry.unwrap();
            if entry.file_name().to_str().unwrap().starts_with(prefix) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

/// Asserts that no mount, no process and no unfinished file is left.
#[track_caller]
pub(crate) fn nothing_is_left(store: &Path) {
    assert_eq!(mounts_below(store), [""; 0], "mounts");
    assert_eq!(processes_about(store), [""; 0], "processes");
    assert_eq!(unfinished(store), [""; 0], "files");
}

/// Control groups that an engine has made and that are still there.
pub(crate) fn control_groups_of(engine: u32) -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    let prefix = format!("{engine}-");
    while let Some(directory) = left.pop() {
        // Groups of others come and go.
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for path in entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
        {
            let is_of_step =
                directory.ends_with("rbuild") && path.file_name().unwrap().to_str().unwrap().starts_with(&prefix);
            if is_of_step {
                found.push(path.display().to_string());
            }
            left.push(path);
        }
    }
    found
}
