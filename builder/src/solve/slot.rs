//! The right to run one step beside others.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::poll;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A permit of a step, which a step that waits for another one can lend to others. It is free when all clones are dropped.
#[derive(Debug, Clone, Default)]
pub struct Slot(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    slots: Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    /// Waits for one of `slots`; nothing if they are closed.
    pub async fn wait(slots: &Arc<Semaphore>) -> Option<Self> {
        let permit = Arc::clone(slots).acquire_owned().await.ok()?;
        Some(Self(Some(Arc::new(Held {
            slots: Arc::clone(slots),
            permit: Mutex::new(Some(permit)),
        }))))
    }

    /// Waits for `done`. If that is not done at once, others may have the slot meanwhile, and it is waited for again afterwards.
    pub async fn lend<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        if let std::task::Poll::Ready(done) = poll!(&mut done) {
            return done;
        }
        let Some(held) = &self.0 else {
            return done.await;
        };
        drop(held.permit().take());
        let done = done.await;
        // Slots that are closed belong to a server that ends: whoever holds one then is stopped by other means.
        let again = Arc::clone(&held.slots).acquire_owned().await.ok();
        *held.permit() = again;
        done
    }
}

impl Held {
    fn permit(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_is_lent_only_while_its_step_waits() {
        let slots = Arc::new(Semaphore::new(1));
        let slot = Slot::wait(&slots).await.unwrap();
        assert_eq!(slot.lend(async { slots.available_permits() }).await, 0, "done at once");
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let other = async {
            let other = Slot::wait(&slots).await.unwrap();
            sender.send(()).unwrap();
            tokio::task::yield_now().await;
            drop(other);
        };
        let (received, ()) = tokio::join!(slot.lend(receiver), other);
        received.unwrap();
        assert_eq!(slots.available_permits(), 0, "it is held again");
        drop(slot);
        assert_eq!(slots.available_permits(), 1);
    }
}
