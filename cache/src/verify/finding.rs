//! What is told of a store: how far reading it is, and what is wrong.

/// What a store consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Bytes under their digest.
    Blob,
    /// The result of a step.
    Record,
    /// What a layer changes.
    Tree,
    /// The content key that a definition key led to.
    Alias,
    /// What a key was computed from.
    Preimage,
    /// Further blobs of a layer.
    Forms,
    /// What a server said of a file.
    Answer,
    /// The steps of a project.
    History,
    /// What a build did.
    Build,
    /// A name.
    Image,
    /// What a cache mount is.
    CacheMount,
    /// A layer that is unpacked.
    Snapshot,
    /// Times of last use.
    Index,
    /// What builds write while they run.
    Temporary,
    /// Files on their way to their places.
    Group,
}

impl Part {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Record => "record",
            Self::Tree => "tree",
            Self::Alias => "alias",
            Self::Preimage => "preimage",
            Self::Forms => "forms",
            Self::Answer => "answer",
            Self::History => "history",
            Self::Build => "build",
            Self::Image => "image",
            Self::CacheMount => "cache-mount",
            Self::Snapshot => "snapshot",
            Self::Index => "index",
            Self::Temporary => "temporary",
            Self::Group => "group",
        }
    }
}

/// In which way something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is not what was written.
    Damaged,
    /// Something that it leads to is not there.
    Missing,
    /// Nobody needs it, and nothing would ever remove it.
    LeftOver,
}

impl Wrong {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::LeftOver => "left-over",
        }
    }
}

/// What was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: it was not asked for, or somebody uses it.
    None,
    /// It is out of the way, and kept until it is collected.
    SetAside,
    /// It is gone.
    Removed,
    /// It is made anew.
    Rebuilt,
    /// This came in the way.
    Failed(String),
}

impl Remedy {
    /// In one word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SetAside => "set-aside",
            Self::Removed => "removed",
            Self::Rebuilt => "rebuilt",
            Self::Failed(_) => "failed",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub part: Part,
    /// How.
    pub wrong: Wrong,
    /// A digest, a key, a reference, or the name of a file below the root.
    pub name: String,
    /// One line about it.
    pub detail: String,
    /// Steps and images that need it.
    pub needed_by: Vec<String>,
    /// What was done about it.
    pub remedy: Remedy,
}

impl Finding {
    pub(super) fn new(part: Part, wrong: Wrong, name: impl Into<String>) -> Self {
        Self {
            part,
            wrong,
            name: name.into(),
            detail: String::new(),
            needed_by: Vec::new(),
            remedy: Remedy::None,
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being read.
    pub part: Part,
    /// Number of this part that were read.
    pub done: u64,
    /// Number of this part.
    pub total: u64,
    /// Bytes of all parts that were read.
    pub bytes: u64,
}

/// What is told while a store is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// How far it is. Comes often: for each file, and while large ones are read.
    Progress(Progress),
    /// Something is wrong.
    Found(Finding),
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Files that were read, those of snapshots included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Found damaged.
    pub damaged: u64,
    /// Found to lead nowhere.
    pub missing: u64,
    /// Found to be nobody's.
    pub left_over: u64,
    /// Of all these, what is still wrong.
    pub open: u64,
    /// What running builds use, so that it could not be judged.
    pub in_use: u64,
    /// Snapshots that nothing needs, and that no tree describes, so that there was nothing to compare them with.
    pub unchecked: u64,
    /// Files that were set aside, now or before, and wait for a collection.
    pub set_aside: u64,
}

impl Summary {
    pub(super) fn count(&mut self, finding: &Finding) {
        let counter = match finding.wrong {
            Wrong::Damaged => &mut self.damaged,
            Wrong::Missing => &mut self.missing,
            Wrong::LeftOver => &mut self.left_over,
        };
        *counter += 1;
        self.open += u64::from(matches!(finding.remedy, Remedy::None | Remedy::Failed(_)));
    }
}
