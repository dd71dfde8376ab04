//! Scripted ops, a store, and builds over them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use builder::event::EventLog;
use builder::host::Clock;
use builder::request::{BuildError, NoCache};
use builder::solve::flight::Flights;
use builder::solve::ledger::Ledger;
use builder::solve::{self, Inputs, Output, Results, Run, Solve, Work};
use builder::stack::{Layer, Stack};
use cache::records::RecordStore;
use cache::store::{Options, Store};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use proto::definition::{
    CopyAction, CopySource, Definition, ExecOp, FileAction, FileOp, ImageOp, LocalOp, Mount, MountKind, Network, Op,
    Security, Unpack, Vertex, VertexId,
};
use proto::digest::{ChainId, DiffId, Digest};
use proto::platform::Platform;
use proto::record::Field;
use proto::v1::event::Kind;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// A Dockerfile in few words.
#[derive(Default)]
pub(crate) struct Graph(pub(crate) Definition);

impl Graph {
    pub(crate) fn push(&mut self, name: &str, op: Op) -> VertexId {
        let platform = Platform::new("linux", "amd64", "");
        self.0.push(Vertex {
            op,
            platform,
            name: name.to_owned(),
            lines: Some((1, 1)),
            stage: "s".to_owned(),
        })
    }

    pub(crate) fn image(&mut self) -> VertexId {
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

    pub(crate) fn context(&mut self) -> VertexId {
        self.push(
            "context",
            Op::Local(LocalOp {
                name: "context".to_owned(),
            }),
        )
    }

    pub(crate) fn run(&mut self, root: VertexId, command: &str) -> VertexId {
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

    /// A step that mounts the files of `from`.
    pub(crate) fn mount(&mut self, root: VertexId, from: VertexId) -> VertexId {
        let id = self.run(root, "mount");
        if let Op::Exec(exec) = &mut self.0.vertices[id.0 as usize].op {
            exec.mounts.push(Mount {
                target: "/m".to_owned(),
                kind: MountKind::Bind {
                    from,
                    source: "/".to_owned(),
                    writable: false,
                },
            });
        }
        id
    }

    pub(crate) fn copy(&mut self, root: VertexId, from: VertexId) -> VertexId {
        self.copy_of("f", root, from)
    }

    pub(crate) fn copy_of(&mut self, name: &str, root: VertexId, from: VertexId) -> VertexId {
        let copy = CopyAction {
            sources: vec![CopySource::Path {
                from,
                pattern: name.to_owned(),
            }],
            dest: format!("/{name}"),
            dest_is_dir: false,
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Nothing,
        };
        self.push(
            &format!("COPY {name} /{name}"),
            Op::File(FileOp {
                root: Some(root),
                action: FileAction::Copy(copy),
            }),
        )
    }
}

/// Ops whose layers are their names and whose files are what the test says, or else whatever the layers are.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) definition: Definition,
    /// Content of the file that each vertex offers.
    pub(crate) files: Mutex<BTreeMap<VertexId, String>>,
    pub(crate) ran: Mutex<Vec<String>>,
    /// What `date` says.
    pub(crate) time: u32,
    pub(crate) fails: Option<VertexId>,
    /// Steps wait here until the test lets them go.
    pub(crate) gate: Option<Arc<Notify>>,
    /// A step was told to end, and has.
    pub(crate) canceled: AtomicBool,
    pub(crate) bytes_are_gone: AtomicBool,
    /// Part of what steps make, and of no key.
    pub(crate) salt: &'static str,
}

/// What a step of that name makes of what it reads; with `time` if it makes another thing each time.
pub(crate) fn layer(name: &str, content: &[Field], time: Option<u32>) -> String {
    format!("{name} {content:?} {time:?}")
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

    fn content<'a>(&'a self, id: VertexId, inputs: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>> {
        async move {
            let read = match &self.definition.vertex(id).op {
                Op::File(FileOp {
                    action: FileAction::Copy(copy),
                    ..
                }) => match &copy.sources[0] {
                    CopySource::Path { from, .. } => Some(*from),
                    CopySource::Inline(_) => None,
                },
                Op::Exec(exec) => exec.mounts.first().and_then(|mount| match &mount.kind {
                    MountKind::Bind { from, .. } => Some(*from),
                    _ => None,
                }),
                _ => None,
            };
            let Some(from) = read else { return Ok(Vec::new()) };
            let said = self.files.lock().unwrap().get(&from).cloned();
            let made = || Some(inputs.get(from)?.stack.chain()?.to_string());
            Ok(vec![Field {
                name: "file 0 f".to_owned(),
                value: said.or_else(made).unwrap_or_default().into_bytes(),
            }])
        }
        .boxed()
    }

    fn listing<'a>(&'a self, _: VertexId, _: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn run<'a>(&'a self, id: VertexId, inputs: &'a Inputs, run: &Run) -> BoxFuture<'a, Result<Layer, BuildError>> {
        let Run { cancel, transcript, .. } = run.clone();
        async move {
            let name = self.definition.vertex(id).name.clone();
            self.ran.lock().unwrap().push(name.clone());
            if let Some(transcript) = transcript {
                transcript.say(1, format!("{name} prints\n").into());
            }
            if let Some(gate) = &self.gate {
                tokio::select! {
                    () = gate.notified() => {}
                    () = cancel.cancelled() => {
                        self.canceled.store(true, Ordering::Relaxed);
                        return Err(BuildError::canceled());
                    }
                }
            }
            if self.fails == Some(id) {
                return Err(BuildError::user("no"));
            }
            let content = self.content(id, inputs).await?;
            let layer = layer(&name, &content, name.starts_with("RUN date").then_some(self.time));
            let layer = layer + self.salt;
            Ok(Layer::built(DiffId(Digest::of(layer.as_bytes())), 0, Vec::new()))
        }
        .boxed()
    }

    fn is_present(&self, _stack: &Stack) -> bool {
        !self.bytes_are_gone.load(Ordering::Relaxed)
    }
}

/// A store and what several builds on it share.
pub(crate) struct Bench {
    pub(crate) store: Arc<Store>,
    pub(crate) flights: Flights,
    _root: tempfile::TempDir,
}

pub(crate) struct Built {
    pub(crate) result: Result<BTreeMap<VertexId, Output>, BuildError>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) script: Arc<Script>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = Options::new(Arc::new(|| 1));
        let store = Arc::new(Store::open(&root.path().join("store"), &options).unwrap());
        Self {
            store,
            flights: Flights::default(),
            _root: root,
        }
    }

    pub(crate) fn solve(&self, script: &Arc<Script>, no_cache: NoCache) -> Solve {
        Solve {
            definition: Arc::new(script.definition.clone()),
            work: Arc::clone(script) as Arc<dyn Work>,
            store: Arc::clone(&self.store),
            lease: Arc::new(self.store.lease()),
            flights: self.flights.clone(),
            results: Results::default(),
            slots: Arc::new(Semaphore::new(8)),
            events: EventLog::new("b".to_owned(), Clock::fixed(1)),
            cancel: CancellationToken::new(),
            clock: Clock::fixed(1),
            no_cache,
            fails_alone: false,
            ledger: Arc::new(Ledger::new(&["p".to_owned()])),
        }
    }

    pub(crate) async fn build(&self, script: Script, target: VertexId) -> Built {
        self.build_with(script, target, NoCache::Off).await
    }

    pub(crate) async fn build_with(&self, script: Script, target: VertexId, no_cache: NoCache) -> Built {
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

impl Bench {
    /// As [`Bench::build`], at a certain time.
    pub(crate) async fn build_at(&self, time: u32, graph: &Graph, target: VertexId) -> Built {
        let script = Script {
            time,
            ..script(graph, &[])
        };
        let built = self.build(script, target).await;
        assert_eq!(built.result.as_ref().err(), None);
        built
    }

    /// The record of a step is collected.
    pub(crate) fn evict(&self, built: &Built, id: VertexId) {
        let key = built.result.as_ref().unwrap()[&id].key;
        assert!(self.store.records().remove(key).unwrap());
    }
}

impl Built {
    /// Whether the layer of `id` is what `COPY` of `name` makes of what `date` in `stage` made at `time`.
    pub(crate) fn holds(&self, id: VertexId, name: &str, time: u32) -> bool {
        let base = DiffId(Digest::of(b"base"));
        let date = DiffId(Digest::of(layer("RUN date", &[], Some(time)).as_bytes()));
        let content = Field {
            name: "file 0 f".to_owned(),
            value: ChainId::of(&[base, date]).unwrap().to_string().into_bytes(),
        };
        let expected = DiffId(Digest::of(layer(name, &[content], None).as_bytes()));
        let stack = &self.result.as_ref().unwrap()[&id].stack;
        stack.layers().last().unwrap().info.diff_id == expected
    }

    pub(crate) fn ran(&self) -> Vec<String> {
        self.script.ran.lock().unwrap().clone()
    }

    /// The reason each step gave that ran.
    pub(crate) async fn reasons(&self) -> Vec<String> {
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

pub(crate) fn script(graph: &Graph, files: &[(VertexId, &str)]) -> Script {
    let files = files.iter().map(|(id, content)| (*id, (*content).to_owned())).collect();
    Script {
        definition: graph.0.clone(),
        files: Mutex::new(files),
        ..Script::default()
    }
}
