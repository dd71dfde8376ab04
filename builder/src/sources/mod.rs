//! Remote sources: files behind URLs, and git repositories; fetched before the first step runs, each into a layer of its own.
//!
//! ```text
//! fetch ── known ─────────────► record of an earlier build: nothing is read
//!       ├─ http ── download ──► file ──► layer of one file, or of what an archive holds
//!       └─ git ─── commit ────► mirror ── checkout ──► layer
//! ```
//!
//! The layer is kept under a key of what was fetched, never of where from (`solve::source_key`). From then on a remote source
//! is a stack of layers like an image; if its bytes vanish from the store, they are fetched [`again`].

pub mod contexts;
pub mod git;
mod http;

use std::sync::Arc;

use cache::addresses::Reach;
use cache::download::{DownloadError, Downloader};
use cache::lease::Held;
use cache::records::{Inserted, RecordStore};
use proto::address::redacted;
use proto::canonical;
use proto::definition::{GitOp, HttpOp, Op};
use proto::oci::Descriptor;
use proto::record::{CacheRecord, LayerInfo, Preimage};

use crate::build::Job;
use crate::event::StepNumber;
use crate::layers::store_failed;
use crate::request::{Blame, BuildError};
use crate::solve::source_key;
use crate::stack::{Layer, Origin, Stack};

/// What fetches; shared by all builds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sources {
    downloader: Downloader,
}

impl Sources {
    /// Fetches with `downloader`, and with the `git` of this machine.
    #[must_use]
    pub const fn new(downloader: Downloader) -> Self {
        Self { downloader }
    }
}

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The file behind a URL.
    File(HttpOp),
    /// What an archive behind a URL holds; the file itself if it is no archive.
    Archive(HttpOp),
    /// Files of a git repository.
    Git(GitOp),
}

/// What was fetched, now or earlier.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The source, pinned. An archive that is none has become a file.
    pub source: Source,
    /// Its files.
    pub stack: Stack,
    /// Time of the commit, or what the server said; seconds since 1970.
    pub modified: Option<i64>,
}

impl Source {
    /// The address without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::File(op) | Self::Archive(op) => redacted(&op.url),
            Self::Git(op) => redacted(&op.remote.address),
        }
    }

    /// The address as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::File(op) | Self::Archive(op) => &op.url,
            Self::Git(op) => &op.remote.address,
        }
    }

    /// The op of a definition; nothing for other ops.
    #[must_use]
    pub fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Http(http) => Some(Self::File(http.clone())),
            Op::Git(git) => Some(Self::Git(git.clone())),
            _ => None,
        }
    }

    /// The op with what is known now.
    #[must_use]
    pub fn into_op(self) -> Op {
        match self {
            Self::File(op) | Self::Archive(op) => Op::Http(op),
            Self::Git(op) => Op::Git(op),
        }
    }

    fn preimage(&self) -> Preimage {
        match self {
            Self::File(op) => source_key::http(op),
            Self::Archive(op) => source_key::http_archive(op),
            Self::Git(op) => source_key::git(op),
        }
    }
}

/// Fetches `source`, or finds what an earlier build fetched and the remote still has.
///
/// # Errors
/// Remotes that fail or have something else than the checksum says; a full disk; cancellation.
pub async fn fetch(source: &Source, job: &Job, step: StepNumber) -> Result<Fetched, BuildError> {
    let made = tokio::select! {
        () = job.cancel.cancelled() => return Err(BuildError::canceled()),
        made = make(source, job, step) => made?,
    };
    let (source, made, modified) = made;
    let layer = match made {
        Made::Known(layer) => layer,
        Made::New(layer) => keep(&source, layer, job)?,
    };
    let layer = Layer {
        info: layer,
        origin: Origin::Fetched(Arc::new(source.clone())),
    };
    Ok(Fetched {
        source,
        stack: Stack::new(vec![layer]),
        modified,
    })
}

/// Fetches a source whose layer `blob` has vanished from the store. The bytes must be the same.
///
/// # Errors
/// As [`fetch`]; a remote that has other bytes by now.
pub async fn again(source: &Source, blob: &Descriptor, job: &Job, step: StepNumber) -> Result<(), BuildError> {
    let made = tokio::select! {
        () = job.cancel.cancelled() => return Err(BuildError::canceled()),
        made = anew(source, job, step) => made?,
    };
    if made.diff_id.0 == blob.digest {
        return Ok(());
    }
    let what = source.shown();
    Err(BuildError::new(
        Blame::Remote,
        format!("`{what}` has other bytes than when this build began"),
    )
    .help("build again"))
}

/// A layer, found or made.
enum Made {
    Known(LayerInfo),
    New(LayerInfo),
}

/// A pinned source with its layer and its time.
type Pinned = (Source, Made, Option<i64>);

async fn make(source: &Source, job: &Job, step: StepNumber) -> Result<Pinned, BuildError> {
    match source {
        Source::File(_) | Source::Archive(_) => http::make(source, job, step).await,
        Source::Git(op) => git::make(op, job).await,
    }
}

async fn anew(source: &Source, job: &Job, step: StepNumber) -> Result<LayerInfo, BuildError> {
    match source {
        Source::File(_) | Source::Archive(_) => http::anew(source, job, step).await,
        Source::Git(op) => git::anew(op, job).await,
    }
}

/// The layer of a pinned source, if an earlier build fetched it. Its bytes may be gone; its tree is there.
fn known(source: &Source, job: &Job) -> Option<LayerInfo> {
    let key = canonical::key(&source.preimage());
    job.lease.hold(Held::Record(key));
    let record = job.host.store.records().lookup(&[key]).pop()??;
    let has_tree = job.host.store.trees().contains(record.layer.diff_id);
    has_tree.then_some(record.layer)
}

/// Writes the record of a layer that was just fetched. If another build was faster, its layer is taken.
fn keep(source: &Source, layer: LayerInfo, job: &Job) -> Result<LayerInfo, BuildError> {
    let preimage = source.preimage();
    let key = canonical::key(&preimage);
    job.lease.hold(Held::Record(key));
    let stack = Stack::new(vec![Layer::built(layer.diff_id, layer.size_bytes, layer.forms.clone())]);
    let record = CacheRecord {
        key,
        layer,
        chain: stack.chain().expect("a layer was added just above"),
        created_ms: job.host.clock.now_ms(),
        duration_ms: 0,
        step: format!("load {}", source.shown()),
    };
    let failed = |error: cache::durable::WriteError| store_failed(&error);
    let records = job.host.store.records();
    records.put_preimage(key, &preimage).map_err(failed)?;
    if let Inserted::Theirs(theirs) = records.insert(&record).map_err(failed)? {
        let theirs_stack = Stack::new(vec![Layer::built(
            theirs.layer.diff_id,
            theirs.layer.size_bytes,
            theirs.layer.forms.clone(),
        )]);
        let has_tree = job.host.store.trees().contains(theirs.layer.diff_id);
        if has_tree
            && theirs_stack
                .layers()
                .iter()
                .zip(theirs_stack.chains())
                .all(|(layer, chain)| job.host.layers.is_local(layer, *chain))
        {
            return Ok(theirs.layer);
        }
        records.remove(key).map_err(failed)?;
        records.insert(&record).map_err(failed)?;
    }
    Ok(record.layer)
}

/// A failed download in the words of a build.
/// What sources may lead to: a client of another user is not to ask what trusts the machine of the server.
fn reach(job: &Job) -> Reach {
    if job.session.is_same_user() {
        Reach::ThisMachine
    } else {
        Reach::Others
    }
}

fn download_failed(error: &DownloadError) -> BuildError {
    if let Some(no_room) = crate::room::no_room(error) {
        return no_room;
    }
    let blame = match error {
        DownloadError::Url { .. } | DownloadError::Forbidden { .. } => Blame::User,
        DownloadError::Sink(_) | DownloadError::Setup { .. } => Blame::Environment,
        _ => Blame::Remote,
    };
    let mut failure = BuildError::new(blame, error.to_string());
    failure
        .notes
        .extend(std::error::Error::source(error).map(ToString::to_string));
    match error {
        DownloadError::Status { status: 401 | 403, url } => {
            let host = proto::address::host(url).unwrap_or_default();
            failure.help(format!("lend a token with `--secret id=HTTP_AUTH_TOKEN_{host},env=…`"))
        }
        _ => failure,
    }
}
