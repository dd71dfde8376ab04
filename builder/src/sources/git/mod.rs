//! Files of a git repository: a name becomes a commit, the commit comes into the mirror of the remote, its files into a layer.
//!
//! Everything that speaks git's protocols or writes its formats is the program `git` ([`program`]): the repository is hostile,
//! and that program is hardened against it. It sees no configuration, no home directory and no environment of this machine.

mod checkout;
mod mirror;
mod program;
mod remote;
mod ssh;
mod submodules;

use proto::definition::GitOp;
use proto::record::LayerInfo;

use super::{Made, Pinned, Source, known};
use crate::build::Job;
use crate::request::BuildError;
use mirror::Repository;
use program::Git;

pub use program::probe;
pub(super) use remote::basic;

/// Pins `op` to a commit and finds or makes its layer.
pub(super) async fn make(op: &GitOp, job: &Job) -> Result<Pinned, BuildError> {
    remote::refuse(&op.remote.address)?;
    let git = Git::find()?;
    let repository = Repository::open(&git, &op.remote, None, job).await?;
    let commit = repository.pin().await?;
    let pinned = GitOp {
        pin: Some(commit.clone()),
        ..op.clone()
    };
    let source = Source::Git(pinned.clone());
    if let Some(layer) = known(&source, job) {
        let modified = checkout::time_of(&repository, &pinned, layer.diff_id, job).await?;
        return Ok((source, Made::Known(layer), modified));
    }
    let (layer, modified) = checkout::layer(&repository, &pinned, job).await?;
    Ok((source, Made::New(layer), Some(modified)))
}

/// Makes the layer of a pinned `op` once more.
pub(super) async fn anew(op: &GitOp, job: &Job) -> Result<LayerInfo, BuildError> {
    let git = Git::find()?;
    let repository = Repository::open(&git, &op.remote, None, job).await?;
    Ok(checkout::layer(&repository, op, job).await?.0)
}
