//! The proxies of docker's `config.json`: every build gets them as build arguments, as `docker build` does.
//!
//! Source: docker/cli `cli/config/configfile`, member `proxies`. Only `default` counts: the other members are addresses of daemons.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use crate::exit::Problem;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    proxies: HashMap<String, Proxies>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Proxies {
    http_proxy: String,
    https_proxy: String,
    ftp_proxy: String,
    no_proxy: String,
    all_proxy: String,
}

/// Adds the proxies of `directory/config.json` to `build_args`, in both cases of their names, where these are not given.
///
/// # Errors
/// A file that cannot be read, or is not what docker writes. No file is no error.
pub(crate) fn add(directory: &Path, build_args: &mut HashMap<String, String>) -> Result<(), Problem> {
    let path = directory.join("config.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => {
            return Err(Problem::environment(format!(
                "`{}` can not be read: {error}",
                path.display()
            )));
        }
    };
    // Where it breaks is told, its words are not: it may hold passwords.
    let config: DockerConfig = serde_json::from_slice(&bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Problem::usage(format!("`{}` is malformed: {place}", path.display()))
    })?;
    let Some(proxies) = config.proxies.get("default") else {
        return Ok(());
    };
    for (name, value) in [
        ("HTTP_PROXY", &proxies.http_proxy),
        ("HTTPS_PROXY", &proxies.https_proxy),
        ("FTP_PROXY", &proxies.ftp_proxy),
        ("NO_PROXY", &proxies.no_proxy),
        ("ALL_PROXY", &proxies.all_proxy),
    ] {
        if value.is_empty() {
            continue;
        }
        for name in [name.to_owned(), name.to_lowercase()] {
            build_args.entry(name).or_insert_with(|| value.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(config: &str, given: &[(&str, &str)]) -> Result<Vec<String>, Problem> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        let mut build_args = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        add(directory.path(), &mut build_args)?;
        let mut shown: Vec<String> = build_args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        shown.sort();
        Ok(shown)
    }

    #[test]
    fn proxies_are_added_in_both_cases_unless_they_are_given() {
        let config =
            r#"{"auths":{},"proxies":{"default":{"httpProxy":"http://p","noProxy":"a,b"},"tcp://d":{"allProxy":"x"}}}"#;
        assert_eq!(
            added(config, &[("http_proxy", "mine")]).unwrap(),
            ["HTTP_PROXY=http://p", "NO_PROXY=a,b", "http_proxy=mine", "no_proxy=a,b"]
        );
        assert!(added("{}", &[]).unwrap().is_empty());
    }

    #[test]
    fn a_broken_file_is_named_and_not_quoted() {
        let problem = format!("{:?}", added("{\"auths\": hunter2}", &[]).unwrap_err());
        assert!(
            problem.contains("config.json") && !problem.contains("hunter2"),
            "{problem}"
        );
    }

    #[test]
    fn no_file_is_no_error() {
        add(Path::new("/nonexistent"), &mut HashMap::new()).unwrap();
    }
}
