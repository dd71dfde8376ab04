//! `rbuild run`: an image of the store, for a look whether it works.

use proto::v1;
use proto::v1::exec_root::Root;

use super::args::RunArgs;
use super::{attach, ended, session, terminal, variables};
use crate::agent::Agents;
use crate::config::Config;
use crate::exit::Problem;
use crate::secret::Secrets;
use crate::server;

/// Runs it.
///
/// # Errors
/// What the program ends with, or why there is none.
pub(crate) async fn run(args: RunArgs, config: &Config) -> Result<(), Problem> {
    ended(run_image(args, config).await)
}

async fn run_image(args: RunArgs, config: &Config) -> Result<u8, Problem> {
    if !args.volumes.is_empty() {
        return Err(Problem::usage(
            "--volume: an image runs on files of its own, and nothing of this machine is mounted",
        )
        .help("copy files into the image with a Dockerfile, and out of it with `rbuild cp`"));
    }
    let environment = &config.environment;
    let secrets = Secrets::read(&args.secrets, environment)?;
    let start = v1::ExecStart {
        root: Some(v1::ExecRoot {
            root: Some(Root::Image(args.image)),
        }),
        args: args.args,
        entrypoint: args.entrypoint.into_iter().collect(),
        env: variables(&args.process.env, environment)?,
        user: args.process.user,
        working_dir: args.process.workdir,
        stdin: args.interactive,
        terminal: args.manner.tty.then(|| terminal::here(environment)).transpose()?,
        // What docker calls its own default.
        network: match args.network.as_str() {
            "bridge" => "default".to_owned(),
            _ => args.network,
        },
        read_only: args.manner.read_only,
        platform: args.platform.unwrap_or_default(),
        entitlements: args.process.allow,
        secret_files: secrets.ids().cloned().collect(),
        ..v1::ExecStart::default()
    };
    server::with(config, async |connection| {
        let session = session(secrets, Agents::default(), config, connection)?;
        attach::run(connection, session, start).await
    })
    .await
}
