//! Equal work of concurrent builds runs once: one of them starts it, and it goes on as long as any of those aboard wants it.
//!
//! The work is a task of its own. A build that is canceled leaves; the last one who leaves cancels the work and waits until
//! nothing of it is left. Who boarded after a start looks for the record when the work has landed, or shares its failure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::record::CacheKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Output;
use super::transcript::Transcript;
use crate::request::BuildError;

/// Work in progress, by key. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Flights {
    flying: Arc<Mutex<HashMap<CacheKey, Arc<Plane>>>>,
}

/// One piece of work.
#[derive(Debug)]
struct Plane {
    /// Ends the work.
    cancel: CancellationToken,
    /// Nothing until it has landed.
    landing: watch::Sender<Landing>,
    /// What it says to all aboard.
    transcript: Transcript,
    aboard: Mutex<Aboard>,
}

/// Who is aboard.
#[derive(Debug)]
struct Aboard {
    count: usize,
    /// Whether that is true of the one who started.
    starter: bool,
}

/// How far the work is.
#[derive(Debug, Clone)]
enum Landing {
    Flying,
    Landed(Box<Landed>),
    /// Nobody did it after all.
    Cleared,
}

/// What became of the work.
#[derive(Debug, Clone)]
pub struct Landed {
    /// Its result, for the one who started it.
    pub result: Result<Output, BuildError>,
    /// Whether a failure says something to the others aboard too.
    pub for_all: bool,
}

/// What to do about a key.
#[derive(Debug)]
pub enum Boarding {
    /// Nobody works on it: depart, or drop this if there is nothing to do after all.
    Fly(Flight),
    /// Somebody does: wait, then look for the record again.
    Wait(Seat),
}

/// The right to work on a key. Dropping it says that there is nothing to do after all.
#[derive(Debug)]
pub struct Flight(Option<Seat>);

/// A place in somebody's work. Dropping it is leaving without waiting for the end.
#[derive(Debug)]
pub struct Seat {
    flights: Flights,
    key: CacheKey,
    plane: Arc<Plane>,
    is_starter: bool,
    has_left: bool,
}

impl Flights {
    /// Asks for the right to work on `key`.
    #[must_use]
    pub fn board(&self, key: CacheKey) -> Boarding {
        let mut flying = self.flying();
        let seat = |plane: &Arc<Plane>, is_starter| Seat {
            flights: self.clone(),
            key,
            plane: Arc::clone(plane),
            is_starter,
            has_left: false,
        };
        // What nobody wanted any more is on its way down: it is not waited for.
        if let Some(plane) = flying.get(&key).filter(|plane| !plane.cancel.is_cancelled()) {
            plane.aboard().count += 1;
            return Boarding::Wait(seat(plane, false));
        }
        let plane = Arc::new(Plane {
            cancel: CancellationToken::new(),
            landing: watch::Sender::new(Landing::Flying),
            transcript: Transcript::default(),
            aboard: Mutex::new(Aboard {
                count: 1,
                starter: true,
            }),
        });
        flying.insert(key, Arc::clone(&plane));
        Boarding::Fly(Flight(Some(seat(&plane, true))))
    }

    fn flying(&self) -> MutexGuard<'_, HashMap<CacheKey, Arc<Plane>>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nobody boards `plane`; those aboard are told how it ended.
    fn land(&self, key: CacheKey, plane: &Arc<Plane>, landing: Landing) {
        if let Entry::Occupied(there) = self.flying().entry(key)
            && Arc::ptr_eq(there.get(), plane)
        {
            there.remove();
        }
        plane.landing.send_replace(landing);
    }
}

impl Plane {
    fn aboard(&self) -> MutexGuard<'_, Aboard> {
        self.aboard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Starts the work in a task, which is told by the token when nobody wants it any more. If it is `for_all`, it says to everybody
    /// aboard what it prints, and a failure is that of everybody, unless the one who started has left.
    #[must_use]
    pub fn depart<F>(mut self, for_all: bool, work: impl FnOnce(CancellationToken, Option<Transcript>) -> F) -> Seat
    where
        F: Future<Output = Result<Output, BuildError>> + Send + 'static,
    {
        let seat = self.0.take().expect("only this takes it, and consumes the flight");
        let (flights, key, plane) = (seat.flights.clone(), seat.key, Arc::clone(&seat.plane));
        let work = work(plane.cancel.clone(), for_all.then(|| plane.transcript.clone()));
        // Waited for by the last one aboard.
        tokio::spawn(async move {
            // A task of its own again, so that a panic in the work is a landing too.
            let ended = tokio::spawn(work).await;
            let result = ended
                .unwrap_or_else(|error| Err(BuildError::bug(format!("a step ended in a way it must not: {error}"))));
            let for_all = for_all && plane.aboard().starter;
            let landed = Landed { result, for_all };
            flights.land(key, &plane, Landing::Landed(Box::new(landed)));
        });
        seat
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(seat) = &self.0 {
            seat.flights.land(seat.key, &seat.plane, Landing::Cleared);
        }
    }
}

impl Seat {
    /// What the work says to all aboard.
    #[must_use]
    pub fn transcript(&self) -> Transcript {
        self.plane.transcript.clone()
    }

    /// Returns when the work has ended, with what became of it; nothing if nobody did it.
    pub async fn landed(&self) -> Option<Landed> {
        let mut landing = self.plane.landing.subscribe();
        let ended = landing.wait_for(|landing| !matches!(landing, Landing::Flying)).await;
        match ended.as_deref() {
            Ok(Landing::Landed(landed)) => Some((**landed).clone()),
            // The sender lives in the plane that we hold, so waiting cannot fail.
            Ok(Landing::Cleared | Landing::Flying) | Err(_) => None,
        }
    }

    /// Leaves. If nobody else wants the work, it is canceled, and this returns when nothing of it is left.
    pub async fn leave(mut self) {
        if self.get_up() {
            self.landed().await;
        }
    }

    /// Whether that was the last one aboard.
    fn get_up(&mut self) -> bool {
        // Under the lock of boarding, so that nobody boards what is being canceled.
        let nobody_boards = self.flights.flying();
        let mut aboard = self.plane.aboard();
        if !self.has_left {
            aboard.count -= 1;
            aboard.starter &= !self.is_starter;
        }
        let last = aboard.count == 0;
        if last {
            self.plane.cancel.cancel();
        }
        drop(aboard);
        drop(nobody_boards);
        self.has_left = true;
        last
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.get_up();
    }
}
