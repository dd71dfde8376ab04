//! The way from waiting code into code that blocks: files, hashing, compression.

use crate::request::BuildError;

/// Runs `work` on a thread that may block and waits for it.
///
/// # Errors
/// What `work` reports. A panic in it is a bug of ours and is reported as one.
pub(crate) async fn run<T, F>(work: F) -> Result<T, BuildError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, BuildError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(BuildError::bug(format!(
            "work on a thread ended in a way it must not: {error}"
        ))),
    }
}
