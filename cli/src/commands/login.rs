//! `rbuild login` and `rbuild logout`.

use std::io::Read;

use crate::args::{LoginArgs, LogoutArgs};
use crate::config::Config;
use crate::engine::{self, Login};
use crate::exit::Problem;
use crate::ui;

/// Longest password: tokens of registries are a few KiB.
const MAX_PASSWORD_BYTES: u64 = 64 * 1024;

const DEFAULT_REGISTRY: &str = "docker.io";

/// Remembers a login.
///
/// # Errors
/// There is no password, or it could not be kept.
pub(crate) fn login(args: &LoginArgs, config: &Config) -> Result<(), Problem> {
    let registry = args.registry.as_deref().unwrap_or(DEFAULT_REGISTRY);
    let login = Login {
        username: args.username.clone(),
        password: password(std::io::stdin().lock())?,
        identity_token: String::new(),
    };
    engine::store_login(&config.docker_config, registry, &login)?;
    ui::remark(&format!(
        "the login for {registry} is kept; the first pull or push will show whether it works"
    ));
    Ok(())
}

/// Forgets a login.
///
/// # Errors
/// It could not be removed.
pub(crate) fn logout(args: LogoutArgs, config: &Config) -> Result<(), Problem> {
    let registry = args.registry.unwrap_or_else(|| DEFAULT_REGISTRY.to_owned());
    if !engine::erase_login(&config.docker_config, &registry)? {
        ui::remark(&format!("there was no login for {registry}"));
    }
    Ok(())
}

/// A password as a stream gives it, without the line end that `echo` adds.
fn password(stream: impl Read) -> Result<String, Problem> {
    let mut password = String::new();
    stream
        .take(MAX_PASSWORD_BYTES)
        .read_to_string(&mut password)
        .map_err(|error| Problem::usage(format!("the password from stdin: {error}")))?;
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password {
        "" => Err(Problem::usage("there is no password on stdin")),
        password => Ok(password.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_a_password() {
        assert_eq!(password(&b"a b\r\n"[..]).unwrap(), "a b");
        assert_eq!(password(&b"a\n\n"[..]).unwrap(), "a\n");
        assert!(password(&b"\n"[..]).is_err());
        assert!(password(&b"\xff"[..]).is_err());
    }
}
