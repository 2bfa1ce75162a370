//! The answering side. It only passes questions on: the answers are the loop's.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::model::{Done, Owner, Slices, Status, Wish};
use crate::failure::{Failure, Result};

/// A question to the loop.
#[derive(Debug)]
pub enum Question {
    /// How does the cluster look?
    Status(oneshot::Sender<Status>),
    /// Who has which slice?
    Slices(oneshot::Sender<Slices>),
    /// Whose is this client? The error is for the asker: there is no such service.
    Owner(IpAddr, Option<String>, oneshot::Sender<std::result::Result<Owner, String>>),
    /// Do this.
    Wish(Wish, Answer),
    /// Read the definition again.
    Reload(Answer),
    /// Start the program anew in the same life.
    Restart(Answer),
}

/// Where an operator waits for what came of a wish.
pub type Answer = oneshot::Sender<Result<String>>;

/// Opens the control socket, which only its owner may use, and answers from then on.
pub fn open(path: &Path) -> Result<mpsc::Receiver<Question>> {
    let cannot = |e: std::io::Error| {
        Failure::failed(format_args!("cannot open the control socket {}: {e}", path.display()))
    };
    // The host's lock is held, so whoever left a socket here is dead.
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(cannot)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    // One operator and a few tools ask; whoever comes beyond that waits.
    let (questions, inbox) = mpsc::channel(16);
    let router = Router::new()
        .route("/status", get(status))
        .route("/slices", get(slices))
        .route("/owner", get(owner))
        .route("/order", post(order))
        .route("/reload", post(reload))
        .route("/restart", post(restart))
        .with_state(questions);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the control socket has ended: {error}");
        }
    });
    Ok(inbox)
}

type Loop = State<mpsc::Sender<Question>>;

async fn status(State(to): Loop) -> Response {
    ask(to, Question::Status).await
}

async fn slices(State(to): Loop) -> Response {
    ask(to, Question::Slices).await
}

#[derive(Deserialize)]
struct OwnerQuery {
    client: IpAddr,
    service: Option<String>,
}

async fn owner(State(to): Loop, Query(query): Query<OwnerQuery>) -> Response {
    let (answer, waiting) = oneshot::channel();
    let _ = to.send(Question::Owner(query.client, query.service, answer)).await;
    match waiting.await {
        Ok(Ok(owner)) => Json(owner).into_response(),
        Ok(Err(why)) => (StatusCode::NOT_FOUND, why).into_response(),
        Err(_) => ending(),
    }
}

async fn order(State(to): Loop, Json(wish): Json<Wish>) -> Response {
    wish_for(to, |answer| Question::Wish(wish, answer)).await
}

async fn reload(State(to): Loop) -> Response {
    wish_for(to, Question::Reload).await
}

async fn restart(State(to): Loop) -> Response {
    wish_for(to, Question::Restart).await
}

async fn wish_for(to: mpsc::Sender<Question>, question: impl FnOnce(Answer) -> Question) -> Response {
    let (answer, waiting) = oneshot::channel();
    let _ = to.send(question(answer)).await;
    match waiting.await {
        Ok(Ok(said)) => Json(Done { said }).into_response(),
        Ok(Err(Failure::Usage(why))) => (StatusCode::BAD_REQUEST, why).into_response(),
        Ok(Err(why)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        Err(_) => ending(),
    }
}

async fn ask<T: Serialize>(
    to: mpsc::Sender<Question>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Response {
    let (answer, waiting) = oneshot::channel();
    let _ = to.send(question(answer)).await;
    match waiting.await {
        Ok(answer) => Json(answer).into_response(),
        Err(_) => ending(),
    }
}

fn ending() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the agent is ending").into_response()
}
