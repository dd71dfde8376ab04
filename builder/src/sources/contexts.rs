//! Build contexts that the server fetches: git repositories, archives and single files behind URLs.

use std::collections::HashMap;
use std::sync::Arc;

use proto::tree::{RelPath, TreeEntry};
use proto::v1::{self, event::Kind};
use tokio::sync::Mutex;

use super::{Fetched, Source, fetch};
use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::layers::{is_damage, store_failed};
use crate::op::source::read_small;
use crate::request::{BuildError, BuildRequest, NamedContext};
use crate::session::DockerfileBytes;
use crate::stack::Stack;
use crate::tree::MergedTree;

/// The main context's name.
const MAIN: &str = "context";
/// Largest Dockerfile.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// The remote contexts of one build; each is fetched once, when it is asked for first.
#[derive(Debug)]
pub struct RemoteContexts<'a> {
    request: &'a BuildRequest,
    job: &'a Job,
    fetched: Mutex<HashMap<String, Arc<Fetched>>>,
}

impl<'a> RemoteContexts<'a> {
    /// None of them is fetched yet.
    #[must_use]
    pub fn new(request: &'a BuildRequest, job: &'a Job) -> Self {
        Self {
            request,
            job,
            fetched: Mutex::default(),
        }
    }

    fn source(&self, name: &str) -> Option<&Source> {
        match self.request.contexts.get(name) {
            Some(NamedContext::Remote(source)) => Some(source),
            _ => None,
        }
    }

    /// The context `name`; nothing if the client has it.
    ///
    /// # Errors
    /// As [`fetch`].
    pub async fn get(&self, name: &str) -> Result<Option<Arc<Fetched>>, BuildError> {
        let Some(source) = self.source(name) else {
            return Ok(None);
        };
        // Held while fetching: contexts of one build are few, and none is worth fetching twice.
        let mut fetched = self.fetched.lock().await;
        if let Some(found) = fetched.get(name) {
            return Ok(Some(Arc::clone(found)));
        }
        let step = format!("[internal] load {name} from {}", source.shown());
        let found = self.job.step(&step, |step| fetch(source, self.job, step)).await?;
        let found = Arc::new(found);
        if name == MAIN {
            self.tell_of_ignore_file(&found).await?;
        }
        fetched.insert(name.to_owned(), Arc::clone(&found));
        Ok(Some(found))
    }

    /// The files of a remote context; nothing if the client has it. A single file is a Dockerfile, and its context is empty.
    ///
    /// # Errors
    /// As [`fetch`].
    pub async fn files(&self, name: &str) -> Result<Option<Stack>, BuildError> {
        let fetched = self.get(name).await?;
        Ok(fetched.map(|fetched| match (&fetched.source, name) {
            (Source::File(_), MAIN) => Stack::default(),
            _ => fetched.stack.clone(),
        }))
    }

    /// The time of a context, in seconds since 1970: of the commit, what the server said, or that of the newest file of an
    /// archive. Nothing if the client has it.
    ///
    /// # Errors
    /// As [`fetch`].
    pub async fn time(&self, name: &str) -> Result<Option<i64>, BuildError> {
        let Some(fetched) = self.get(name).await? else {
            return Ok(None);
        };
        if fetched.modified.is_some() || !matches!(fetched.source, Source::Archive(_)) {
            return Ok(fetched.modified);
        }
        let trees = self
            .job
            .host
            .layers
            .trees(&fetched.stack, self.job, StepNumber::NONE)
            .await?;
        let entries = trees.iter().flat_map(|tree| tree.entries());
        Ok(entries.map(|entry| entry.mtime.seconds).max())
    }

    /// The Dockerfile: from the main context if that is remote and has it, else from the client.
    ///
    /// # Errors
    /// As [`fetch`]; a context without that file.
    pub async fn dockerfile(&self) -> Result<DockerfileBytes, BuildError> {
        let remote = match &self.request.dockerfile_path {
            Some(path) => self.get(MAIN).await?.map(|remote| (remote, path)),
            None => None,
        };
        let Some((remote, path)) = remote else {
            return self.job.session.read_dockerfile().await;
        };
        let tree = self.tree(&remote.stack).await?;
        let wanted = match (&remote.source, path.as_str()) {
            (Source::File(op), _) => vec![op.file_name.clone()],
            (_, "Dockerfile") => vec!["Dockerfile".to_owned(), "dockerfile".to_owned()],
            (_, path) => vec![path.to_owned()],
        };
        for name in &wanted {
            let resolved = tree.resolve(&RelPath::clean(name.as_bytes()));
            let found = resolved.map_err(|error| BuildError::user(error.to_string()))?.1;
            if let Some(file) = found.and_then(|found| tree.file_of(found)) {
                let dockerfile = self.read(&remote.stack, file.entry.clone()).await?;
                return Ok(DockerfileBytes {
                    dockerfile,
                    ignore: None,
                });
            }
        }
        let message = format!("failed to read dockerfile: open {path}: no such file or directory");
        Err(BuildError::user(message)
            .note(format!("the build context is `{}`", remote.source.shown()))
            .help("name the Dockerfile with `-f PATH`, relative to the context"))
    }

    async fn tree(&self, stack: &Stack) -> Result<MergedTree, BuildError> {
        let trees = self.job.host.layers.trees(stack, self.job, StepNumber::NONE).await?;
        Ok(MergedTree::new(trees))
    }

    async fn read(&self, stack: &Stack, entry: TreeEntry) -> Result<Vec<u8>, BuildError> {
        let layers = self.job.host.layers.clone();
        layers.unpack(stack, self.job, StepNumber::NONE).await?;
        let chain = stack
            .chain()
            .ok_or_else(|| BuildError::bug("a fetched context has no layer"))?;
        let root = layers.open_layer_dir(chain)?;
        blocking::run(move || {
            read_small(&root, &entry, &layers, DOCKERFILE_LIMIT).map_err(|error| match is_damage(&error) {
                true => store_failed(&error),
                false => BuildError::user(format!("failed to read dockerfile: {error}")),
            })
        })
        .await
    }

    /// Other builders ignore it without a word, which surprises everybody once.
    async fn tell_of_ignore_file(&self, fetched: &Fetched) -> Result<(), BuildError> {
        let tree = self.tree(&fetched.stack).await?;
        if tree.get(&RelPath::clean(b".dockerignore")).is_none() {
            return Ok(());
        }
        self.job.events.publish(Kind::Diagnostic(v1::Diagnostic {
            severity: v1::diagnostic::Severity::Warning.into(),
            code: "IgnoreFileNotApplied".to_owned(),
            message:
                "the `.dockerignore` of the build context is not applied: the context is no directory of the client"
                    .to_owned(),
            ..v1::Diagnostic::default()
        }));
        Ok(())
    }
}
