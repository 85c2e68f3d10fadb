//! `pipeline serve`: runs in a browser. It only reads, and answers only questions about runs below its folder.
//!
//! - [`Library`]: the runs, and what was read of them; [`filter`]: which of them are listed
//! - [`plots`]: the data of a plot; [`serve`]: the HTTP server, in one thread, with the page `page.html`
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page |
//! | `GET /api/runs?filter=WORDS` | the runs, as `pipeline runs --json` shows them, with `name` and `metrics` |
//! | `GET /api/runs/NAME/metrics` | the metrics of a run as columns; `/` in NAME is written `%2F` |
//! | `GET /api/plot?metric=M&run=NAME&run=NAME` | the data of a plot ([`plots::Asked`]) |
//! | `GET /api/events` | server-sent events `runs`: runs that have changed, and names of those that are gone |
//! | `GET /report/NAME` | the report of a run, written now |
mod filter;
mod library;
mod plots;

pub use library::Library;

use crate::report;
use anyhow::{Context, Error, Result};
use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use filter::Filter;
use futures_util::Stream;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// Time between two looks at the runs, while somebody watches.
const LOOK: Duration = Duration::from_millis(500);
/// Events that wait for a slow browser.
const WAITING: usize = 16;

/// What the handlers share.
#[derive(Clone)]
struct Server {
    library: Arc<Library>,
    changes: broadcast::Sender<Arc<str>>,
}

/// An answer that is none: status and reason.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
    }
}

/// Answers requests on `socket` until the process ends.
///
/// # Errors
/// If the system refuses.
pub fn serve(library: Arc<Library>, socket: TcpListener) -> Result<()> {
    let local = socket.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let changes = broadcast::Sender::new(WAITING);
    let server = Server { library, changes };
    let watched = server.clone();
    std::thread::Builder::new().name("runs".into()).spawn(move || watch(&watched)).context("cannot start a thread")?;
    let routes = Router::new()
        .route("/", get(page))
        .route("/api/runs", get(runs))
        .route("/api/runs/{name}/metrics", get(metrics))
        .route("/api/plot", get(plot))
        .route("/api/events", get(events))
        .route("/report/{name}", get(run_report))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "there is nothing here\n".into()))
        .layer(from_fn(headers))
        .layer(from_fn_with_state(local, host_is_this_one))
        .with_state(server);
    socket.set_nonblocking(true).context("cannot listen")?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        axum::serve(socket, routes).await
    })?;
    Ok(())
}

async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

/// Refuses requests by other names than those of this machine, if only this machine can reach the server: a page of
/// somebody else could have its own name lead here, and read what is answered.
async fn host_is_this_one(State(local): State<bool>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match !local || is_this_host(host) {
        true => next.run(request).await,
        false => Refusal(StatusCode::FORBIDDEN, "ask for localhost or 127.0.0.1\n".into()).into_response(),
    }
}

fn is_this_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Runs what reads files on a thread that may wait for them.
async fn answer(work: impl FnOnce() -> Result<Response, Refusal> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer.into_response(),
        Err(_) => Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the request failed\n".into()).into_response(),
    }
}

fn json_of(value: &impl serde::Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(value).map_err(Error::from)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

fn no_run(name: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("there is no run `{name}`\n"))
}

async fn page(State(server): State<Server>) -> Html<String> {
    let title = format!("{} · runs", server.library.folder().display());
    let [body, style, script] = [include_str!("page.html"), include_str!("page.css"), include_str!("page.js")];
    Html(report::document::live(&title, body, style, script))
}

async fn runs(State(server): State<Server>, RawQuery(query): RawQuery) -> Response {
    answer(move || {
        let query = query.unwrap_or_default();
        let mut filter = String::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "filter" => filter = value.into_owned(),
                _ => return Err(Refusal(StatusCode::BAD_REQUEST, format!("there is no parameter `{key}`\n"))),
            }
        }
        let rows = server.library.rows(&Filter::of(&filter))?;
        let rows = rows.map_err(|why| Refusal(StatusCode::BAD_REQUEST, why))?;
        let names = report::metrics::sorted(rows.iter().flat_map(|row| row.metrics.clone()).collect());
        json_of(&json!({ "folder": server.library.folder(), "metrics": names, "runs": rows }))
    })
    .await
}

async fn metrics(State(server): State<Server>, Path(name): Path<String>) -> Response {
    answer(move || {
        let run = server.library.run(&name).ok_or_else(|| no_run(&name))?;
        let columns = run.history(|history| -> Map<String, Value> {
            let axes = ["step", "tokens", "seconds"].into_iter();
            // A value that is no number becomes null.
            axes.chain(history.metrics()).map(|name| (name.to_owned(), json!(padded(history, name)))).collect()
        })?;
        json_of(&json!({ "run": name, "metrics": columns }))
    })
    .await
}

/// A column with a value for each step.
fn padded(history: &crate::run_files::History, name: &str) -> Vec<f64> {
    let mut column = history.column(name).unwrap_or_default().to_vec();
    column.resize(history.len(), f64::NAN);
    column
}

async fn plot(State(server): State<Server>, RawQuery(query): RawQuery) -> Response {
    answer(move || {
        let asked = plots::Asked::of(&query.unwrap_or_default());
        let asked = asked.map_err(|why| Refusal(StatusCode::BAD_REQUEST, format!("{why}\n")))?;
        json_of(&asked.plot(&server.library)?)
    })
    .await
}

async fn run_report(State(server): State<Server>, Path(name): Path<String>) -> Response {
    answer(move || {
        let run = server.library.run(&name).ok_or_else(|| no_run(&name))?;
        Ok(Html(report::html_of(&run.folder)?).into_response())
    })
    .await
}

async fn events(State(server): State<Server>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = futures_util::stream::unfold(server.changes.subscribe(), |mut changes| async move {
        // One that has missed events is disconnected: browsers connect again, and the page then reads the whole list.
        let data = changes.recv().await.ok()?;
        Some((Ok(Event::default().event("runs").data(&*data)), changes))
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

/// Tells those who listen which runs have changed.
fn watch(server: &Server) {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        std::thread::sleep(LOOK);
        if server.changes.receiver_count() == 0 {
            known.clear();
            continue;
        }
        // A folder that cannot be listed now may be there again later.
        let Ok(Ok(rows)) = server.library.rows(&Filter::of("")) else { continue };
        let now: BTreeMap<String, String> =
            rows.into_iter().filter_map(|row| Some((row.name.clone(), serde_json::to_string(&row).ok()?))).collect();
        let changed: Vec<&str> =
            now.iter().filter(|(name, row)| known.get(*name) != Some(row)).map(|(_, row)| row.as_str()).collect();
        let gone: Vec<&String> = known.keys().filter(|name| !now.contains_key(*name)).collect();
        // The first one to listen is told everything: what has changed since it read the list is not known.
        if changed.len() + gone.len() > 0 {
            let event = format!("{{\"changed\":[{}],\"gone\":{}}}", changed.join(","), json!(gone));
            let _ = server.changes.send(event.into());
        }
        known = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for ours in ["localhost", "localhost:7421", "127.0.0.1:7421", "127.9.9.9", "[::1]:80", "[::1]", "LOCALHOST:1"] {
            assert!(is_this_host(ours), "{ours}");
        }
        for theirs in ["", "example.com:7421", "127.0.0.1.example.com", "10.0.0.1:7421", "localhost.example:1", "[::2]"]
        {
            assert!(!is_this_host(theirs), "{theirs}");
        }
    }
}
