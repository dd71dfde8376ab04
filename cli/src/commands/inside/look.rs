//! `rbuild debug BUILD [STEP] [-- CMD…]`: a shell, or a program, in what a step left.

use proto::v1;
use proto::v1::exec_root::Root;

use super::args::DebugArgs;
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
pub(crate) async fn run(args: DebugArgs, config: &Config) -> Result<(), Problem> {
    ended(look(args, config).await)
}

async fn look(args: DebugArgs, config: &Config) -> Result<u8, Problem> {
    let environment = &config.environment;
    let secrets = Secrets::read(&args.secrets, environment)?;
    let agents = Agents::read(&args.ssh, environment)?;
    let step = match (args.build, args.step) {
        (Some(word), None) => v1::StepOfBuild {
            build_or_step: word,
            ..v1::StepOfBuild::default()
        },
        (build, step) => v1::StepOfBuild {
            build: build.unwrap_or_default(),
            step: step.unwrap_or_default(),
            build_or_step: String::new(),
        },
    };
    let start = v1::ExecStart {
        root: Some(v1::ExecRoot {
            root: Some(Root::Step(step)),
        }),
        args: args.args,
        shell: args.shell.unwrap_or_default(),
        env: variables(&args.process.env, environment)?,
        user: args.process.user,
        working_dir: args.process.workdir,
        stdin: true,
        terminal: terminal::is_one().then(|| terminal::here(environment)).transpose()?,
        network: args.network.unwrap_or_default(),
        entitlements: args.process.allow,
        ..v1::ExecStart::default()
    };
    server::with(config, async |connection| {
        let session = session(secrets, agents, config, connection)?;
        attach::run(connection, session, start).await
    })
    .await
}
