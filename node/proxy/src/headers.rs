//! What the proxy reads and changes of a call's headers (PROTOCOL-HTTP2.md of gRPC; RFC 9113, section 8).

use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request};

use types::{Reason, Refusal, SpiffeId};

/// How long a caller is willing to wait.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The status of a call, in trailers.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Who called, for the backend: Envoy's form.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Asks the other proxy how long the service took; tells it that a proxy calls.
pub(crate) const TIMING: HeaderName = HeaderName::from_static("sagemesh-timing");
/// How long the service took, in microseconds.
pub(crate) const SERVER_US: HeaderName = HeaderName::from_static("sagemesh-server-us");
/// The code of the reason for which the other proxy refused, to tell its refusals from the service's answers.
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("sagemesh-refused");

/// What stays between the two proxies begins with this.
const OURS: &str = "sagemesh-";
/// What concerns one connection only (RFC 9110, section 7.6.1).
const OF_CONNECTION: [HeaderName; 5] = [
    http::header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

/// Whether a content type is one of gRPC's: `application/grpc`, `application/grpc+proto`, and so on.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Refuses what gRPC does not send.
pub(crate) fn check(head: &Parts) -> Result<(), Refusal> {
    let is_kept = head.headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if head.method != Method::POST {
        return Err(Reason::RequestMalformed.because(format!("the method is {} and not POST", head.method)));
    }
    if !is_kept {
        return Err(Reason::RequestMalformed.because("`te: trailers` is missing"));
    }
    Ok(())
}

/// The host that a call names, without its port.
pub(crate) fn host(head: &Parts) -> Option<&str> {
    let named = head.uri.host();
    named.or_else(|| {
        let host = head.headers.get(HOST)?.to_str().ok()?;
        Some(host.split_once(':').map_or(host, |(host, _)| host))
    })
}

/// How long the caller is willing to wait, if it says.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    let refusal = || Reason::RequestMalformed.because("`grpc-timeout` is not 1 to 8 digits and a unit");
    parsed.map(Some).ok_or_else(refusal)
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// A timeout as gRPC writes it, in the finest unit whose number has at most eight digits.
pub(crate) fn format_timeout(left: Duration) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (u128::from(left.as_secs()), 'S')];
    let (n, unit) = units.into_iter().find(|(n, _)| *n <= MAX).unwrap_or((MAX, 'S'));
    HeaderValue::try_from(format!("{n}{unit}")).expect("digits and a letter")
}

/// Removes what must not pass a proxy, in either direction.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| name.as_str().starts_with(OURS);
    while let Some(name) = headers.keys().find(is_ours).cloned() {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

/// Sets who called, whatever was claimed.
pub(crate) fn set_client_cert(headers: &mut HeaderMap, own: &SpiffeId, caller: &SpiffeId) {
    let value = HeaderValue::try_from(format!("By={own};URI={caller}")).expect("SPIFFE IDs are ASCII");
    headers.insert(CLIENT_CERT, value);
}

/// The request as it goes on, over a connection of that scheme. Its authority and path stay what they were.
pub(crate) fn onward(head: &Parts, scheme: Scheme) -> Request<()> {
    let mut uri = http::uri::Parts::default();
    let authority = head.uri.authority().cloned();
    uri.authority =
        Some(authority.or_else(|| from_host(head)).unwrap_or(Authority::from_static("localhost")));
    uri.scheme = Some(scheme);
    uri.path_and_query = Some(head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are there");
    *request.headers_mut() = head.headers.clone();
    request
}

fn from_host(head: &Parts) -> Option<Authority> {
    Authority::try_from(head.headers.get(HOST)?.as_bytes()).ok()
}

/// The gRPC status among headers or trailers; what is no number counts as UNKNOWN (2).
pub(crate) fn status(headers: &HeaderMap) -> Option<u8> {
    let value = headers.get(GRPC_STATUS)?;
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// How long the service took, as the other proxy says.
pub(crate) fn server_time(headers: &HeaderMap) -> Option<Duration> {
    headers.get(SERVER_US)?.to_str().ok()?.parse().ok().map(Duration::from_micros)
}

/// Why the other proxy refused a call, if it did.
pub(crate) fn refused(headers: &HeaderMap) -> Option<Reason> {
    Reason::from_code(headers.get(REFUSED)?.to_str().ok()?)
}

/// Why the other proxy turned a call away before any server saw it, if it did: then it can go elsewhere.
pub(crate) fn unsent_by_peer(headers: &HeaderMap) -> Option<Reason> {
    let reason = refused(headers)?;
    matches!(
        reason,
        Reason::EndpointUnreachable
            | Reason::ServiceUnreachable
            | Reason::ServiceUnhealthy
            | Reason::ListenerForeign
            | Reason::NotServing
    )
    .then_some(reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        #[track_caller]
        fn check(text: &str, expected: Option<Duration>) {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
        check("1H", Some(Duration::from_secs(3600)));
        check("99999999M", Some(Duration::from_secs(99_999_999 * 60)));
        check("2S", Some(Duration::from_secs(2)));
        check("1500m", Some(Duration::from_millis(1500)));
        check("7u", Some(Duration::from_micros(7)));
        check("0n", Some(Duration::ZERO));
        for wrong in ["", "S", "1", "123456789S", "-1S", "+1S", "1 S", "1s", "1é", "é"] {
            check(wrong, None);
        }
    }

    #[test]
    fn content_types_of_grpc_are_known() {
        #[track_caller]
        fn check(kind: &'static str, expected: bool) {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc;charset=x", true);
        check("application/grpc-web", false);
        check("application/json", false);
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn nothing_of_the_mesh_passes_its_edge() {
        let mut headers = HeaderMap::new();
        for name in [
            "sagemesh-timing",
            "sagemesh-server-us",
            "sagemesh-x",
            "connection",
            "keep-alive",
            "te",
            "traceparent",
        ] {
            headers.append(name, HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "traceparent"]);
    }

    proptest! {
        #[test]
        fn a_timeout_is_never_written_longer_than_it_is(micros in 0_u64..u64::MAX / 2) {
            let left = Duration::from_micros(micros);
            let written = format_timeout(left);
            let text = written.to_str().expect("ASCII");
            prop_assert!(parse_timeout(text).is_some_and(|read| read <= left), "{text}");
        }
    }
}
