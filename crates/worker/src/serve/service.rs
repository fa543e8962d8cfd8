//! The program's service: what it has to be, and how its requests and responses are counted.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::activity::{Activity, Half};
use super::body::{RequestBody, ResponseBody};
use crate::error::BoxError;

/// What [`serve`](crate::serve) serves: every `tower` service that answers HTTP requests, such as an axum `Router`.
///
/// It is a name for the bounds; implement `tower`'s `Service`. The service is cloned for each connection and request.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service that `serve` can serve",
    note = "it has to be a `tower` service from `Request<RequestBody>` to `Response<_>`, and `Clone + Send + 'static`"
)]
pub trait HttpService:
    Service<
        Request<RequestBody>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

/// The client's address, which [`serve`](crate::serve) puts among the extensions of each request that came by TCP.
///
/// # Examples
/// ```
/// use axum::Extension;
/// use worksong_worker::PeerAddress;
///
/// async fn who(Extension(PeerAddress(peer)): Extension<PeerAddress>) -> String {
///     format!("you are {peer}\n")
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(who));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// A service as hyper wants it.
pub(super) struct Counted<S> {
    service: TowerToHyperService<S>,
    activity: Arc<Activity>,
    peer: Option<PeerAddress>,
}

impl<S> Counted<S> {
    pub(super) fn new(service: S, activity: Arc<Activity>, peer: Option<PeerAddress>) -> Self {
        Self { service: TowerToHyperService::new(service), activity, peer }
    }
}

// The service is never pinned: it is cloned for each request.
impl<S> Unpin for Counted<S> {}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for Counted<S> {
    type Response = Response<ResponseBody<S::ResponseBody>>;
    type Error = S::Error;
    type Future = Answering<Called<S>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let half = self.activity.begin();
        let mut request = request.map(|body| RequestBody::new(body, &self.activity));
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let future = hyper::service::Service::call(&self.service, request);
        Answering { future, half: Some(half) }
    }
}

type Called<S> = <TowerToHyperService<S> as hyper::service::Service<Request<RequestBody>>>::Future;

pin_project! {
    /// A response on its way.
    pub(super) struct Answering<F> {
        #[pin]
        future: F,
        half: Option<Half>,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let half = this.half.take().expect("invariant: a future is not polled after its end");
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, half))))
    }
}
