//! Asks a server for its health: grpc.health.v1.Health/Check over HTTP/2 without TLS.
//!
//! The GRPC Health Checking Protocol (grpc/doc/health-checking.md) over the wire of grpc/doc/PROTOCOL-HTTP2.md.
//! The server may be anything: what it answers is bounded and read with suspicion.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use h2::{RecvStream, client};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;

use proto::Message;
use proto::grpc::health::v1::health_check_response::ServingStatus;
use proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use types::{ServiceName, chain};

/// Longest body of an answer; a real one has 7 bytes.
const BODY_LEN_MAX: usize = 1024;
/// Longest header list of an answer.
const HEADERS_LEN_MAX: u32 = 8 * 1024;
/// Longest text of a server's that is repeated.
const SAID_LEN_MAX: usize = 100;
/// What stands before each message: whether it is compressed, and its length.
const PREFIX_LEN: usize = 5;

const OK: &str = "0";
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// What a server says of its health, if it is not that it is unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It serves.
    Serving,
    /// It cannot say, yet it answers.
    Unknown,
}

/// Asks the server behind `stream`: for the whole of it, and if that is unknown to it, for `service`. Ends by its
/// own only if the server does; the caller sets a limit, which `timeout` tells the server.
///
/// # Errors
/// What was seen.
pub(super) async fn ask(
    stream: TcpStream,
    backend: SocketAddr,
    service: &ServiceName,
    timeout: Duration,
) -> Result<Answer, String> {
    let failed = |err| broken(backend, &err);
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(u32::try_from(BODY_LEN_MAX).expect("a small number"))
        .max_header_list_size(HEADERS_LEN_MAX)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(failed)?;
    let mut questions = pin!(async {
        match question(sender.clone(), backend, "", timeout).await? {
            Answer::Serving => Ok(Answer::Serving),
            Answer::Unknown => question(sender.clone(), backend, service.as_str(), timeout).await,
        }
    });
    tokio::select! {
        answer = &mut questions => answer,
        // What was answered counts, though the connection ended with it.
        ended = connection => questions.now_or_never().unwrap_or_else(|| Err(match ended {
            Ok(()) => format!("{backend} ended the connection before it answered"),
            Err(err) => failed(err),
        })),
    }
}

async fn question(
    sender: client::SendRequest<Bytes>,
    backend: SocketAddr,
    service: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let failed = |err| broken(backend, &err);
    let request = Request::post(format!("http://{backend}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", timeout.as_millis()))
        .header("user-agent", concat!("sagemesh/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|err| format!("failed to write a health check: {err}"))?;
    let mut sender = sender.ready().await.map_err(failed)?;
    let (response, mut body) = sender.send_request(request, false).map_err(failed)?;
    body.send_data(framed(&HealthCheckRequest { service: service.to_owned() }), true).map_err(failed)?;
    let (head, body) = response.await.map_err(failed)?.into_parts();
    let head = Response::from_parts(head, ());
    if let Some(answer) = early(&head) {
        return answer;
    }
    let (body, trailers) = read(body).await?;
    match status(&trailers) {
        Some(OK) => health(&body),
        Some(status) => refused(status, &trailers),
        None => Err(format!("{backend} answered the health check without a gRPC status")),
    }
}

/// What the head of a response tells already.
fn early(head: &Response<()>) -> Option<Result<Answer, String>> {
    match (head.status(), status(head.headers())) {
        (StatusCode::OK, None | Some(OK)) => None,
        (StatusCode::OK, Some(status)) => Some(refused(status, head.headers())),
        // grpc/doc/http-grpc-status-mapping.md: the path is not served.
        (StatusCode::NOT_FOUND, _) => Some(Ok(Answer::Unknown)),
        (status, _) => Some(Err(format!("the health check was answered with HTTP status {status}"))),
    }
}

fn refused(status: &str, headers: &HeaderMap) -> Result<Answer, String> {
    if matches!(status, NOT_FOUND | UNIMPLEMENTED) {
        return Ok(Answer::Unknown);
    }
    let said = headers.get("grpc-message").map_or("", |said| said.to_str().unwrap_or_default());
    let cut = |text: &str| text.chars().take(SAID_LEN_MAX).collect::<String>();
    Err(format!("the health check was answered with gRPC status {}: {}", cut(status), cut(said)))
}

async fn read(mut body: RecvStream) -> Result<(Bytes, HeaderMap), String> {
    let failed = |err: h2::Error| format!("the answer to the health check broke off: {}", chain(&err));
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        if whole.len() + data.len() > BODY_LEN_MAX {
            return Err(format!("the answer to the health check has more than {BODY_LEN_MAX} bytes"));
        }
        whole.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).map_err(failed)?;
    }
    let trailers = body.trailers().await.map_err(failed)?;
    Ok((whole.freeze(), trailers.unwrap_or_default()))
}

pub(super) fn health(body: &[u8]) -> Result<Answer, String> {
    let malformed = || "the answer to the health check is no message of grpc.health.v1".to_owned();
    let (prefix, message) = body.split_first_chunk::<PREFIX_LEN>().ok_or_else(malformed)?;
    let [is_compressed, len @ ..] = *prefix;
    if is_compressed != 0 || u32::from_be_bytes(len) as usize != message.len() {
        return Err(malformed());
    }
    let response = HealthCheckResponse::decode(message).map_err(|_| malformed())?;
    match response.status() {
        ServingStatus::Serving => Ok(Answer::Serving),
        ServingStatus::ServiceUnknown => Ok(Answer::Unknown),
        status => Err(format!("its health check says {}", status.as_str_name())),
    }
}

fn broken(backend: SocketAddr, err: &h2::Error) -> String {
    format!("{backend} broke off the health check, which is gRPC over HTTP/2 without TLS: {}", chain(err))
}

fn status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status").map(|status| status.to_str().unwrap_or("that is no number"))
}

fn framed(message: &HealthCheckRequest) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX_LEN + bytes.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes.len()).expect("a name of a service is short"));
    framed.extend_from_slice(&bytes);
    framed.freeze()
}
