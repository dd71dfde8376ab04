//! `rbuild serve`.

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::runtime;
use crate::args::{ServeArgs, StorageArgs};
use crate::config::{Config, ServerChoice};
use crate::engine::{self, Amount, Marks, ServeOptions};
use crate::exit::Problem;
use crate::limits;
use crate::request;
use crate::server;
use crate::values;

/// Serves until it is told to end, or has been idle for long enough.
///
/// # Errors
/// Somebody else serves the store, or it can not be used.
pub(crate) fn run(args: &ServeArgs, config: &Config) -> Result<(), Problem> {
    if let ServerChoice::Socket(_) = config.server {
        return Err(
            Problem::usage("serve: the address of another server means nothing here")
                .help("leave out `--builder` and RBUILD_BUILDER"),
        );
    }
    if config.server == ServerChoice::InProcess {
        return Err(Problem::usage("serve: `--in-process` means nothing here"));
    }
    let idle_timeout = match &args.idle {
        Some(text) => Some(values::duration("--idle", text)?),
        None => None,
    };
    if args.own_session {
        // A Ctrl-C in the terminal of the first client must not reach a server that others use.
        rustix::process::setsid()
            .map_err(|errno| Problem::environment(format!("serve: no session of its own: {errno}")))?;
    }
    let granted = request::grants("--allow-insecure-entitlement", &args.allow_insecure_entitlement)?;
    let options = ServeOptions {
        root: config.root.clone(),
        idle_timeout,
        entitlements: granted.into_iter().collect(),
        hardened: args.hardened,
        device_specs: config.device_specs.clone(),
        marks: marks(&args.storage, config.marks)?,
        sandbox: config.sandbox,
        limits: limits::parse(&args.limits)?,
    };
    log_to_stderr(config)?;
    engine::prepare_process();
    runtime(&mut tokio::runtime::Builder::new_multi_thread())?.block_on(serve(config, options))
}

/// Flags over environment.
fn marks(flags: &StorageArgs, environment: Marks) -> Result<Marks, Problem> {
    let amount = |flag: &str, text: &Option<String>, otherwise: Option<Amount>| match text {
        Some(text) => values::amount(flag, text).map(Some),
        None => Ok(otherwise),
    };
    Ok(Marks {
        keep: amount("--keep-storage", &flags.keep_storage, environment.keep)?,
        min_free: amount("--min-free", &flags.min_free, environment.min_free)?,
        reserved: amount("--reserved", &flags.reserved, environment.reserved)?,
        max_age: match &flags.max_age {
            Some(text) => Some(values::duration("--max-age", text)?),
            None => environment.max_age,
        },
        limit: amount("--max-storage", &flags.max_storage, environment.limit)?,
    })
}

fn log_to_stderr(config: &Config) -> Result<(), Problem> {
    let wanted = config.environment.var("RUST_LOG")?.unwrap_or("info");
    let filter = tracing_subscriber::EnvFilter::try_new(wanted)
        .map_err(|error| Problem::usage(format!("RUST_LOG: `{wanted}`: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}

async fn serve(config: &Config, options: ServeOptions) -> Result<(), Problem> {
    server::make_root(&config.root)?;
    let _lock = server::take_server_lock(&config.root)?;
    let socket = server::socket_path(&config.root);
    let failed = |error: std::io::Error| Problem::environment(format!("`{}`: {error}", socket.display()));
    // We hold the lock, so nobody listens on a socket that is still there.
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let address = server::short(&socket)?;
    let listener = UnixListener::bind(address.path()).map_err(failed)?;
    let shutdown = CancellationToken::new();
    tracing::info!(socket = %socket.display(), version = crate::VERSION, "serving");
    let served = {
        let signals = cancel_on_signal(shutdown.clone());
        let server = engine::serve(options, listener, shutdown);
        tokio::pin!(signals, server);
        tokio::select! {
            served = &mut server => served,
            Err(problem) = &mut signals => Err(problem),
        }
    };
    // While the lock is still held: a successor would find its own socket removed.
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => served.and(Err(failed(error))),
        Ok(()) | Err(_) => served,
    }
}

/// Cancels on the first signal, then waits for ever: the server ends by itself.
async fn cancel_on_signal(shutdown: CancellationToken) -> Result<std::convert::Infallible, Problem> {
    let failed = |error: std::io::Error| Problem::environment(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending: a signal came");
    shutdown.cancel();
    std::future::pending().await
}
