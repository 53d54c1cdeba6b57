//! Refusals as gRPC tells them: HTTP 200, headers that are trailers, and `google.rpc.ErrorInfo` in the details.

use std::fmt::Write as _;

use data_encoding::BASE64_NOPAD;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use proto::Message;
use proto::google::rpc::{Detail, ErrorInfo, Status};

use types::Refusal;

use crate::headers::GRPC_STATUS;

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// Of what was seen, as many bytes are told: it may be hostile, and callers bound their headers.
const DETAIL_LEN_MAX: usize = 1024;

/// A call's whole answer.
pub(crate) fn response(refusal: &Refusal) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = trailers(refusal);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The end of an answer that has begun.
pub(crate) fn trailers(refusal: &Refusal) -> HeaderMap {
    let code = refusal.reason.status() as u8;
    let cut = refusal.detail.floor_char_boundary(DETAIL_LEN_MAX);
    let told = refusal.reason.because(&refusal.detail[..cut]).to_string();
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    headers.insert(GRPC_MESSAGE, percent_encoded(&told));
    headers.insert(DETAILS, details(refusal, code, told));
    headers
}

/// What is said to whoever does not speak gRPC, and so reads no gRPC status.
pub(crate) const NOT_GRPC: &str =
    "This port carries gRPC: call it by POST, with `content-type: application/grpc` and `te: trailers`.\n";

/// The head of the answer to what is not gRPC at all; [`NOT_GRPC`] is its body.
pub(crate) fn not_grpc() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn details(refusal: &Refusal, code: u8, message: String) -> HeaderValue {
    let info = ErrorInfo {
        reason: refusal.reason.code().to_owned(),
        domain: "sagemesh".to_owned(),
        metadata: [("advice".to_owned(), refusal.reason.advice().to_owned())].into(),
    };
    let type_url = "type.googleapis.com/google.rpc.ErrorInfo".to_owned();
    let detail = Detail { type_url, value: info.encode_to_vec() };
    let status = Status { code: code.into(), message, details: vec![detail] };
    HeaderValue::try_from(BASE64_NOPAD.encode(&status.encode_to_vec())).expect("base64 is ASCII")
}

/// What was seen, of a refusal that another proxy told as `grpc-message`.
pub(crate) fn detail_of(message: &str) -> String {
    let decoded = percent_decoded(message);
    // As `Refusal` prints: DETAIL (CODE): ADVICE.
    let end = decoded.rfind(" (").filter(|at| decoded[*at..].contains("): "));
    end.map_or_else(|| decoded.clone(), |at| decoded[..at].to_owned())
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex.filter(|_| *byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// As PROTOCOL-HTTP2.md of gRPC says: all but printable ASCII, and `%`, as `%XX`.
fn percent_encoded(text: &str) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => {
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    HeaderValue::try_from(out).expect("printable ASCII")
}

#[cfg(test)]
mod tests {
    use types::Reason;

    use super::*;

    #[test]
    fn a_refusal_says_why_and_what_to_do_in_forms_that_grpc_reads() {
        let refusal = Reason::PolicyDenied.because("100 % über");
        let response = response(&refusal);
        let header = |name: &str| response.headers()[name].to_str().expect("ASCII");
        assert_eq!((response.status(), header("grpc-status")), (StatusCode::OK, "7"));
        assert!(header("grpc-message").starts_with("100 %25 %C3%BCber (POLICY_DENIED): "));
        let bytes = BASE64_NOPAD.decode(header("grpc-status-details-bin").as_bytes()).expect("base64");
        let status = Status::decode(&bytes[..]).expect("a status");
        assert_eq!((status.code, status.message), (7, refusal.to_string()));
        let info = ErrorInfo::decode(&status.details[0].value[..]).expect("an ErrorInfo");
        assert_eq!((&*info.reason, &*info.domain), ("POLICY_DENIED", "sagemesh"));
        assert_eq!(info.metadata["advice"], Reason::PolicyDenied.advice());
        assert_eq!(detail_of(header("grpc-message")), refusal.detail);
    }

    #[test]
    fn what_was_seen_is_told_within_bounds() {
        let trailers = trailers(&Reason::ServiceUnknown.because("ü".repeat(100_000)));
        assert!(trailers["grpc-message"].len() < 8192);
    }
}
