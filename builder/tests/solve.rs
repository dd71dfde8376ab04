//! The solver over scripted ops: hits, misses, merges, failures, cancellation. No processes, no images.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use builder::event::{EventLog, StepNumber};
use builder::host::Clock;
use builder::request::{Blame, BuildError, NoCache};
use builder::solve::flight::Flights;
use builder::solve::ledger::Ledger;
use builder::solve::{self, Inputs, Output, Solve, Work};
use builder::stack::{Layer, Stack};
use cache::store::{Options, Store};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use proto::definition::{
    CopyAction, CopySource, Definition, ExecOp, FileAction, FileOp, ImageOp, LocalOp, Network, Op, Security, Unpack,
    Vertex, VertexId,
};
use proto::digest::{DiffId, Digest};
use proto::platform::Platform;
use proto::record::Field;
use proto::v1::event::Kind;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// A Dockerfile in few words.
#[derive(Default)]
struct Graph(Definition);

impl Graph {
    fn push(&mut self, name: &str, op: Op) -> VertexId {
        let platform = Platform::new("linux", "amd64", "");
        self.0.push(Vertex {
            op,
            platform,
            name: name.to_owned(),
            lines: Some((1, 1)),
            stage: "s".to_owned(),
        })
    }

    fn image(&mut self) -> VertexId {
        let (manifest, diff_ids) = (Digest::of(b"m"), vec![DiffId(Digest::of(b"base"))]);
        self.push(
            "FROM base",
            Op::Image(ImageOp {
                reference: "base".to_owned(),
                manifest,
                diff_ids,
            }),
        )
    }

    fn context(&mut self) -> VertexId {
        self.push(
            "context",
            Op::Local(LocalOp {
                name: "context".to_owned(),
            }),
        )
    }

    fn run(&mut self, root: VertexId, command: &str) -> VertexId {
        let exec = ExecOp {
            root: Some(root),
            args: vec![command.to_owned()],
            env: Vec::new(),
            build_args: Vec::new(),
            proxy_env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            network: Network::Default,
            security: Security::Sandbox,
            devices: Vec::new(),
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            script: None,
            mounts: Vec::new(),
        };
        self.push(&format!("RUN {command}"), Op::Exec(Box::new(exec)))
    }

    fn copy(&mut self, root: VertexId, from: VertexId) -> VertexId {
        let copy = CopyAction {
            sources: vec![CopySource::Path {
                from,
                pattern: "f".to_owned(),
            }],
            dest: "/f".to_owned(),
            dest_is_dir: false,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Nothing,
        };
        self.push(
            "COPY f /f",
            Op::File(FileOp {
                root: Some(root),
                action: FileAction::Copy(copy),
            }),
        )
    }
}

/// Ops whose layers are their names and whose files are what the test says.
#[derive(Default)]
struct Script {
    definition: Definition,
    /// Content of the file that each vertex offers.
    files: Mutex<BTreeMap<VertexId, String>>,
    ran: Mutex<Vec<String>>,
    fails: Option<VertexId>,
    /// Steps wait here until the test lets them go.
    gate: Option<Arc<Notify>>,
    bytes_are_gone: AtomicBool,
    /// Part of what steps make, and of no key.
    salt: &'static str,
}

impl Work for Script {
    fn source(&self, id: VertexId) -> Stack {
        match &self.definition.vertex(id).op {
            Op::Image(image) => Stack::new(
                image
                    .diff_ids
                    .iter()
                    .map(|id| Layer::built(*id, 0, Vec::new()))
                    .collect(),
            ),
            _ => Stack::default(),
        }
    }

    fn content<'a>(&'a self, id: VertexId, _inputs: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>> {
        async move {
            let Op::File(FileOp {
                action: FileAction::Copy(copy),
                ..
            }) = &self.definition.vertex(id).op
            else {
                return Ok(Vec::new());
            };
            let CopySource::Path { from, .. } = &copy.sources[0] else {
                return Ok(Vec::new());
            };
            let value = self.files.lock().unwrap().get(from).cloned().unwrap_or_default();
            Ok(vec![Field {
                name: "file 0 f".to_owned(),
                value: value.into_bytes(),
            }])
        }
        .boxed()
    }

    fn run<'a>(
        &'a self,
        id: VertexId,
        inputs: &'a Inputs,
        _step: StepNumber,
    ) -> BoxFuture<'a, Result<Layer, BuildError>> {
        async move {
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            let name = self.definition.vertex(id).name.clone();
            self.ran.lock().unwrap().push(name.clone());
            if self.fails == Some(id) {
                return Err(BuildError::user("no"));
            }
            let content = self.content(id, inputs).await?;
            let layer = format!("{name} {content:?}{}", self.salt);
            Ok(Layer::built(DiffId(Digest::of(layer.as_bytes())), 0, Vec::new()))
        }
        .boxed()
    }

    fn is_present(&self, _stack: &Stack) -> bool {
        !self.bytes_are_gone.load(Ordering::Relaxed)
    }
}

/// A store and what several builds on it share.
struct Bench {
    store: Arc<Store>,
    flights: Flights,
    _root: tempfile::TempDir,
}

struct Built {
    result: Result<BTreeMap<VertexId, Output>, BuildError>,
    events: Arc<EventLog>,
    script: Arc<Script>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = Options::new(Arc::new(|| 1));
        let store = Arc::new(Store::open(&root.path().join("store"), &options).unwrap());
        Self {
            store,
            flights: Flights::default(),
            _root: root,
        }
    }

    fn solve(&self, script: &Arc<Script>, no_cache: NoCache) -> Solve {
        Solve {
            definition: Arc::new(script.definition.clone()),
            work: Arc::clone(script) as Arc<dyn Work>,
            store: Arc::clone(&self.store),
            lease: Arc::new(self.store.lease()),
            flights: self.flights.clone(),
            slots: Arc::new(Semaphore::new(8)),
            events: EventLog::new("b".to_owned(), Clock::fixed(1)),
            cancel: CancellationToken::new(),
            clock: Clock::fixed(1),
            no_cache,
            ledger: Arc::new(Ledger::new(&["p".to_owned()])),
        }
    }

    async fn build(&self, script: Script, target: VertexId) -> Built {
        self.build_with(script, target, NoCache::Off).await
    }

    async fn build_with(&self, script: Script, target: VertexId, no_cache: NoCache) -> Built {
        let script = Arc::new(script);
        let solve = self.solve(&script, no_cache);
        let result = solve::run(&solve, &[target]).await;
        solve.ledger.remember(&self.store, &solve.definition).unwrap();
        Built {
            result,
            events: solve.events,
            script,
        }
    }
}

impl Built {
    fn ran(&self) -> Vec<String> {
        self.script.ran.lock().unwrap().clone()
    }

    /// The reason each step gave that ran.
    async fn reasons(&self) -> Vec<String> {
        self.events
            .publish(Kind::Finished(proto::v1::Finished { outcome: None }));
        let finished = self.events.read_from(0).filter_map(|event| async move {
            match event.kind {
                Some(Kind::StepFinished(finished)) if !finished.reason.is_empty() => Some(finished.reason),
                _ => None,
            }
        });
        finished.collect().await
    }
}

fn script(graph: &Graph, files: &[(VertexId, &str)]) -> Script {
    let files = files.iter().map(|(id, content)| (*id, (*content).to_owned())).collect();
    Script {
        definition: graph.0.clone(),
        files: Mutex::new(files),
        ..Script::default()
    }
}

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
