//! A step as a task of its own: whoever waits for it may go away, and it still sees to its end.

use std::future::Future;
use std::io;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ExecError, ExitReport};

/// Runs a step among `tasks` and waits for it. It is cancelled by `cancel`, and when nobody waits any more.
pub(super) async fn run<F>(
    tasks: &TaskTracker,
    cancel: &CancellationToken,
    step: impl FnOnce(CancellationToken) -> F,
) -> Result<ExitReport, ExecError>
where
    F: Future<Output = Result<ExitReport, ExecError>> + Send + 'static,
{
    let cancel = cancel.child_token();
    let _cancel_on_drop = cancel.clone().drop_guard();
    let ended = |error| ExecError::Start {
        action: "run its task",
        source: io::Error::other(error),
    };
    tasks.spawn(step(cancel)).await.map_err(ended)?
}
