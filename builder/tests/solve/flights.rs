//! Equal work of builds at the same time: once, as long as one of them wants it, and its failures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use builder::event::StepNumber;
use builder::request::{Blame, BuildError, NoCache};
use builder::solve::{self, Output, Solve};
use futures_util::StreamExt;
use futures_util::future::join_all;
use proto::definition::VertexId;
use proto::v1::Finished;
use proto::v1::event::Kind;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::bench::{Bench, Graph, Script, script};

type Ended = Result<BTreeMap<VertexId, Output>, BuildError>;

/// A build that waits in its step until it is let go.
struct Gated {
    script: Arc<Script>,
    solve: Solve,
    running: JoinHandle<Ended>,
}

impl Gated {
    async fn ended(self) -> Ended {
        self.running.await.unwrap()
    }

    fn ran(&self) -> usize {
        self.script.ran.lock().unwrap().len()
    }
}

/// Everything that can go on without time or the test has gone on.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Builds of one step on one store, the first of which has started it.
struct Field {
    bench: Bench,
    graph: Graph,
    target: VertexId,
    gate: Arc<Notify>,
    fails: bool,
}

impl Field {
    fn new(fails: bool) -> Self {
        let mut graph = Graph::default();
        let base = graph.image();
        let target = graph.run(base, "slow");
        Self {
            bench: Bench::new(),
            graph,
            target,
            gate: Arc::new(Notify::new()),
            fails,
        }
    }

    async fn start(&self) -> Gated {
        self.start_with(NoCache::Off).await
    }

    async fn start_with(&self, no_cache: NoCache) -> Gated {
        let script = Arc::new(Script {
            gate: Some(Arc::clone(&self.gate)),
            fails: self.fails.then_some(self.target),
            ..script(&self.graph, &[])
        });
        let solve = self.bench.solve(&script, no_cache);
        let (build, target) = (solve.clone(), self.target);
        let running = tokio::spawn(async move { solve::run(&build, &[target]).await });
        settle().await;
        Gated { script, solve, running }
    }
}

/// What a build that has ended was told.
async fn told(solve: &Solve) -> Vec<String> {
    solve.events.publish(Kind::Finished(Finished { outcome: None }));
    let events: Vec<_> = solve.events.read_from(0).collect().await;
    let line = |kind| match kind {
        Kind::StepStarted(started) => Some(format!("{} {}", started.step, started.name)),
        Kind::StepLog(log) => Some(format!(
            "{} {}",
            log.step,
            String::from_utf8(log.data).unwrap().trim_end()
        )),
        Kind::StepFinished(finished) => Some(format!("{} {}", finished.step, finished.status().as_str_name())),
        _ => None,
    };
    events
        .into_iter()
        .filter_map(|event| event.kind)
        .filter_map(line)
        .filter(|line| !line.starts_with("1 "))
        .collect()
}

#[tokio::test]
async fn who_waits_for_the_step_of_another_build_sees_what_it_prints() {
    let field = Field::new(false);
    let (first, second) = (field.start().await, field.start().await);
    assert_eq!(second.solve.events.log_tail(StepNumber(2), 9), ["RUN slow prints"]);
    first.solve.cancel.cancel();
    assert!(first.ended().await.is_err());
    let third = field.start().await;
    field.gate.notify_one();
    for build in [second, third] {
        let solve = build.solve.clone();
        assert_eq!(build.ran(), 0);
        build.ended().await.unwrap();
        assert_eq!(told(&solve).await, ["2 RUN slow", "2 RUN slow prints", "2 CACHED"]);
    }
}

#[tokio::test]
async fn who_has_to_run_a_step_again_sees_its_own_run_only() {
    let field = Field::new(false);
    let first = field.start().await;
    let second = field.start_with(NoCache::All).await;
    assert_eq!(second.solve.events.log_tail(StepNumber(2), 9), [""; 0]);
    field.gate.notify_one();
    first.ended().await.unwrap();
    settle().await;
    field.gate.notify_one();
    let solve = second.solve.clone();
    second.ended().await.unwrap();
    assert_eq!(told(&solve).await, ["2 RUN slow", "2 DONE"]);
}

#[tokio::test]
async fn eight_builds_of_one_dockerfile_run_each_step_once() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let (base, context) = (graph.image(), graph.context());
    let one = graph.run(base, "one");
    let copied = graph.copy(one, context);
    let target = graph.run(copied, "two");
    let scripts: Vec<_> = (0..8).map(|_| Arc::new(script(&graph, &[(context, "1")]))).collect();
    let solves: Vec<_> = scripts.iter().map(|script| bench.solve(script, NoCache::Off)).collect();
    let targets = [target];
    let ended = join_all(solves.iter().map(|solve| solve::run(solve, &targets))).await;
    let mut ran: Vec<String> = scripts
        .iter()
        .flat_map(|script| script.ran.lock().unwrap().clone())
        .collect();
    ran.sort();
    assert_eq!(ran, ["COPY f /f", "RUN one", "RUN two"]);
    let stacks: Vec<_> = ended
        .into_iter()
        .map(|ended| ended.unwrap()[&target].stack.clone())
        .collect();
    assert!(stacks.iter().all(|stack| *stack == stacks[0]));
}

#[tokio::test]
async fn work_goes_on_for_others_when_the_build_that_started_it_is_canceled() {
    let field = Field::new(false);
    let (first, second) = (field.start().await, field.start().await);
    first.solve.cancel.cancel();
    let script = Arc::clone(&first.script);
    assert_eq!(first.ended().await.unwrap_err().blame, Blame::Canceled);
    assert!(!script.canceled.load(Ordering::Relaxed));
    field.gate.notify_one();
    assert_eq!(second.ran(), 0);
    second.ended().await.unwrap();
    assert_eq!(script.ran.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn work_that_nobody_wants_any_more_ends_before_the_last_build_does() {
    let field = Field::new(false);
    let (first, second) = (field.start().await, field.start().await);
    let script = Arc::clone(&first.script);
    for build in [first, second] {
        assert!(!script.canceled.load(Ordering::Relaxed));
        build.solve.cancel.cancel();
        assert_eq!(build.ended().await.unwrap_err().blame, Blame::Canceled);
    }
    assert!(script.canceled.load(Ordering::Relaxed));
    let third = field.start().await;
    assert_eq!(third.ran(), 1, "what was canceled does not stand in the way");
    field.gate.notify_one();
    third.ended().await.unwrap();
}

#[tokio::test]
async fn a_failure_is_one_of_all_who_waited() {
    let field = Field::new(true);
    let builds = [field.start().await, field.start().await, field.start().await];
    assert_eq!(builds.iter().map(Gated::ran).sum::<usize>(), 1);
    field.gate.notify_one();
    for build in builds {
        let script = Arc::clone(&build.script);
        let error = build.ended().await.unwrap_err();
        assert_eq!((error.blame, error.message.as_str()), (Blame::User, "no"));
        assert_eq!(error.step.unwrap().name, "RUN slow");
        assert!(script.ran.lock().unwrap().len() <= 1);
    }
    let later = field.start().await;
    assert_eq!(later.ran(), 1, "who comes later tries again");
    field.gate.notify_one();
    assert!(later.ended().await.is_err());
}

#[tokio::test]
async fn a_failure_without_the_build_that_started_is_nobodys() {
    let field = Field::new(true);
    let (first, second) = (field.start().await, field.start().await);
    first.solve.cancel.cancel();
    assert!(first.ended().await.is_err());
    field.gate.notify_one();
    settle().await;
    assert_eq!(second.ran(), 1, "it finds out by itself");
    field.gate.notify_one();
    assert_eq!(second.ended().await.unwrap_err().message, "no");
}
