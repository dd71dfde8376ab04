//! `RUN --mount`: options → a mount of the definition.

use proto::definition::{Mount as Lowered, MountAccess, MountKind, Sharing};

use super::mount_options::{MountOptions, MountType};
use super::path;
use super::reach::{self, Origin};
use super::stage::{Lowering, MAIN_CONTEXT, StageState};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Mount, Word};

/// The word after `from=`.
pub(crate) fn from_word(mount: &Mount) -> Option<&Word> {
    let found = mount
        .options
        .iter()
        .rev()
        .find(|(key, _)| key.value.eq_ignore_ascii_case("from"));
    found
        .and_then(|(_, value)| value.as_ref())
        .filter(|value| !value.value.is_empty())
}

/// The target as written, for messages.
pub(crate) fn target_text(mount: &Mount) -> &str {
    let is_target = |key: &str| matches!(key.to_ascii_lowercase().as_str(), "target" | "dst" | "destination");
    let found = mount.options.iter().rev().find(|(key, _)| is_target(&key.value));
    found
        .and_then(|(_, value)| value.as_ref())
        .map_or("", |value| value.value.as_str())
}

impl Lowering<'_> {
    /// Lowers one mount; `sockets` is how many agent sockets the same step has before it.
    pub(crate) fn mount(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        written: &Mount,
        (options, sockets): (MountOptions, usize),
    ) -> Result<Lowered, Diagnostic> {
        let target = match (&options.target, options.kind) {
            (Some(target), _) if !target.is_empty() => path::join(state.cwd(), target),
            (_, MountType::Secret) => {
                let id = options.id.as_ref().or(options.source.as_ref());
                format!("/run/secrets/{}", path::base_name(id.map_or("", String::as_str)))
            }
            (_, MountType::Ssh) => format!("/run/buildkit/ssh_agent.{}", sockets),
            _ => state.cwd().to_owned(),
        };
        if target == "/" {
            return Err(Diagnostic::error(
                "invalid-mount",
                written.raw.span,
                "invalid mount target \"/\"",
            ));
        }
        if target == "/dev" || path::of_the_kernel(&target).is_some() {
            let message = format!("invalid mount target \"{target}\"");
            return Err(Diagnostic::error("invalid-mount", written.raw.span, message)
                .note("`/proc`, `/sys` and `/dev` of a step are those of its sandbox"));
        }
        let kind = self.mount_kind(state, instruction, written, (options, &target))?;
        Ok(Lowered { target, kind })
    }

    fn mount_kind(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        written: &Mount,
        (options, target): (MountOptions, &str),
    ) -> Result<MountKind, Diagnostic> {
        let from = match from_word(written) {
            Some(word) => Some(reach::resolve(
                self.input,
                state.index,
                instruction,
                word,
                Some(written),
            )?),
            None => None,
        };
        Ok(match options.kind {
            MountType::Bind => {
                let from = from.unwrap_or_else(|| Origin::Local(MAIN_CONTEXT.to_owned()));
                MountKind::Bind {
                    from: self.files_of(&from, state),
                    source: inside(&options),
                    writable: options.writable.unwrap_or(false),
                }
            }
            MountType::Cache => MountKind::Cache {
                id: self.cache_id(&options, target),
                sharing: options.sharing.unwrap_or(Sharing::Shared),
                from: from
                    .filter(|from| *from != Origin::Empty)
                    .map(|from| (self.files_of(&from, state), inside(&options))),
                writable: options.writable.unwrap_or(true),
                access: access(&options, 0o755),
            },
            MountType::Tmpfs => MountKind::Tmpfs {
                size_bytes: options.size_bytes,
            },
            MountType::Secret => {
                let has_target = options.target.as_ref().is_some_and(|target| !target.is_empty());
                let access = access(&options, 0o400);
                let named = options.id.or(options.source).filter(|id| !id.is_empty());
                MountKind::Secret {
                    id: named.unwrap_or_else(|| path::base_name(target).to_owned()),
                    file: options.env.is_none() || has_target,
                    env: options.env,
                    access,
                    required: options.required,
                }
            }
            MountType::Ssh => MountKind::Ssh {
                access: access(&options, 0o600),
                required: options.required,
                id: options
                    .id
                    .filter(|id| !id.is_empty())
                    .unwrap_or_else(|| "default".to_owned()),
            },
        })
    }

    fn cache_id(&self, options: &MountOptions, target: &str) -> String {
        let id = options.id.as_deref().filter(|id| !id.is_empty()).unwrap_or(target);
        match self.input.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            _ => id.to_owned(),
        }
    }
}

/// Path inside `from`.
fn inside(options: &MountOptions) -> String {
    path::join("/", options.source.as_deref().unwrap_or_default())
}

fn access(options: &MountOptions, default_mode: u32) -> MountAccess {
    MountAccess {
        mode: options.mode.unwrap_or(default_mode) & 0o7777,
        uid: options.uid.unwrap_or(0),
        gid: options.gid.unwrap_or(0),
    }
}
