//! A queue that grows while several threads take from it, as a walk of directories does. What comes out does not tell who did what.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// So many waiting at once make further threads worth their start.
const WORTH_A_THREAD: usize = 4;

/// More threads than this wait for the file system and not for a processor.
const MAX_THREADS: usize = 16;

/// What a visit came to.
#[derive(Debug)]
pub(super) struct Visited<R, E> {
    pub(super) result: Result<R, E>,
    /// Where the visits are that this one led to, in its order.
    pub(super) below: Vec<usize>,
}

/// Visits `first` and everything that visits lead to; its own visit is the first of the answer. A visit that fails leads nowhere and
/// does not end the others. `S` is what a thread keeps from one visit to the next.
pub(super) fn visit_all<T: Send, S: Default, R: Send, E: Send>(
    first: T,
    visit: impl Fn(&T, &mut S) -> Result<(R, Vec<T>), E> + Sync,
) -> Vec<Visited<R, E>> {
    let queue = Queue {
        state: Mutex::new(State {
            waiting: vec![(0, first)],
            visited: vec![None],
            busy: 0,
        }),
        news: Condvar::new(),
    };
    let mut own = S::default();
    while queue.lock().waiting.len() < WORTH_A_THREAD && queue.step(&visit, &mut own) {}
    if !queue.lock().waiting.is_empty() {
        // Not knowing the number of processors costs only speed.
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| {
                    let mut own = S::default();
                    while queue.step(&visit, &mut own) {}
                });
            }
            while queue.step(&visit, &mut own) {}
        });
    }
    let state = queue.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let done = |visited: Option<_>| visited.expect("the queue is empty, and nobody was busy");
    state.visited.into_iter().map(done).collect()
}

struct Queue<T, R, E> {
    state: Mutex<State<T, R, E>>,
    /// Somebody is done: there may be more, or nothing any more.
    news: Condvar,
}

struct State<T, R, E> {
    /// What is to be visited, with its place in the answer.
    waiting: Vec<(usize, T)>,
    visited: Vec<Option<Visited<R, E>>>,
    /// Visits that may lead to more.
    busy: usize,
}

impl<T, R, E> Queue<T, R, E> {
    fn lock(&self) -> MutexGuard<'_, State<T, R, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one visit. False when none is left and none can come.
    fn step<S>(&self, visit: &impl Fn(&T, &mut S) -> Result<(R, Vec<T>), E>, own: &mut S) -> bool {
        let Some((place, next)) = self.take() else { return false };
        let guard = Busy(self);
        let outcome = visit(&next, own);
        let mut state = self.lock();
        let mut below = Vec::new();
        let result = outcome.map(|(result, found)| {
            for next in found {
                below.push(state.visited.len());
                let place = state.visited.len();
                state.visited.push(None);
                state.waiting.push((place, next));
            }
            result
        });
        state.visited[place] = Some(Visited { result, below });
        drop(state);
        drop(guard);
        true
    }

    fn take(&self) -> Option<(usize, T)> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.waiting.pop() {
                state.busy += 1;
                return Some(next);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A visit that goes on; also one that panics ends, so that nobody waits for it.
struct Busy<'a, T, R, E>(&'a Queue<T, R, E>);

impl<T, R, E> Drop for Busy<'_, T, R, E> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers lead to their tenfold and what is behind it, up to a limit; those with a 7 at the end fail.
    fn visit(number: &u32) -> Result<(u32, Vec<u32>), u32> {
        match number % 10 {
            7 => Err(*number),
            _ if *number > 2000 => Ok((*number, Vec::new())),
            _ => Ok((
                *number,
                (number * 10..number * 10 + 10).filter(|next| *next > 0).collect(),
            )),
        }
    }

    fn collect(visited: &[Visited<u32, u32>], at: usize, all: &mut Vec<Result<u32, u32>>) {
        all.push(visited[at].result);
        for below in &visited[at].below {
            collect(visited, *below, all);
        }
    }

    #[test]
    fn everything_is_visited_once_and_found_where_it_was_led_to() {
        let expected = |number: u32| -> Vec<Result<u32, u32>> {
            fn below(number: u32, all: &mut Vec<Result<u32, u32>>) {
                let outcome = visit(&number);
                all.push(outcome.as_ref().map(|(result, _)| *result).map_err(|error| *error));
                outcome
                    .into_iter()
                    .flat_map(|(_, next)| next)
                    .for_each(|next| below(next, all));
            }
            let mut all = Vec::new();
            below(number, &mut all);
            all
        };
        for first in [0, 7, 2001] {
            let visited = visit_all(first, |number, (): &mut ()| visit(number));
            let mut all = Vec::new();
            collect(&visited, 0, &mut all);
            assert_eq!(all, expected(first), "{first}");
            assert_eq!(all.len(), visited.len());
        }
    }
}
