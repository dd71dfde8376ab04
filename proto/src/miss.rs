//! Why a step ran although a cache exists: the closed list of reasons, each with its words.

use std::fmt;

/// Longest value that is shown in one line, in characters.
const SHOWN: usize = 60;
/// Characters of equal text that are shown before a difference.
const BEFORE: usize = 16;

/// Why a step ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// No build that is remembered had this step.
    NeverSeen,
    /// The user asked for it.
    NoCache,
    /// The text of the instruction is another one.
    InstructionChanged {
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
    /// Variables have other values, are new, or are gone: up to three of them, and how many more.
    VariablesChanged {
        /// Build arguments first.
        variables: Vec<VariableChange>,
        /// Further variables beyond those named.
        more: u64,
    },
    /// The base image has other layers.
    BaseImageChanged {
        /// Its reference in the last build.
        old: String,
        /// Its reference.
        new: String,
    },
    /// Files that are copied or mounted differ: up to three of them, and how many more.
    FilesChanged {
        /// In order of their paths.
        files: Vec<FileChange>,
        /// Further files beyond those named.
        more: u64,
    },
    /// An earlier step of the same stage ran, so this one had to.
    ParentRan {
        /// Its name.
        step: String,
    },
    /// The step below was not run, but it has another result than the one this step was built on.
    ParentChanged {
        /// Its name.
        step: String,
    },
    /// Another step stands below than in the last build: one was taken out or moved.
    ParentMoved {
        /// The name of the one that stood there.
        old: String,
        /// The name of the one that does now.
        new: String,
    },
    /// Something else in the key is different.
    OptionChanged {
        /// Which part of the key.
        name: String,
        /// What it was; nothing if it was not there, or is not shown.
        old: Option<String>,
        /// What it is.
        new: Option<String>,
    },
    /// It was built, but for other platforms.
    OtherPlatform {
        /// For which.
        built: Vec<String>,
        /// What this one is for.
        wanted: String,
    },
    /// Another version of the engine made the last build, and its keys are made in another way.
    EngineChanged {
        /// The version that was.
        old: String,
        /// This version.
        new: String,
    },
    /// The record was there, its bytes were collected.
    Evicted,
    /// The record was there, its bytes did not match their digest and were set aside.
    Damaged,
    /// It was built before, but what it was made of is not known any more.
    Forgotten,
}

/// A variable that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableChange {
    /// Its name.
    pub name: String,
    /// Whether `ARG` gave it its value, or `ENV` and the base image.
    pub build_argument: bool,
    /// What happened to it.
    pub change: Change,
    /// The value it had; nothing if there was none, or if it may be a secret.
    pub old: Option<String>,
    /// The value it has.
    pub new: Option<String>,
}

/// What happened to something that has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has another value.
    Changed,
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Its path as the instruction reaches it.
    pub path: String,
    /// What happened to it.
    pub what: FileDifference,
}

/// What differs of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileDifference {
    /// It holds something else, or is of another kind.
    Content,
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Nothing but its mode.
    Mode {
        /// Permission bits.
        old: u32,
        /// Permission bits.
        new: u32,
    },
    /// Nothing but its owner.
    Owner {
        /// User and group.
        old: (u32, u32),
        /// User and group.
        new: (u32, u32),
    },
    /// Its mode and its owner.
    ModeAndOwner {
        /// Permission bits, user and group.
        old: (u32, u32, u32),
        /// Permission bits, user and group.
        new: (u32, u32, u32),
    },
    /// Nothing but its extended attributes.
    Attributes,
}

impl MissReason {
    /// One word for programs: a closed list, which only grows.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NeverSeen => "never-seen",
            Self::NoCache => "no-cache",
            Self::InstructionChanged { .. } => "instruction",
            Self::VariablesChanged { .. } => "variables",
            Self::BaseImageChanged { .. } => "base-image",
            Self::FilesChanged { .. } => "files",
            Self::ParentRan { .. } => "earlier-step-ran",
            Self::ParentChanged { .. } => "earlier-step-result",
            Self::ParentMoved { .. } => "earlier-step-moved",
            Self::OptionChanged { .. } => "option",
            Self::OtherPlatform { .. } => "platform",
            Self::EngineChanged { .. } => "engine",
            Self::Evicted => "collected",
            Self::Damaged => "damaged",
            Self::Forgotten => "forgotten",
        }
    }
}

impl Change {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverSeen => f.write_str("never built before"),
            Self::NoCache => f.write_str("--no-cache"),
            Self::InstructionChanged { old, new } => {
                let (old, new) = pair(old, new);
                write!(f, "instruction changed: `{old}` → `{new}`")
            }
            Self::VariablesChanged { variables, more } => list(f, variables, *more),
            Self::BaseImageChanged { old, new } if old == new => write!(f, "base image `{new}` moved"),
            Self::BaseImageChanged { old, new } => write!(f, "base image changed: `{old}` → `{new}`"),
            Self::FilesChanged { files, more } => list(f, files, *more),
            Self::ParentRan { step } => write!(f, "an earlier step ran: {step}"),
            Self::ParentChanged { step } => write!(f, "an earlier step has another result: {step}"),
            Self::ParentMoved { old, new } => {
                let (old, new) = pair(old, new);
                write!(f, "it follows another step: `{old}` → `{new}`")
            }
            Self::OptionChanged { name, old, new } => {
                write!(f, "{name} changed")?;
                values(f, old.as_deref(), new.as_deref())
            }
            Self::OtherPlatform { built, wanted } => {
                write!(f, "built for {} only, never for {wanted}", built.join(", "))
            }
            Self::EngineChanged { old, new } if old == new => {
                f.write_str("another version of rbuild made the last result")
            }
            Self::EngineChanged { old, new } => write!(f, "another version of rbuild: {old} → {new}"),
            Self::Evicted => f.write_str("its result was collected"),
            Self::Damaged => f.write_str("its result was damaged and set aside"),
            Self::Forgotten => f.write_str("what it was built from last time is not known any more"),
        }
    }
}

impl fmt::Display for VariableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.build_argument {
            "build argument"
        } else {
            "environment variable"
        };
        write!(f, "{kind} `{}` {}", self.name, self.change.word())?;
        values(f, self.old.as_deref(), self.new.as_deref())
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.path)?;
        match &self.what {
            FileDifference::Content => f.write_str("changed"),
            FileDifference::Added => f.write_str("added"),
            FileDifference::Removed => f.write_str("removed"),
            FileDifference::Mode { old, new } => write!(f, "mode changed ({old:o} → {new:o})"),
            FileDifference::Owner { old, new } => {
                write!(f, "owner changed ({}:{} → {}:{})", old.0, old.1, new.0, new.1)
            }
            FileDifference::ModeAndOwner { old, new } => write!(
                f,
                "mode and owner changed ({:o} {}:{} → {:o} {}:{})",
                old.0, old.1, old.2, new.0, new.1, new.2
            ),
            FileDifference::Attributes => f.write_str("attributes changed"),
        }
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], more: u64) -> fmt::Result {
    for (index, change) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{change}")?;
    }
    if more > 0 {
        write!(f, " and {more} more")
    } else {
        Ok(())
    }
}

fn values(f: &mut fmt::Formatter<'_>, old: Option<&str>, new: Option<&str>) -> fmt::Result {
    match (old, new) {
        (None, None) => Ok(()),
        (Some(old), Some(new)) => {
            let (old, new) = pair(old, new);
            write!(f, ": `{old}` → `{new}`")
        }
        (Some(old), None) => write!(f, ": it was `{}`", from(old, 0)),
        (None, Some(new)) => write!(f, ": `{}`", from(new, 0)),
    }
}

/// Two texts in one line each, cut so that the first difference can be seen.
fn pair(old: &str, new: &str) -> (String, String) {
    let equal = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
    let fits = |text: &str| text.chars().count() <= SHOWN && !text.contains('\n');
    let start = if fits(old) && fits(new) {
        0
    } else {
        equal.saturating_sub(BEFORE)
    };
    (from(old, start), from(new, start))
}

/// A text from some character on, in one line and cut if it is long.
fn from(text: &str, start: usize) -> String {
    let rest: String = text.chars().skip(start).take(SHOWN).collect();
    let line = rest.replace('\n', "⏎");
    let before = if start > 0 { "…" } else { "" };
    let after = if text.chars().count() > start + SHOWN {
        "…"
    } else {
        ""
    };
    format!("{before}{line}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(old: &str, new: &str) -> String {
        MissReason::OptionChanged {
            name: "user".to_owned(),
            old: Some(old.to_owned()),
            new: Some(new.to_owned()),
        }
        .to_string()
    }

    #[test]
    fn long_values_are_cut_around_their_first_difference() {
        assert_eq!(changed("1", "2"), "user changed: `1` → `2`");
        let long = |end: &str| format!("{}{end}", "x".repeat(100));
        assert_eq!(
            changed(&long("old"), &long("new")),
            "user changed: `…xxxxxxxxxxxxxxxxold` → `…xxxxxxxxxxxxxxxxnew`"
        );
        let endless = changed(&"a".repeat(5000), "b");
        assert_eq!(endless, format!("user changed: `{}…` → `b`", "a".repeat(60)));
        assert_eq!(changed("a\nb", "a\nc"), "user changed: `a⏎b` → `a⏎c`");
    }

    #[test]
    fn three_are_named_and_the_rest_is_counted() {
        let file = |path: &str, what| FileChange {
            path: path.to_owned(),
            what,
        };
        let reason = MissReason::FilesChanged {
            files: vec![
                file("a", FileDifference::Content),
                file("b", FileDifference::Mode { old: 0o644, new: 0o755 }),
                file(
                    "c",
                    FileDifference::Owner {
                        old: (0, 0),
                        new: (5, 6),
                    },
                ),
            ],
            more: 2,
        };
        assert_eq!(
            reason.to_string(),
            "`a` changed, `b` mode changed (644 → 755), `c` owner changed (0:0 → 5:6) and 2 more"
        );
    }

    #[test]
    fn a_value_that_may_be_a_secret_is_not_shown() {
        let variable = VariableChange {
            name: "TOKEN".to_owned(),
            build_argument: true,
            change: Change::Changed,
            old: None,
            new: None,
        };
        assert_eq!(variable.to_string(), "build argument `TOKEN` changed");
    }
}
