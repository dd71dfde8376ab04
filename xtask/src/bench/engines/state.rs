//! The state directory of one engine: the current one, and those that were moved aside.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{command, output, say};

/// With less than this free, states that were moved aside are deleted after all.
const ENOUGH_BYTES: u64 = 12 << 30;

/// Where an engine keeps everything.
#[derive(Debug)]
pub(super) struct State {
    directory: PathBuf,
    aside: Vec<PathBuf>,
}

impl State {
    /// Below `work`, for the engine of this name.
    pub(super) fn new(work: &Path, engine: &str) -> Result<Self> {
        let directory = work.join(engine);
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            aside: Vec::new(),
        })
    }

    /// The directory of now.
    pub(super) fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    /// A path in the directory of now.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.current().join(name)
    }

    /// Begins with an empty directory.
    pub(super) fn renew(&mut self) -> Result<()> {
        let current = self.current();
        if current.exists() {
            let aside = self.directory.join(format!("aside{}", self.aside.len()));
            fs::rename(&current, &aside)?;
            self.aside.push(aside);
        }
        if free_bytes(&self.directory)? < ENOUGH_BYTES {
            self.free()?;
        }
        // The home of clients: no engine sees what this machine's user has.
        fs::create_dir_all(current.join("home"))?;
        Ok(())
    }

    fn free(&mut self) -> Result<()> {
        let directories = self.aside.iter().filter(|aside| aside.exists());
        for aside in directories {
            say(&format!(
                "the disk fills up: `{}` is deleted, which disturbs what is timed next",
                aside.display()
            ));
            fs::remove_dir_all(aside)?;
        }
        Ok(())
    }

    /// What it takes on disk.
    pub(super) fn disk_bytes(&self) -> Result<u64> {
        first_number(&output(
            command("du", &["--summarize", "--one-file-system", "--block-size=1"]).arg(self.current()),
        )?)
    }
}

fn free_bytes(directory: &Path) -> Result<u64> {
    let printed = output(command("df", &["--output=avail", "--block-size=1"]).arg(directory))?;
    first_number(printed.lines().nth(1).unwrap_or_default())
}

fn first_number(text: &str) -> Result<u64> {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse().with_context(|| format!("no number: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_state_is_moved_aside_and_kept() {
        let work = tempfile::tempdir().unwrap();
        let mut state = State::new(work.path(), "engine").unwrap();
        state.renew().unwrap();
        fs::write(state.path("file"), "x").unwrap();
        state.renew().unwrap();
        assert!(!state.path("file").exists());
        assert!(work.path().join("engine/aside0/file").exists());
    }

    #[test]
    fn sizes_are_read_from_the_first_word() {
        assert_eq!(first_number("4096\t/x").unwrap(), 4096);
        assert!(first_number("").is_err());
    }
}
