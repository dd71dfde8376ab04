//! Why steps run in the sandboxes that they run in, and what would make these better, for those who ask.

use super::enter;
use super::tier::Tier;

/// The tier of a server, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The tier.
    pub tier: Tier,
    /// What it was chosen for.
    pub why: String,
    /// The one thing that would raise it; nothing for the best tier.
    pub help: Option<String>,
}

/// The standing of this process, which has been found to be of `tier`.
#[must_use]
pub fn standing(tier: Tier) -> Standing {
    let name = enter::name_outside();
    let (why, help) = match tier {
        Tier::Root => ("this server is root".to_owned(), None),
        Tier::Rootless => {
            let count = enter::further_ids();
            let why = format!("the user `{name}` is not root, but has {count} further ids");
            let help =
                "`rbuild serve` as root: networks without a program beside each step, device nodes, limits on memory";
            (why, Some(help.to_owned()))
        }
        Tier::SingleId => match enter::lack_of_further(&name) {
            Some(lack) => (
                format!(
                    "{}, so all files have one owner and steps know no user but root",
                    lack.reason
                ),
                Some(lack.help),
            ),
            None => (
                format!("the user `{name}` has further ids, but this kind was asked for"),
                Some("leave out `--sandbox` and RBUILD_SANDBOX".to_owned()),
            ),
        },
        Tier::Plain => match enter::remembered() {
            Some(lack) => (lack.reason, Some(lack.help)),
            None => ("nothing better was asked for, or is possible".to_owned(), None),
        },
    };
    Standing {
        tier,
        why,
        help: help.filter(|help| !help.is_empty()),
    }
}

impl Standing {
    /// Tells the log, once, when a server starts.
    pub fn tell(&self) {
        let help = self.help.as_deref().unwrap_or("nothing");
        tracing::info!(sandbox = %self.tier, why = self.why, better_with = help, "the sandboxes of steps");
    }
}

/// What to do about a step that failed for want of a second id.
pub(crate) fn help_for_one_id() -> String {
    let help = enter::lack_of_further(&enter::name_outside()).map(|lack| lack.help);
    let help = help.unwrap_or_else(|| "leave out `--sandbox` and RBUILD_SANDBOX".to_owned());
    format!(
        "this server runs steps in the sandbox `single-id`; more ids for them: {help}; then end it, or use `--sandbox rootless`"
    )
}
