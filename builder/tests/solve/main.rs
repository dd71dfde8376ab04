//! The solver over scripted ops: hits, misses, merges, failures, cancellation. No processes, no images.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

mod bench;
mod flights;
mod reasons;
mod runs;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use builder::request::{Blame, NoCache};
use builder::solve;
use proto::definition::VertexId;
use tokio::sync::Notify;

use bench::{Bench, Graph, Script, script};

/// `FROM base`, `RUN one`, `COPY f`, `RUN two`.
fn linear() -> (Graph, VertexId, VertexId) {
    let mut graph = Graph::default();
    let (base, context) = (graph.image(), graph.context());
    let one = graph.run(base, "one");
    let copied = graph.copy(one, context);
    let two = graph.run(copied, "two");
    (graph, context, two)
}

#[tokio::test]
async fn the_second_build_runs_nothing() {
    let bench = Bench::new();
    let (graph, context, target) = linear();
    let first = bench.build(script(&graph, &[(context, "1")]), target).await;
    assert_eq!(first.ran(), ["RUN one", "COPY f /f", "RUN two"]);
    assert_eq!(first.reasons().await, ["never built before"; 3]);
    let second = bench.build(script(&graph, &[(context, "1")]), target).await;
    assert!(second.ran().is_empty());
    let stacks = [first, second].map(|built| built.result.unwrap()[&target].stack.chain());
    assert_eq!(stacks[0], stacks[1]);
}

#[tokio::test]
async fn a_changed_file_runs_its_copy_and_what_follows() {
    let bench = Bench::new();
    let (graph, context, target) = linear();
    bench
        .build(script(&graph, &[(context, "1")]), target)
        .await
        .result
        .unwrap();
    let second = bench.build(script(&graph, &[(context, "2")]), target).await;
    assert_eq!(second.ran(), ["COPY f /f", "RUN two"]);
    assert_eq!(
        second.reasons().await,
        ["`f` changed", "an earlier step ran: COPY f /f"]
    );
}

#[tokio::test]
async fn equal_files_of_a_rebuilt_stage_stop_the_rebuilding() {
    let bench = Bench::new();
    let stages = |command: &str| {
        let mut graph = Graph::default();
        let base = graph.image();
        let stage = graph.run(base, command);
        let copied = graph.copy(base, stage);
        let target = graph.run(copied, "last");
        (graph, stage, target)
    };
    let (graph, stage, target) = stages("make");
    bench
        .build(script(&graph, &[(stage, "same")]), target)
        .await
        .result
        .unwrap();
    let (graph, stage, target) = stages("make all");
    let second = bench.build(script(&graph, &[(stage, "same")]), target).await;
    assert_eq!(second.ran(), ["RUN make all"]);
    let third = bench.build(script(&graph, &[(stage, "never looked at")]), target).await;
    assert!(third.ran().is_empty(), "the alias says what the files were");
}

#[tokio::test]
async fn no_cache_runs_everything_and_its_results_are_used_afterwards() {
    let bench = Bench::new();
    let (graph, context, target) = linear();
    bench
        .build(script(&graph, &[(context, "1")]), target)
        .await
        .result
        .unwrap();
    let forced = bench
        .build_with(script(&graph, &[(context, "1")]), target, NoCache::All)
        .await;
    assert_eq!(forced.ran().len(), 3);
    assert_eq!(forced.reasons().await, ["--no-cache"; 3]);
    assert!(
        bench
            .build(script(&graph, &[(context, "1")]), target)
            .await
            .ran()
            .is_empty()
    );
}

#[tokio::test]
async fn steps_whose_bytes_are_gone_run_again() {
    let bench = Bench::new();
    let (graph, context, target) = linear();
    bench
        .build(script(&graph, &[(context, "1")]), target)
        .await
        .result
        .unwrap();
    let gone = script(&graph, &[(context, "1")]);
    gone.bytes_are_gone.store(true, Ordering::Relaxed);
    assert_eq!(bench.build(gone, target).await.ran().len(), 3);
}

#[tokio::test]
async fn a_failure_names_its_step_and_stops_what_follows() {
    let bench = Bench::new();
    let (graph, context, target) = linear();
    let failing = Script {
        fails: Some(VertexId(2)),
        ..script(&graph, &[(context, "1")])
    };
    let built = bench.build(failing, target).await;
    assert_eq!(built.ran(), ["RUN one"]);
    let error = built.result.unwrap_err();
    assert_eq!(
        (error.blame, error.step.unwrap().name.as_str()),
        (Blame::User, "RUN one")
    );
}

#[tokio::test]
async fn equal_work_of_two_builds_runs_once() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let base = graph.image();
    let target = graph.run(base, "slow");
    let gate = Arc::new(Notify::new());
    let gated = || {
        Arc::new(Script {
            gate: Some(Arc::clone(&gate)),
            ..script(&graph, &[])
        })
    };
    let (first, second) = (gated(), gated());
    let solves = [bench.solve(&first, NoCache::Off), bench.solve(&second, NoCache::Off)];
    let release = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
    };
    let targets = [target];
    let (one, two, ()) = tokio::join!(
        solve::run(&solves[0], &targets),
        solve::run(&solves[1], &targets),
        release
    );
    assert_eq!(one.unwrap()[&target].stack, two.unwrap()[&target].stack);
    assert_eq!(first.ran.lock().unwrap().len() + second.ran.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_canceled_build_does_not_wait_for_others() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let base = graph.image();
    let target = graph.run(base, "slow");
    let gate = Arc::new(Notify::new());
    let holder = Arc::new(Script {
        gate: Some(Arc::clone(&gate)),
        ..script(&graph, &[])
    });
    let waiter = Arc::new(script(&graph, &[]));
    let (holds, waits) = (bench.solve(&holder, NoCache::Off), bench.solve(&waiter, NoCache::Off));
    let holding = tokio::spawn(async move { solve::run(&holds, &[target]).await });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    waits.cancel.cancel();
    assert_eq!(solve::run(&waits, &[target]).await.unwrap_err().blame, Blame::Canceled);
    gate.notify_one();
    holding.await.unwrap().unwrap();
}
