//! What a client sends must not end the server: a panic while a call is answered is an internal error of that call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// Puts a [`Guarded`] around services.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard;

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded(inner)
    }
}

/// A service whose panics are answers.
#[derive(Debug, Clone)]
pub(super) struct Guarded<S>(S);

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        // The services share their state through locks that are whole after a panic, or say that they are not.
        let called = catch_unwind(AssertUnwindSafe(|| self.0.call(request)));
        async move {
            let outcome = match called {
                Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            outcome.unwrap_or_else(|_| {
                tracing::error!(path, "a call ended in a panic, which is a bug");
                Ok(Status::internal("a bug of the build server ended this call").into_http())
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s06_a_panic_ends_its_call_and_nothing_else() {
        let service = tower::service_fn(|request: Request<&'static str>| async move {
            assert_ne!(*request.body(), "bad", "on purpose");
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let mut guarded = Guard.layer(service);
        for (body, status) in [("bad", Some("13")), ("good", None)] {
            let answer = guarded.call(Request::new(body)).await.unwrap();
            let found = answer.headers().get("grpc-status").map(|value| value.to_str().unwrap());
            assert_eq!(found, status, "{body}");
        }
    }

    #[tokio::test]
    async fn s06_a_panic_before_the_first_wait_counts_as_well() {
        let service = tower::service_fn(|request: Request<&'static str>| {
            assert_ne!(*request.body(), "bad", "on purpose");
            async { Ok::<_, std::convert::Infallible>(Response::new(Body::empty())) }
        });
        let answer = Guard.layer(service).call(Request::new("bad")).await.unwrap();
        assert_eq!(answer.headers().get("grpc-status").unwrap(), "13");
    }
}
