//! How clients reach the services: a unix socket of the store's owner, or memory.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::v1::admin_server::AdminServer;
use proto::v1::build_server::BuildServer;
use proto::v1::exec_server::ExecServer;
use proto::v1::session_server::SessionServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tower::layer::util::{Identity, Stack};

use super::guard::Guard;
use super::{ServeError, ServeOptions, Shared, connections, open_host};

/// Largest message a client may send. Files travel in chunks far below it.
const MESSAGE_LIMIT: usize = 4 << 20;
/// Calls of one connection at the same time.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Bytes of headers of one call.
const HEADER_LIMIT: u32 = 16 << 10;
/// Streams a client may reset before the server looked at them.
const PENDING_RESETS: usize = 20;
/// Streams of a connection that the server had to reset for what the client sent.
const ERROR_RESETS: usize = 100;
/// Calls of one connection that are worked on at the same time.
const CALLS_PER_CONNECTION: usize = 64;
/// Connections at the same time; more wait. There is no keep-alive: a client on the same machine that is stopped and goes on
/// later loses nothing, and one that ends closes its socket.
const CONNECTIONS: usize = 256;
/// How long clients may take to leave after everything has ended, so that last answers reach them.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves on `listener` until `shutdown`, then ends what runs. The caller owns the socket.
///
/// # Errors
/// A store that cannot be opened, a transport that fails.
pub async fn serve(
    options: ServeOptions,
    listener: UnixListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let host = open_host(&options).await?;
    let shared = Shared::new(host, options, shutdown.clone());
    if let Some(timeout) = shared.idle_timeout {
        shared.tasks.spawn(Arc::clone(&shared).end_when_idle(timeout));
    }
    shared.tasks.spawn(Arc::clone(&shared).expire_kept());
    let incoming = connections::counted(listener, CONNECTIONS);
    let served = router(&shared).serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        result = served => { end(&shared).await; result.map_err(ServeError::from) }
        // Streams of clients that do not leave must not keep a server alive that was told to end.
        () = async { shutdown.cancelled().await; end(&shared).await; tokio::time::sleep(LEAVE_TIMEOUT).await } => Ok(()),
    }
}

/// A server inside this process, and the channel to it.
#[derive(Debug)]
pub struct InProcess {
    /// For the clients of `rbuild.v1`.
    pub channel: Channel,
    /// Ends after `shutdown`, when nothing of the server is left.
    pub ended: tokio::task::JoinHandle<Result<(), ServeError>>,
}

/// Bytes that may be under way between client and server in one process.
const DUPLEX_BUFFER: usize = 1 << 20;

/// Starts a server inside this process. Nothing listens anywhere.
///
/// # Errors
/// A store that cannot be opened.
pub async fn in_process(options: ServeOptions, shutdown: CancellationToken) -> Result<InProcess, ServeError> {
    let host = open_host(&options).await?;
    let shared = Shared::new(host, options, shutdown.clone());
    let (connections, incoming) = tokio::sync::mpsc::channel::<Result<Memory, std::io::Error>>(4);
    let served =
        router(&shared).serve_with_incoming_shutdown(ReceiverStream::new(incoming), shutdown.clone().cancelled_owned());
    let ended = tokio::spawn(async move {
        tokio::select! {
            result = served => { end(&shared).await; result.map_err(ServeError::from) }
            // The only client is this process, and it has what it wants when it asks for the end.
            () = async { shutdown.cancelled().await; end(&shared).await } => Ok(()),
        }
    });
    let connect = tower::service_fn(move |_| {
        let connections = connections.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(DUPLEX_BUFFER);
            connections
                .send(Ok(Memory(theirs)))
                .await
                .map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    let endpoint = Endpoint::from_static("http://in-process");
    Ok(InProcess {
        channel: endpoint.connect_with_connector_lazy(connect),
        ended,
    })
}

/// Ends all builds, waits for their tasks, and makes what they left for the next build durable: a build that failed at its last
/// step keeps its first ones.
async fn end(shared: &Arc<Shared>) {
    shared.builds.cancel_all();
    shared.tasks.close();
    shared.tasks.wait().await;
    shared.host.executor.close().await;
    let layers = shared.host.layers.clone();
    if let Err(error) = crate::blocking::run(move || layers.make_durable()).await {
        tracing::warn!(%error, "results of the last builds are lost: they will run again");
    }
}

/// One end of an in-memory connection.
struct Memory(tokio::io::DuplexStream);

/// Marks connections within one process: client and server are the same user by definition.
#[derive(Debug, Clone, Copy)]
pub struct SameProcess;

impl Connected for Memory {
    type ConnectInfo = SameProcess;

    fn connect_info(&self) -> SameProcess {
        SameProcess
    }
}

impl tokio::io::AsyncRead for Memory {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Memory {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}

fn router(shared: &Arc<Shared>) -> tonic::transport::server::Router<Stack<Guard, Identity>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    shared
        .tasks
        .spawn(async move { reporter.set_serving::<BuildServer<super::builds::BuildService>>().await });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::v1::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are compiled into this program");
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_LIMIT)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS))
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .layer(Guard)
        .add_service(health)
        .add_service(reflection)
        .add_service(
            BuildServer::new(super::builds::BuildService(Arc::clone(shared))).max_decoding_message_size(MESSAGE_LIMIT),
        )
        .add_service(
            SessionServer::new(super::sessions::SessionService(Arc::clone(shared)))
                .max_decoding_message_size(MESSAGE_LIMIT),
        )
        .add_service(
            AdminServer::new(super::admin::AdminService(Arc::clone(shared))).max_decoding_message_size(MESSAGE_LIMIT),
        )
        .add_service(
            ExecServer::new(super::exec::ExecService(Arc::clone(shared))).max_decoding_message_size(MESSAGE_LIMIT),
        )
}
