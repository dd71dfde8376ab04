//! Equal work of concurrent builds runs once: the first one flies, the others wait for it to land and look again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::record::CacheKey;
use tokio::sync::watch;

/// Work in progress, by key. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Flights {
    flying: Arc<Mutex<HashMap<CacheKey, watch::Receiver<()>>>>,
}

/// What to do about a key.
#[derive(Debug)]
pub enum Boarding {
    /// Nobody works on it: do, and keep the flight until the record is written.
    Fly(Flight),
    /// Somebody does: wait, then look for the record again.
    Wait(Landing),
}

/// The right to work on a key. Dropping it wakes those who wait, whether the work succeeded or not.
#[derive(Debug)]
pub struct Flight {
    flights: Flights,
    key: CacheKey,
    /// Dropped with the flight: receivers see the channel close.
    _landing: watch::Sender<()>,
}

/// The end of somebody else's work.
#[derive(Debug)]
pub struct Landing(watch::Receiver<()>);

impl Flights {
    /// Asks for the right to work on `key`.
    #[must_use]
    pub fn board(&self, key: CacheKey) -> Boarding {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = flying.get(&key) {
            return Boarding::Wait(Landing(receiver.clone()));
        }
        let (sender, receiver) = watch::channel(());
        flying.insert(key, receiver);
        Boarding::Fly(Flight {
            flights: self.clone(),
            key,
            _landing: sender,
        })
    }
}

impl Landing {
    /// Returns when the work has ended, whichever way.
    pub async fn wait(mut self) {
        // An error says that the sender is gone, which is what we wait for.
        while self.0.changed().await.is_ok() {}
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights
            .flying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use proto::digest::ContentDigest;

    use super::*;

    #[tokio::test]
    async fn the_second_waits_until_the_first_is_done() {
        let flights = Flights::default();
        let key = CacheKey(ContentDigest::of(b"k"));
        let Boarding::Fly(flight) = flights.board(key) else {
            panic!("nobody flies yet")
        };
        let Boarding::Wait(landing) = flights.board(key) else {
            panic!("somebody flies")
        };
        let waiting = tokio::spawn(landing.wait());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(flight);
        waiting.await.unwrap();
        assert!(matches!(flights.board(key), Boarding::Fly(_)));
    }
}
