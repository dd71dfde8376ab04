//! `RUN --mount`: options → settings → a mount of the definition.

use proto::definition::{Mount as Lowered, MountAccess, MountKind, Sharing};

use super::expand::Words;
use super::path;
use super::reach::{self, Origin};
use super::stage::{Lowering, MAIN_CONTEXT, StageState};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Mount, Word};
use crate::suggest;

/// Every key that some type of mount knows.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Type of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "bind" => Some(Self::Bind),
            "cache" => Some(Self::Cache),
            "tmpfs" => Some(Self::Tmpfs),
            "secret" => Some(Self::Secret),
            "ssh" => Some(Self::Ssh),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// The options of one mount, read and checked.
#[derive(Debug)]
pub(crate) struct Settings {
    kind: Type,
    target: Option<String>,
    source: Option<String>,
    id: Option<String>,
    env: Option<String>,
    writable: Option<bool>,
    required: bool,
    sharing: Sharing,
    size_bytes: Option<u64>,
    mode: Option<u32>,
    uid: u32,
    gid: u32,
    /// How many agent sockets the same step has before this one.
    sockets: usize,
}

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

impl Settings {
    /// Reads the options; values are expanded, `from` is not.
    pub(crate) fn read(mount: &Mount, words: &Words<'_>, sockets: usize) -> Result<Self, Diagnostic> {
        let mut settings = Self {
            kind: kind(mount, words)?,
            target: None,
            source: None,
            id: None,
            env: None,
            writable: None,
            required: false,
            sharing: Sharing::Shared,
            size_bytes: None,
            mode: None,
            uid: 0,
            gid: 0,
            sockets,
        };
        for (key, value) in &mount.options {
            settings.set(key, value.as_ref(), words)?;
        }
        settings.check(mount)?;
        Ok(settings)
    }

    fn set(&mut self, key: &Word, value: Option<&Word>, words: &Words<'_>) -> Result<(), Diagnostic> {
        let name = key.value.to_ascii_lowercase();
        if let "readonly" | "ro" | "readwrite" | "rw" | "required" = name.as_str() {
            let flag = flag(key, value, words)?;
            match name.as_str() {
                "required" => {
                    self.only_for(key, &[Type::Secret, Type::Ssh])?;
                    self.required = flag;
                }
                "readonly" | "ro" => self.writable = Some(!flag),
                _ => self.writable = Some(flag),
            }
            return Ok(());
        }
        let Some(word) = value else {
            return Err(unknown_key(key, &key.value));
        };
        if matches!(name.as_str(), "type" | "from") {
            return Ok(());
        }
        let text = words.expand(word)?;
        match name.as_str() {
            "source" | "src" => self.source = Some(text),
            "target" | "dst" | "destination" => self.target = Some(text),
            "id" => self.id = Some(text),
            "env" => {
                self.only_for(key, &[Type::Secret])?;
                self.env = Some(text);
            }
            "sharing" => self.sharing = sharing(word, &text)?,
            "size" => {
                self.only_for(key, &[Type::Tmpfs])?;
                self.size_bytes = Some(size(&text).ok_or_else(|| invalid(key, word, &text))?);
            }
            "mode" | "uid" | "gid" => {
                self.only_for(key, &[Type::Cache, Type::Secret, Type::Ssh])?;
                let radix = if name == "mode" { 8 } else { 10 };
                let number = u32::from_str_radix(&text, radix).map_err(|_| invalid(key, word, &text))?;
                match name.as_str() {
                    "mode" if number > 0o7777 => return Err(invalid(key, word, &text)),
                    "mode" => self.mode = Some(number),
                    "uid" => self.uid = number,
                    _ => self.gid = number,
                }
            }
            _ => return Err(unknown_key(key, &format!("{}={}", key.value, word.value))),
        }
        Ok(())
    }

    fn only_for(&self, key: &Word, kinds: &[Type]) -> Result<(), Diagnostic> {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        let message = format!("{} not allowed for \"{}\" type mounts", key.value, self.kind.name());
        Err(Diagnostic::error("invalid-mount", key.span, message))
    }

    fn check(&self, mount: &Mount) -> Result<(), Diagnostic> {
        let wrong = |message: &str| Err(Diagnostic::error("invalid-mount", mount.raw.span, message));
        let from = from_word(mount);
        match (self.kind, from) {
            (Type::Secret | Type::Ssh | Type::Tmpfs, Some(from)) => {
                let message = format!("{} mount should not have a from", self.kind.name());
                return Err(Diagnostic::error("invalid-mount", from.span, message));
            }
            (Type::Secret, None) if self.source.is_some() && self.id.is_some() => {
                return wrong("both source and id can't be set");
            }
            (Type::Secret, None) => {
                let names = [&self.source, &self.id, &self.target];
                if !names
                    .iter()
                    .any(|name| name.as_ref().is_some_and(|name| !name.is_empty()))
                {
                    return wrong("invalid secret mount. one of source, target required");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn access(&self, mode: u32) -> MountAccess {
        MountAccess {
            mode: self.mode.unwrap_or(mode),
            uid: self.uid,
            gid: self.gid,
        }
    }

    /// Path inside `from`.
    fn inside(&self) -> String {
        path::join("/", self.source.as_deref().unwrap_or_default())
    }
}

impl Lowering<'_> {
    /// Lowers one mount.
    pub(crate) fn mount(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        written: &Mount,
        settings: Settings,
    ) -> Result<Lowered, Diagnostic> {
        let target = match (&settings.target, settings.kind) {
            (Some(target), _) if !target.is_empty() => path::join(state.cwd(), target),
            (_, Type::Secret) => {
                let id = settings.id.as_ref().or(settings.source.as_ref());
                format!("/run/secrets/{}", path::base_name(id.map_or("", String::as_str)))
            }
            (_, Type::Ssh) => format!("/run/buildkit/ssh_agent.{}", settings.sockets),
            _ => state.cwd().to_owned(),
        };
        if target == "/" {
            return Err(Diagnostic::error(
                "invalid-mount",
                written.raw.span,
                "invalid mount target \"/\"",
            ));
        }
        let kind = self.mount_kind(state, instruction, written, (settings, &target))?;
        Ok(Lowered { target, kind })
    }

    fn mount_kind(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        written: &Mount,
        (settings, target): (Settings, &str),
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
        Ok(match settings.kind {
            Type::Bind => {
                let from = from.unwrap_or_else(|| Origin::Local(MAIN_CONTEXT.to_owned()));
                MountKind::Bind {
                    from: self.files_of(&from, state),
                    source: settings.inside(),
                    writable: settings.writable.unwrap_or(false),
                }
            }
            Type::Cache => MountKind::Cache {
                id: self.cache_id(&settings, target),
                sharing: settings.sharing,
                from: from
                    .filter(|from| *from != Origin::Empty)
                    .map(|from| (self.files_of(&from, state), settings.inside())),
                writable: settings.writable.unwrap_or(true),
                access: settings.access(0o755),
            },
            Type::Tmpfs => MountKind::Tmpfs {
                size_bytes: settings.size_bytes,
            },
            Type::Secret => {
                let has_target = settings.target.as_ref().is_some_and(|target| !target.is_empty());
                let access = settings.access(0o400);
                let named = settings.id.or(settings.source).filter(|id| !id.is_empty());
                MountKind::Secret {
                    id: named.unwrap_or_else(|| path::base_name(target).to_owned()),
                    file: settings.env.is_none() || has_target,
                    env: settings.env,
                    access,
                    required: settings.required,
                }
            }
            Type::Ssh => MountKind::Ssh {
                access: settings.access(0o600),
                required: settings.required,
                id: settings
                    .id
                    .filter(|id| !id.is_empty())
                    .unwrap_or_else(|| "default".to_owned()),
            },
        })
    }

    fn cache_id(&self, settings: &Settings, target: &str) -> String {
        let id = settings.id.as_deref().filter(|id| !id.is_empty()).unwrap_or(target);
        match self.input.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            _ => id.to_owned(),
        }
    }
}

/// Other options depend on the type, wherever it stands.
fn kind(mount: &Mount, words: &Words<'_>) -> Result<Type, Diagnostic> {
    let found = mount
        .options
        .iter()
        .rev()
        .find(|(key, _)| key.value.eq_ignore_ascii_case("type"));
    let Some((_, Some(word))) = found else {
        return Ok(Type::Bind);
    };
    let text = words.expand(word)?;
    Type::parse(&text.to_ascii_lowercase()).ok_or_else(|| {
        let error = Diagnostic::error("invalid-mount", word.span, format!("unsupported mount type \"{text}\""));
        match suggest::nearest(&text, ["bind", "cache", "tmpfs", "secret", "ssh"]) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        }
    })
}

fn flag(key: &Word, value: Option<&Word>, words: &Words<'_>) -> Result<bool, Diagnostic> {
    let Some(word) = value else {
        return Ok(true);
    };
    let text = words.expand(word)?;
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err(invalid(key, word, &text)),
    }
}

fn sharing(word: &Word, text: &str) -> Result<Sharing, Diagnostic> {
    match text.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => {
            let message = format!("unsupported sharing value \"{text}\"");
            Err(Diagnostic::error("invalid-mount", word.span, message)
                .help("the values are `shared`, `private` and `locked`"))
        }
    }
}

fn invalid(key: &Word, word: &Word, text: &str) -> Diagnostic {
    Diagnostic::error(
        "invalid-mount",
        word.span,
        format!("invalid value for {}: {text}", key.value),
    )
}

fn unknown_key(key: &Word, field: &str) -> Diagnostic {
    if KEYS.contains(&key.value.to_ascii_lowercase().as_str()) {
        let message = format!("invalid field '{field}' must be a key=value pair");
        return Diagnostic::error("invalid-mount", key.span, message);
    }
    let message = format!("unexpected key '{}' in '{field}'", key.value);
    let error = Diagnostic::error("invalid-mount", key.span, message);
    match suggest::nearest(&key.value, KEYS) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// Bytes with an optional unit: `64m`, `1GiB`, `512k`. Units count in 1024s.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let letter = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(unit);
    let shift = match letter {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unit_bytes = 1_u64 << shift;
    let mut bytes = whole.parse::<u64>().ok()?.checked_mul(unit_bytes)?;
    let mut place = unit_bytes;
    for digit in fraction.bytes() {
        place /= 10;
        bytes = bytes.checked_add(place * u64::from(digit.checked_sub(b'0')?))?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1m", Some(1 << 20)),
            ("1.5k", Some(1024 + 510)),
            ("2GiB", Some(2 << 30)),
            ("64MB", Some(64 << 20)),
            ("7b", Some(7)),
            ("m", None),
            ("1x", None),
            ("-1", None),
            ("99999999999999999p", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
