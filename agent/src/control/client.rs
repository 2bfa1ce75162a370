//! The asking side.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::socket_path;
use crate::failure::{Failure, Result};

/// An agent that does not answer in this time is hung or stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the agent of this run directory.
pub async fn ask<T: DeserializeOwned>(run_dir: &Path, question: &str) -> Result<T> {
    understand(run_dir, send(run_dir, Request::get(question), Bytes::new())).await
}

/// Tells the agent of this run directory to do something.
pub async fn tell<T: DeserializeOwned>(run_dir: &Path, what: &str, body: &impl Serialize) -> Result<T> {
    let body = serde_json::to_vec(body).map_err(Failure::failed)?;
    let request = Request::post(what).header("content-type", "application/json");
    understand(run_dir, send(run_dir, request, body.into())).await
}

async fn understand<T: DeserializeOwned>(
    run_dir: &Path,
    answer: impl Future<Output = Result<Bytes>>,
) -> Result<T> {
    let asked = tokio::time::timeout(PATIENCE, answer).await;
    let body = asked.map_err(|_| {
        Failure::failed(format_args!(
            "the agent in {} does not answer: it is stopped or hung (its kernel falls silent by itself)",
            run_dir.display()
        ))
    })??;
    serde_json::from_slice(&body).map_err(|e| {
        Failure::failed(format_args!("the agent's answer is not understood: {e}; same version?"))
    })
}

async fn send(run_dir: &Path, request: Builder, body: Bytes) -> Result<Bytes> {
    let path = socket_path(run_dir);
    let stream = UnixStream::connect(&path).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Failure::failed(format_args!("may not ask the agent at {}: {e}; try as root", path.display()))
        }
        _ => Failure::NoAgent(format!(
            "no agent answers at {} ({e}); is it running? (systemctl status onemac; --run-dir picks another)",
            path.display()
        )),
    })?;
    let lost = |e: hyper::Error| Failure::failed(format_args!("lost the agent while asking: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(connection);
    let request = request.header("host", "localhost").body(Full::new(body));
    let answer = sender.send_request(request.map_err(Failure::failed)?).await.map_err(lost)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(lost)?.to_bytes();
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => {
            Err(Failure::usage(String::from_utf8_lossy(&body)))
        }
        _ => Err(Failure::failed(String::from_utf8_lossy(&body))),
    }
}
