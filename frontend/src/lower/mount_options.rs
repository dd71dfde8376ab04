//! The options of one `RUN --mount`: which there are, what they may say, and for which type of mount.
//!
//! They are read in order, as other builders do: an option that only some types have stands behind `type`.

use proto::definition::Sharing;

use super::mount::from_word;
use super::owner::MAX_ID;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Mount, Word};
use crate::parse::switch;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountType {
    /// Files of a stage, an image or a context.
    #[default]
    Bind,
    /// A directory that outlives the step.
    Cache,
    /// An empty directory.
    Tmpfs,
    /// A file or variable that is in no layer.
    Secret,
    /// The socket of an agent.
    Ssh,
}

/// The options of one mount. What is not given is nothing: defaults are filled in where the mount is lowered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// `type`
    pub kind: MountType,
    /// `target`, `dst`, `destination`
    pub target: Option<String>,
    /// `source`, `src`
    pub source: Option<String>,
    /// `from`, never expanded
    pub from: Option<String>,
    /// `id`
    pub id: Option<String>,
    /// `env`
    pub env: Option<String>,
    /// `rw`, `ro` and their long forms
    pub writable: Option<bool>,
    /// `required`
    pub required: bool,
    /// `sharing`
    pub sharing: Option<Sharing>,
    /// `size`
    pub size_bytes: Option<u64>,
    /// `mode`, written in octal
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
}

impl MountType {
    /// How the option calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    fn parse(word: &Word, text: &str) -> Result<Self, Diagnostic> {
        let all = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];
        let found = all.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let error = Diagnostic::error("invalid-mount", word.span, format!("unsupported mount type \"{text}\""));
            match suggest::nearest(text, all.map(Self::name)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error,
            }
        })
    }
}

impl MountOptions {
    /// Reads options whose values have no variables.
    ///
    /// # Errors
    /// An option that does not exist, does not belong to the type, or whose value means nothing.
    pub fn as_written(mount: &Mount) -> Result<Self, Diagnostic> {
        Self::read(mount, |word| Ok(word.value.clone()))
    }

    /// Reads the options; values are expanded, `from` is not.
    pub(crate) fn read(
        mount: &Mount,
        expand: impl Fn(&Word) -> Result<String, Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        let mut options = Self::default();
        let mut said: Vec<&str> = Vec::new();
        for (key, value) in &mount.options {
            let meaning = meaning(&key.value);
            if said.contains(&meaning) {
                return Err(said_twice(key, meaning));
            }
            said.push(meaning);
            match value {
                None => options.switch_on(key)?,
                Some(word) if key.value == "from" => options.from = Some(word.value.clone()),
                Some(word) => options.set(key, word, &expand(word)?)?,
            }
        }
        options.check(mount)?;
        Ok(options)
    }

    /// A key without a value.
    fn switch_on(&mut self, key: &Word) -> Result<(), Diagnostic> {
        match key.value.as_str() {
            "readonly" | "ro" => self.writable = Some(false),
            "readwrite" | "rw" => self.writable = Some(true),
            "required" => {
                self.only_for(key, &[MountType::Secret, MountType::Ssh])?;
                self.required = true;
            }
            _ => return Err(unknown_key(key, &key.value)),
        }
        Ok(())
    }

    fn set(&mut self, key: &Word, word: &Word, text: &str) -> Result<(), Diagnostic> {
        let invalid = || invalid(key, word, text);
        match key.value.as_str() {
            "type" => self.kind = MountType::parse(word, text)?,
            "source" | "src" => self.source = Some(text.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(text.to_owned()),
            "id" => self.id = Some(text.to_owned()),
            "env" => self.env = Some(text.to_owned()),
            "readonly" | "ro" => self.writable = Some(!switch(text).ok_or_else(invalid)?),
            "readwrite" | "rw" => self.writable = Some(switch(text).ok_or_else(invalid)?),
            "required" => {
                self.only_for(key, &[MountType::Secret, MountType::Ssh])?;
                self.required = switch(text).ok_or_else(invalid)?;
            }
            "sharing" => self.sharing = Some(sharing(word, text)?),
            "size" => {
                self.only_for(key, &[MountType::Tmpfs])?;
                self.size_bytes = Some(size(text).ok_or_else(invalid)?);
            }
            "mode" => self.mode = Some(number(text, 8).ok_or_else(invalid)?),
            "uid" => self.uid = Some(id(text).ok_or_else(invalid)?),
            "gid" => self.gid = Some(id(text).ok_or_else(invalid)?),
            _ => return Err(unknown_key(key, &format!("{}={}", key.value, word.value))),
        }
        Ok(())
    }

    fn only_for(&self, key: &Word, kinds: &[MountType]) -> Result<(), Diagnostic> {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        let message = format!("unexpected key '{}' for mount type '{}'", key.value, self.kind.name());
        let error = Diagnostic::error("invalid-mount", key.span, message);
        let names: Vec<String> = kinds.iter().map(|kind| format!("`type={}`", kind.name())).collect();
        Err(error.help(format!("write it behind {}", names.join(" or "))))
    }

    /// What only all options together say.
    fn check(&self, mount: &Mount) -> Result<(), Diagnostic> {
        let wrong = |message: String| Diagnostic::error("invalid-mount", mount.raw.span, message);
        let owned = matches!(self.kind, MountType::Cache | MountType::Secret | MountType::Ssh);
        let access = mount
            .options
            .iter()
            .find(|(key, _)| matches!(key.value.as_str(), "mode" | "uid" | "gid"));
        if let (false, Some((key, _))) = (owned, access) {
            let message = format!("{} not allowed for \"{}\" type mounts", key.value, self.kind.name());
            return Err(Diagnostic::error("invalid-mount", key.span, message));
        }
        match self.kind {
            MountType::Secret => self.check_secret(mount),
            MountType::Cache => Ok(()),
            other if self.sharing.is_some() => {
                Err(wrong(format!("invalid cache sharing set for {} mount", other.name())))
            }
            _ => Ok(()),
        }
    }

    fn check_secret(&self, mount: &Mount) -> Result<(), Diagnostic> {
        let wrong = |message: &str| Err(Diagnostic::error("invalid-mount", mount.raw.span, message));
        let given = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        if let Some(from) = from_word(mount) {
            let message = "secret mount should not have a from";
            return Err(Diagnostic::error("invalid-mount", from.span, message));
        }
        match (given(&self.source), given(&self.id), given(&self.target)) {
            _ if self.sharing.is_some() => wrong("secret mount should not define sharing"),
            (false, false, false) => wrong("invalid secret mount. one of source, target required"),
            (true, true, _) => wrong("both source and id can't be set"),
            _ => Ok(()),
        }
    }
}

/// Digits only: no sign.
fn number(text: &str, radix: u32) -> Option<u32> {
    let digits = text.chars().all(|ch| ch.is_digit(radix));
    // Too large is as wrong as no number; the caller names the text.
    if digits {
        u32::from_str_radix(text, radix).ok()
    } else {
        None
    }
}

/// A user or group. The largest number means "nobody in particular" to the kernel, which then changes nothing.
fn id(text: &str) -> Option<u32> {
    number(text, 10).filter(|number| *number <= MAX_ID)
}

/// What an option is about, however it is called: two answers to one question are none.
fn meaning(key: &str) -> &str {
    match key {
        "src" => "source",
        "dst" | "destination" => "target",
        "readonly" | "ro" | "readwrite" | "rw" => "access",
        other => other,
    }
}

fn said_twice(key: &Word, meaning: &str) -> Diagnostic {
    let message = match meaning {
        "access" => "a mount is said to be readable or writable more than once".to_owned(),
        other => format!("the {other} of a mount is given more than once"),
    };
    Diagnostic::error("invalid-mount", key.span, message)
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
    if KEYS.contains(&key.value.as_str()) {
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

/// Bytes with an optional unit: `64m`, `1GiB`, `1.5k`. Units count in 1024s; a fraction of a byte is cut off.
fn size(text: &str) -> Option<u64> {
    let end = text.rfind(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == ' ')? + 1;
    let (number, unit) = text.split_at(end);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let unit_bytes = 1_u64 << unit_shift(&unit.to_ascii_lowercase())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?
    };
    // Eighteen digits are finer than a byte of any unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let parts: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let below = u128::from(parts) * u128::from(unit_bytes) / scale;
    whole.checked_mul(unit_bytes)?.checked_add(u64::try_from(below).ok()?)
}

fn unit_shift(unit: &str) -> Option<u32> {
    Some(match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1m", Some(1 << 20)),
            ("1.5k", Some(1536)),
            (".5k", Some(512)),
            ("0.3k", Some(307)),
            ("2GiB", Some(2 << 30)),
            ("64 MB", Some(64 << 20)),
            ("7b", Some(7)),
            ("", None),
            (".", None),
            ("m", None),
            ("1x", None),
            ("-1", None),
            ("99999999999999999p", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn numbers_have_no_sign() {
        assert_eq!(number("0755", 8), Some(0o755));
        assert_eq!((number("+7", 10), number("8", 8), number("", 10)), (None, None, None));
        let ids = ["2147483646", "2147483647", "4294967295", "4294967296", "-1", "0x0"].map(id);
        assert_eq!(ids, [Some(2_147_483_646), None, None, None, None, None]);
    }
}
