//! One function per command.

mod build;
mod call;
mod check;
mod context;
pub(crate) mod debug;
mod explain;
mod images;
pub(crate) mod inside;
mod login;
mod serve;
mod store;
mod verify;
mod transfer;

use std::future::Future;

use crate::args::{Cli, Command, ContextCommand, StoreCommand};
use crate::config::{Config, Environment, ServerChoice};
use crate::engine;
use crate::exit::Problem;

/// Runs the command.
///
/// # Errors
/// What it was asked for did not happen.
pub(crate) fn run(cli: Cli) -> Result<(), Problem> {
    let config = Config::new(&cli.server, Environment::of_process())?;
    if serves(&cli.command, &config) {
        // Here, where there is one thread: a process with several can not enter a user namespace.
        engine::settle(config.sandbox)?;
    }
    match cli.command {
        Command::Build(args) => build::run(&args, &config),
        Command::Check(args) => check::run(&args, std::io::stdin().lock()),
        Command::Context(ContextCommand::Ls(args)) => context::list(&args),
        Command::Serve(args) => serve::run(&args, &config),
        Command::Images(args) => wait(&config, images::list(&args, &config)),
        Command::Push(args) => wait(&config, transfer::push(args, &config)),
        Command::Pull(args) => wait(&config, transfer::pull(args, &config)),
        Command::Tag(args) => wait(&config, images::tag(args, &config)),
        Command::Rmi(args) => wait(&config, images::remove(args, &config)),
        Command::Inspect(args) => wait(&config, images::inspect(args, &config)),
        Command::History(args) => wait(&config, images::history(args, &config)),
        Command::Login(args) => login::login(&args, &config),
        Command::Logout(args) => login::logout(args, &config),
        Command::Du(args) => wait(&config, store::du(&args, &config)),
        Command::Prune(args) => wait(&config, store::prune(&args, &config)),
        Command::Store(StoreCommand::Verify(args)) => wait(&config, verify::run(&args, &config)),
        Command::Explain(args) => wait(&config, explain::run(args, &config)),
        Command::Version(args) => wait(&config, store::version(&args, &config)),
        Command::Debug(args) => match &args.command {
            Some(command) => debug::run(command),
            None => wait(&config, inside::look(*args, &config)),
        },
        Command::Run(args) => wait(&config, inside::run(*args, &config)),
        Command::Cp(args) => wait(&config, inside::copy(args, &config)),
        Command::Doctor(args) => wait(&config, store::doctor(&args, &config)),
    }
}

/// Whether the command runs steps in this process.
fn serves(command: &Command, config: &Config) -> bool {
    match command {
        // With another choice it refuses to serve.
        Command::Serve(_) => config.server == ServerChoice::OnDemand,
        Command::Check(_) | Command::Context(_) | Command::Debug { .. } | Command::Login(_) | Command::Logout(_) => {
            false
        }
        _ => config.server == ServerChoice::InProcess,
    }
}

/// Runs a client. It only waits, for which one thread is enough, unless the server is in this process too.
fn wait(config: &Config, command: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    let mut builder = match config.server {
        ServerChoice::InProcess => tokio::runtime::Builder::new_multi_thread(),
        ServerChoice::OnDemand | ServerChoice::Socket(_) => tokio::runtime::Builder::new_current_thread(),
    };
    runtime(&mut builder)?.block_on(command)
}

pub(crate) fn runtime(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, Problem> {
    let built = builder.enable_all().build();
    built.map_err(|error| Problem::environment(format!("the runtime can not be started: {error}")))
}
