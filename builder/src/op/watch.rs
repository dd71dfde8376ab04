//! Limits that no kernel keeps for us: the time of a step, and the disk space that it takes.
//!
//! A file system that counts for us (a project quota) is rare and needs a mount option, so the upper directory is looked through
//! now and then. The first look comes late enough that small steps never meet one, and looks take a small part of the time at
//! most. What is between two looks is not lost: the size of the layer is compared with the limit in the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::layer::used;
use crate::limits::Limits;

/// Time between two looks, at least.
const PERIOD: Duration = Duration::from_millis(250);
/// Looks take at most this part of the time.
const SHARE: u32 = 20;

/// What ended a step before it ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// It took this long.
    Time(Duration),
    /// It wrote more than this many bytes.
    Disk(u64),
}

/// Waits until the step has `ended` or came to a limit; then it ends the step by `cancel` and says which.
pub(super) async fn watch(
    limits: &Limits,
    upper: &Path,
    cancel: &CancellationToken,
    ended: &CancellationToken,
) -> Option<Exceeded> {
    let exceeded = tokio::select! {
        () = ended.cancelled() => return None,
        exceeded = time(limits.time) => exceeded,
        exceeded = disk(limits.disk_bytes, upper) => exceeded,
    };
    cancel.cancel();
    Some(exceeded)
}

async fn time(limit: Option<Duration>) -> Exceeded {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            Exceeded::Time(limit)
        }
        None => std::future::pending().await,
    }
}

async fn disk(limit: Option<u64>, upper: &Path) -> Exceeded {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut pause = PERIOD;
    loop {
        tokio::time::sleep(pause).await;
        let (upper, began): (PathBuf, Instant) = (upper.to_owned(), Instant::now());
        // Only a panic is an error, and the next look tells the same.
        let bytes = blocking::run(move || Ok(used::disk_bytes_below(&upper)))
            .await
            .unwrap_or(0);
        if bytes > limit {
            return Exceeded::Disk(limit);
        }
        pause = PERIOD.max(began.elapsed() * SHARE);
    }
}
