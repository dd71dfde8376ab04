//! Why steps ran.

use builder::request::NoCache;
use proto::definition::VertexId;

use crate::bench::{Bench, Graph, Script, script};

/// `FROM base` and these commands.
fn commands(commands: &[&str]) -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let base = graph.image();
    let target = commands.iter().fold(base, |below, command| graph.run(below, command));
    (graph, target)
}

#[tokio::test]
async fn a_step_that_is_put_in_makes_no_other_step_a_changed_one() {
    let bench = Bench::new();
    let (graph, target) = commands(&["one", "two", "three"]);
    bench.build(script(&graph, &[]), target).await.result.unwrap();
    let (graph, target) = commands(&["one", "new", "two", "3"]);
    assert_eq!(
        bench.build(script(&graph, &[]), target).await.reasons().await,
        [
            "never built before",
            "an earlier step ran: RUN new",
            "instruction changed: `RUN three` → `RUN 3`"
        ]
    );
}

#[tokio::test]
async fn steps_that_a_failed_build_did_not_reach_are_compared_with_the_build_before() {
    let bench = Bench::new();
    let (graph, target) = commands(&["one", "two"]);
    bench.build(script(&graph, &[]), target).await.result.unwrap();
    let (graph, target) = commands(&["1", "2"]);
    let failing = Script {
        fails: Some(VertexId(1)),
        ..script(&graph, &[])
    };
    bench.build(failing, target).await.result.unwrap_err();
    let again = bench.build(script(&graph, &[]), target).await;
    assert_eq!(
        again.reasons().await,
        [
            "instruction changed: `RUN one` → `RUN 1`",
            "instruction changed: `RUN two` → `RUN 2`"
        ]
    );
}

#[tokio::test]
async fn the_last_build_counts_even_where_nothing_ran() {
    let bench = Bench::new();
    for (command, expected) in [
        ("a", vec!["never built before"]),
        ("b", vec!["instruction changed: `RUN a` → `RUN b`"]),
        ("a", vec![]),
        ("c", vec!["instruction changed: `RUN a` → `RUN c`"]),
    ] {
        let (graph, target) = commands(&[command]);
        let built = bench.build(script(&graph, &[]), target).await;
        assert_eq!(built.reasons().await, expected);
    }
}

#[tokio::test]
async fn a_step_on_another_result_below_was_not_collected() {
    let bench = Bench::new();
    let (graph, target) = commands(&["one", "two"]);
    bench.build(script(&graph, &[]), target).await.result.unwrap();
    let another = Script {
        salt: "again",
        ..script(&graph, &[])
    };
    let first = VertexId(1);
    bench.build_with(another, first, NoCache::All).await.result.unwrap();
    assert_eq!(
        bench.build(script(&graph, &[]), target).await.reasons().await,
        ["an earlier step has another result: RUN one"]
    );
}
