//! Steps that make other files each time they run: one image holds files of one run.

use builder::request::NoCache;
use proto::definition::VertexId;

use crate::bench::{Bench, Graph, Script, script};

/// `FROM base AS a`, `RUN date`; `FROM base`, `COPY --from=a f`, `COPY --from=a g`, `RUN last`.
struct Dated {
    graph: Graph,
    stage: VertexId,
    f: VertexId,
    g: VertexId,
    target: VertexId,
}

fn dated() -> Dated {
    let mut graph = Graph::default();
    let base = graph.image();
    let stage = graph.run(base, "date");
    let f = graph.copy_of("f", base, stage);
    let g = graph.copy_of("g", f, stage);
    let target = graph.run(g, "last");
    Dated {
        graph,
        stage,
        f,
        g,
        target,
    }
}

const F: &str = "COPY f /f";
const G: &str = "COPY g /g";

#[tokio::test]
async fn files_of_a_stage_that_ran_again_are_copied_again() {
    let bench = Bench::new();
    let dated = dated();
    bench.build_at(1, &dated.graph, dated.target).await;
    let forced = Script {
        time: 2,
        ..script(&dated.graph, &[])
    };
    bench
        .build_with(forced, dated.stage, NoCache::All)
        .await
        .result
        .unwrap();
    let third = bench.build_at(3, &dated.graph, dated.target).await;
    assert_eq!(third.ran(), [F, G, "RUN last"]);
    assert!(third.holds(dated.f, F, 2) && third.holds(dated.g, G, 2));
    let fourth = bench.build_at(4, &dated.graph, dated.target).await;
    assert!(fourth.ran().is_empty(), "{:?}", fourth.ran());
    assert!(fourth.holds(dated.f, F, 2));
}

#[tokio::test]
async fn a_stage_that_is_collected_and_not_needed_stays_away() {
    let bench = Bench::new();
    let dated = dated();
    let first = bench.build_at(1, &dated.graph, dated.target).await;
    bench.evict(&first, dated.stage);
    let second = bench.build_at(2, &dated.graph, dated.target).await;
    assert!(second.ran().is_empty(), "{:?}", second.ran());
    assert!(second.holds(dated.f, F, 1));
}

#[tokio::test]
async fn copies_of_a_stage_that_must_run_for_another_one_are_made_again() {
    let bench = Bench::new();
    let dated = dated();
    let first = bench.build_at(1, &dated.graph, dated.target).await;
    bench.evict(&first, dated.stage);
    bench.evict(&first, dated.g);
    let second = bench.build_at(2, &dated.graph, dated.target).await;
    assert_eq!(second.ran(), ["RUN date", F, G, "RUN last"]);
    assert!(second.holds(dated.f, F, 2) && second.holds(dated.g, G, 2));
    assert!(bench.build_at(3, &dated.graph, dated.target).await.ran().is_empty());
}

#[tokio::test]
async fn copies_of_two_runs_of_one_stage_never_meet() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let base = graph.image();
    let stage = graph.run(base, "date");
    let f = graph.copy_of("f", base, stage);
    let g = graph.copy_of("g", base, stage);
    let first = bench.build_at(1, &graph, f).await;
    bench.evict(&first, stage);
    let second = bench.build_at(2, &graph, g).await;
    bench.evict(&second, stage);
    let both = graph.copy_of("both", f, g);
    let third = bench.build_at(3, &graph, both).await;
    let ran = third.ran();
    assert_eq!(
        (ran.len(), ran[0].as_str(), ran[3].as_str()),
        (4, "RUN date", "COPY both /both"),
        "{ran:?}"
    );
    assert!(third.holds(f, F, 3) && third.holds(g, G, 3));
}

#[tokio::test]
async fn a_run_of_a_build_that_failed_afterwards_counts() {
    let bench = Bench::new();
    let mut dated = dated();
    let first = bench.build_at(1, &dated.graph, dated.target).await;
    bench.evict(&first, dated.stage);
    let fails = dated.graph.run(dated.stage, "fails");
    let failing = Script {
        time: 2,
        fails: Some(fails),
        ..script(&dated.graph, &[])
    };
    assert!(bench.build(failing, fails).await.result.is_err());
    let third = bench.build_at(3, &dated.graph, dated.target).await;
    assert_eq!(third.ran(), [F, G, "RUN last"]);
    assert!(third.holds(dated.f, F, 2) && third.holds(dated.g, G, 2));
}

#[tokio::test]
async fn mounted_files_of_a_stage_that_ran_again_are_mounted_again() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let base = graph.image();
    let stage = graph.run(base, "date");
    let target = graph.mount(base, stage);
    bench.build_at(1, &graph, target).await;
    let forced = Script {
        time: 2,
        ..script(&graph, &[])
    };
    bench.build_with(forced, stage, NoCache::All).await.result.unwrap();
    let third = bench.build_at(3, &graph, target).await;
    assert_eq!(third.ran(), ["RUN mount"]);
    assert!(third.holds(target, "RUN mount", 2));
}

#[tokio::test]
async fn a_stage_on_top_of_one_that_ran_again_does_not_stand_in_for_it() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let base = graph.image();
    let lower = graph.run(base, "date");
    let upper = graph.run(lower, "more");
    let f = graph.copy_of("f", base, upper);
    let g = graph.copy_of("g", f, lower);
    let first = bench.build_at(1, &graph, g).await;
    bench.evict(&first, upper);
    let forced = Script {
        time: 2,
        ..script(&graph, &[])
    };
    bench.build_with(forced, lower, NoCache::All).await.result.unwrap();
    let third = bench.build_at(3, &graph, g).await;
    assert_eq!(
        third.ran(),
        ["RUN more", F, G],
        "f came from a stage on the first `date`"
    );
    assert!(third.holds(g, G, 2));
}

#[tokio::test]
async fn one_step_in_two_stages_is_one_result() {
    let bench = Bench::new();
    let mut graph = Graph::default();
    let base = graph.image();
    let stages = [graph.run(base, "date"), graph.run(base, "date")];
    let f = graph.copy_of("f", base, stages[0]);
    let g = graph.copy_of("g", f, stages[1]);
    let forced = script(&graph, &[]);
    let built = bench.build_with(forced, g, NoCache::All).await;
    assert_eq!(built.ran(), ["RUN date", F, G]);
    let outputs = built.result.as_ref().unwrap();
    assert_eq!(outputs[&stages[0]].stack, outputs[&stages[1]].stack);
}
