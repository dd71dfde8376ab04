//! `--secret`: read once, before the build starts, so that a missing one fails at once.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::config::Environment;
use crate::exit::Problem;
use crate::values;

/// Largest secret, as in other builders.
const MAX_SECRET_BYTES: u64 = 500 * 1024;

/// Secrets by their ids.
#[derive(Default)]
pub(crate) struct Secrets(BTreeMap<String, Vec<u8>>);

impl std::fmt::Debug for Secrets {
    /// Ids only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Parses and reads all `--secret` flags.
    pub(crate) fn read(flags: &[String], environment: &Environment) -> Result<Self, Problem> {
        let mut secrets = BTreeMap::new();
        for flag in flags {
            let (id, value) = read_one(flag, environment)?;
            if secrets.insert(id.clone(), value).is_some() {
                return Err(Problem::usage(format!("--secret: `{id}` is given twice")));
            }
        }
        Ok(Self(secrets))
    }

    /// The ids, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// A value.
    pub(crate) fn value(&self, id: &str) -> Option<&[u8]> {
        self.0.get(id).map(Vec::as_slice)
    }
}

fn read_one(flag: &str, environment: &Environment) -> Result<(String, Vec<u8>), Problem> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for field in values::csv(flag)? {
        let (key, value) = values::key_value("--secret", &field)?;
        let slot = match key {
            "id" => &mut id,
            "src" | "source" => &mut source,
            "env" => &mut variable,
            "type" => &mut kind,
            _ => {
                return Err(
                    Problem::usage(format!("--secret: there is no key `{key}`")).help("keys are id, src and env")
                );
            }
        };
        *slot = Some(value.to_owned());
    }
    match kind.as_deref() {
        None | Some("file") => {}
        // With `type=env`, `src` names the variable.
        Some("env") => variable = variable.or_else(|| source.take()),
        Some(other) => {
            return Err(Problem::usage(format!("--secret: there is no type `{other}`")).help("types are file and env"));
        }
    }
    let id = match (id, &source) {
        (Some(id), _) if !id.is_empty() => id,
        (None, Some(source)) => base_name(source)?,
        _ => return Err(Problem::usage(format!("--secret: `{flag}` has no id"))),
    };
    let value = match (source, variable, kind.as_deref()) {
        (Some(_), Some(_), _) => {
            return Err(Problem::usage(format!(
                "--secret: `{id}` comes from a file or a variable, not from both"
            )));
        }
        (Some(path), None, _) => read_file(&id, &path)?,
        (None, Some(name), _) => read_variable(&id, &name, environment)?,
        (None, None, Some("file")) => read_file(&id, &id)?,
        (None, None, _) => match environment.bytes(&id) {
            Some(value) if kind.is_none() || kind.as_deref() == Some("env") => value.to_vec(),
            _ => read_file(&id, &id)?,
        },
    };
    Ok((id, value))
}

fn base_name(path: &str) -> Result<String, Problem> {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| Problem::usage(format!("--secret: `{path}` has no file name to take the id from")))
}

fn read_variable(id: &str, name: &str, environment: &Environment) -> Result<Vec<u8>, Problem> {
    let value = environment.bytes(name).map(<[u8]>::to_vec);
    value.ok_or_else(|| {
        Problem::usage(format!(
            "--secret: `{id}`: the environment variable `{name}` is not set"
        ))
    })
}

fn read_file(id: &str, path: &str) -> Result<Vec<u8>, Problem> {
    let failed = |error| Problem::usage(format!("--secret: `{id}`: failed to read `{path}`: {error}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut value = Vec::new();
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut value)
        .map_err(failed)?;
    if value.len() as u64 > MAX_SECRET_BYTES {
        return Err(Problem::usage(format!(
            "--secret: `{id}`: `{path}` is larger than {MAX_SECRET_BYTES} bytes"
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str], pairs: &[(&str, &str)]) -> Result<Secrets, Problem> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Secrets::read(&flags, &Environment::of(pairs))
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_variable() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token.txt");
        std::fs::write(&file, "from file").unwrap();
        let file = file.to_str().unwrap();
        let variables = [("TOKEN", "from variable"), ("plain", "by id"), ("empty", "")];
        let flags = [
            &format!("id=a,src={file}"),
            "id=b,env=TOKEN",
            "id=plain",
            "id=c,type=env,src=TOKEN",
            &format!("src={file}"),
            "id=e,env=empty",
        ];
        let secrets = read(&flags, &variables).unwrap();
        assert_eq!(secrets.value("a"), Some(&b"from file"[..]));
        assert_eq!(secrets.value("b"), Some(&b"from variable"[..]));
        assert_eq!(secrets.value("plain"), Some(&b"by id"[..]));
        assert_eq!(secrets.value("c"), Some(&b"from variable"[..]));
        assert_eq!(secrets.value("token.txt"), Some(&b"from file"[..]));
        assert_eq!(secrets.value("e"), Some(&b""[..]));
        assert_eq!(secrets.value("x"), None);
        assert!(!format!("{secrets:?}").contains("from"));
    }

    #[test]
    fn secrets_that_can_not_be_read_fail_at_once() {
        for (flag, words) in [
            ("id=a,src=/does/not/exist", "failed to read `/does/not/exist`"),
            ("id=a,env=NOT_SET", "`NOT_SET` is not set"),
            ("id=a,src=x,env=Y", "not from both"),
            ("id=a,type=ssh", "no type `ssh`"),
            ("env=A", "has no id"),
            ("id=a,mode=1", "no key `mode`"),
            ("a", "KEY=VALUE"),
        ] {
            let message = read(&[flag], &[]).unwrap_err().message;
            assert!(message.contains(words), "{flag}: {message}");
        }
        let twice = read(&["id=a", "id=a"], &[("a", "1")]).unwrap_err();
        assert!(twice.message.contains("given twice"));
    }

    #[test]
    fn large_secrets_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("big");
        std::fs::write(&file, vec![0; 500 * 1024 + 1]).unwrap();
        let flag = format!("id=a,src={}", file.display());
        assert!(read(&[&flag], &[]).unwrap_err().message.contains("larger than 512000"));
    }
}
