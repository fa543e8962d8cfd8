//! What is answered where.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, http};
use serde::Serialize;
use worksong_engine::engine::App;

use crate::clerk::Clerk;

/// What a handler needs.
#[derive(Clone, Debug)]
struct Desk {
    clerk: Clerk,
    /// In the order of the clerk's.
    apps: Arc<[Box<str>]>,
}

/// The address of ours that a connection came to; a Unix socket has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached(pub(crate) Option<IpAddr>);

/// Where a client shall connect.
#[derive(Debug, Serialize)]
struct Assignment<'a> {
    app: &'a str,
    slot: u32,
    host: &'a str,
    port: u16,
    /// Both in one, as `host:port`.
    address: String,
    connections: u64,
}

/// Returns all routes, for these apps.
pub(crate) fn routes(apps: Vec<App>) -> Router {
    let names = apps.iter().map(|app| app.name().into()).collect();
    let desk = Desk { clerk: Clerk::start(apps), apps: names };
    Router::new()
        .route("/assign", get(assign))
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_so)
        .with_state(desk)
}

async fn nothing_here() -> Response {
    refusal(StatusCode::NOT_FOUND, "there is nothing here; try /assign")
}

async fn not_so() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "this can only be read; use GET")
}

async fn assign(
    State(desk): State<Desk>,
    Extension(reached): Extension<Reached>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let app = match wanted_app(&desk.apps, query.as_deref()) {
        Ok(app) => app,
        Err(response) => return *response,
    };
    let name = &*desk.apps[app];
    let Some(assigned) = desk.clerk.assign(app).await else {
        let mut response = refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!(
                "no worker of {name} is in rotation and listens at a port of its own; see --dialect port and --port"
            ),
        );
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    };
    let host = host(&headers, reached);
    let port = assigned.place.port;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut response = if wants_text(&headers) {
        format!("{address}\n").into_response()
    } else {
        let slot = assigned.place.worker.slot.0;
        json(&Assignment { app: name, slot, host: &host, port, address, connections: assigned.connections })
    };
    // The page that asks comes from elsewhere, and the answer is good for once.
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Finds the app that is asked for; where there is only one it need not be named.
fn wanted_app(apps: &[Box<str>], query: Option<&str>) -> Result<usize, Box<Response>> {
    let named = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("app="));
    match (named, apps) {
        (None, [_only]) => Ok(0),
        (None, _) => {
            let text = format!("which app? write /assign?app=NAME with one of {}", apps.join(", "));
            Err(Box::new(refusal(StatusCode::BAD_REQUEST, &text)))
        }
        (Some(named), _) => apps.iter().position(|app| **app == *named).ok_or_else(|| {
            let text = format!("no app is called {named:?}; there is {}", apps.join(", "));
            Box::new(refusal(StatusCode::NOT_FOUND, &text))
        }),
    }
}

/// Returns the name by which the client has reached this machine, so that it can do so again.
fn host(headers: &HeaderMap, reached: Reached) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<http::uri::Authority>().ok());
    let named =
        host.as_ref().map(|host| host.host().trim_matches(['[', ']'])).filter(|name| !name.is_empty());
    match (named, reached.0) {
        (Some(name), _) => name.to_owned(),
        (None, Some(address)) => address.to_canonical().to_string(),
        (None, None) => "localhost".to_owned(),
    }
}

fn wants_text(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    accepted.split([',', ';']).next().is_some_and(|first| first.trim() == "text/plain")
}

fn refusal(status: StatusCode, error: &str) -> Response {
    #[derive(Serialize)]
    struct Refusal<'a> {
        error: &'a str,
    }
    let mut response = json(&Refusal { error });
    *response.status_mut() = status;
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn json(value: &impl Serialize) -> Response {
    let mut text = serde_json::to_string(value).expect("invariant: names, numbers and texts are JSON");
    text.push('\n');
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_client_is_sent_to_the_host_that_it_has_reached() {
        let address = Reached(Some("::ffff:192.0.2.1".parse().expect("an address")));
        for (told, name) in [
            ("ws.example.org:9000", "ws.example.org"),
            ("ws.example.org", "ws.example.org"),
            ("[2001:db8::1]:9000", "2001:db8::1"),
            ("192.0.2.7:9000", "192.0.2.7"),
            ("a b", "192.0.2.1"),
            ("", "192.0.2.1"),
        ] {
            assert_eq!(host(&headers(&[(HOST, told)]), address), name, "{told:?}");
        }
        assert_eq!(host(&HeaderMap::new(), address), "192.0.2.1");
        assert_eq!(host(&HeaderMap::new(), Reached(None)), "localhost");
    }

    #[test]
    fn json_is_the_default() {
        assert!(wants_text(&headers(&[(ACCEPT, "text/plain")])));
        assert!(wants_text(&headers(&[(ACCEPT, "text/plain;q=0.9, */*")])));
        for other in ["*/*", "application/json, text/plain, */*", ""] {
            assert!(!wants_text(&headers(&[(ACCEPT, other)])), "{other}");
        }
    }

    #[test]
    fn an_app_is_named_where_there_are_several() {
        let status = |wanted: Result<usize, Box<Response>>| wanted.map_err(|response| response.status());
        let one: [Box<str>; 1] = ["api".into()];
        let two: [Box<str>; 2] = ["api".into(), "web".into()];
        assert_eq!(status(wanted_app(&one, None)), Ok(0));
        assert_eq!(status(wanted_app(&two, Some("x=1&app=web"))), Ok(1));
        assert_eq!(status(wanted_app(&two, None)), Err(StatusCode::BAD_REQUEST));
        assert_eq!(status(wanted_app(&one, Some("app=web"))), Err(StatusCode::NOT_FOUND));
    }
}
