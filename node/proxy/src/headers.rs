//! What the proxy reads and changes of a call's fields (PROTOCOL-HTTP2.md of gRPC; RFC 9113, section 8).

use std::time::Duration;

use wire::hpack::{Fields, Name};

use types::{Reason, Refusal, SpiffeId};

/// What stays between the two proxies begins with this.
const OURS: &[u8] = b"sagemesh-";
/// Bytes that a number takes at most.
const DIGITS_MAX: usize = 20;

/// What the fields of a request say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    is_post: bool,
    has_te: bool,
    /// Whether its content type is one of gRPC's: `application/grpc`, `application/grpc+proto`, and so on.
    pub(crate) is_grpc: bool,
    /// Whether another proxy sent it.
    pub(crate) is_from_proxy: bool,
    /// Whether it has what must not pass.
    has_foreign: bool,
    authority: Option<usize>,
    host: Option<usize>,
    timeout: Option<usize>,
    pub(crate) traceparent: Option<usize>,
}

impl Asked {
    /// Reads all at once.
    pub(crate) fn of(fields: &Fields) -> Self {
        let mut asked = Self::default();
        for (idx, field) in fields.iter().enumerate() {
            match field.known {
                Name::Method => asked.is_post = field.value == b"POST",
                Name::Te => asked.has_te = field.value == b"trailers",
                Name::ContentType => asked.is_grpc |= is_grpc(field.value),
                Name::Authority => asked.authority = Some(idx),
                Name::Host => asked.host = asked.host.or(Some(idx)),
                Name::GrpcTimeout => asked.timeout = asked.timeout.or(Some(idx)),
                Name::Traceparent => asked.traceparent = asked.traceparent.or(Some(idx)),
                Name::SagemeshTiming => (asked.is_from_proxy, asked.has_foreign) = (true, true),
                Name::SagemeshRefused | Name::SagemeshServerUs | Name::XForwardedClientCert => {
                    asked.has_foreign = true;
                }
                Name::Unknown => asked.has_foreign |= field.name.starts_with(OURS),
                _ => {}
            }
        }
        asked
    }

    /// Refuses what gRPC does not send.
    pub(crate) fn check(&self, fields: &Fields) -> Result<(), Refusal> {
        if !self.is_post {
            let method = String::from_utf8_lossy(fields.value(Name::Method).unwrap_or_default());
            return Err(Reason::RequestMalformed.because(format!("the method is {method} and not POST")));
        }
        if !self.has_te {
            return Err(Reason::RequestMalformed.because("`te: trailers` is missing"));
        }
        Ok(())
    }

    /// The host that a call names, without its port.
    pub(crate) fn host<'a>(&self, fields: &'a Fields) -> &'a [u8] {
        let named = self.authority.or(self.host).and_then(|idx| fields.get(idx));
        let named = named.map(|field| field.value).unwrap_or_default();
        let end = named.iter().position(|byte| *byte == b':').unwrap_or(named.len());
        &named[..end]
    }

    /// How long the caller is willing to wait, if it says.
    ///
    /// # Errors
    /// [`Reason::RequestMalformed`].
    pub(crate) fn timeout(&self, fields: &Fields) -> Result<Option<Duration>, Refusal> {
        let Some(field) = self.timeout.and_then(|idx| fields.get(idx)) else { return Ok(None) };
        let parsed = parse_timeout(field.value);
        let refusal = || Reason::RequestMalformed.because("`grpc-timeout` is not 1 to 8 digits and a unit");
        parsed.map(Some).ok_or_else(refusal)
    }

    /// Makes the request what goes on over a connection of that scheme: without what must not pass, and with `more`
    /// at its end. Its authority and path stay what they were.
    pub(crate) fn onward(&self, fields: &mut Fields, scheme: &[u8], more: (Name, &[u8])) {
        if self.has_foreign {
            fields.retain(|field| {
                field.known != Name::XForwardedClientCert && !is_ours(field.known, field.name)
            });
        }
        if self.authority.is_none() {
            name_authority(fields);
        }
        if let Some(idx) = fields.find(Name::Scheme)
            && fields.get(idx).is_some_and(|field| field.value != scheme)
        {
            fields.set(idx, scheme);
        }
        fields.push_known(more.0, more.1);
    }
}

/// Puts the host, which a request named otherwise, where HTTP/2 has it.
fn name_authority(fields: &mut Fields) {
    let mut named = Fields::new();
    named.push_known(Name::Authority, fields.value(Name::Host).unwrap_or(b"localhost"));
    for field in fields.iter() {
        match field.is_never_indexed {
            true => named.push_never_indexed(field.name, field.value),
            false => named.push(field.name, field.value),
        }
    }
    *fields = named;
}

fn is_grpc(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn is_ours(known: Name, name: &[u8]) -> bool {
    match known {
        Name::SagemeshTiming | Name::SagemeshRefused | Name::SagemeshServerUs => true,
        Name::Unknown => name.starts_with(OURS),
        _ => false,
    }
}

fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = digits.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(n * 3600)),
        b'M' => Some(Duration::from_secs(n * 60)),
        b'S' => Some(Duration::from_secs(n)),
        b'm' => Some(Duration::from_millis(n)),
        b'u' => Some(Duration::from_micros(n)),
        b'n' => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// Says how long the other end has, in the finest unit whose number has at most eight digits.
pub(crate) fn set_timeout(fields: &mut Fields, left: Duration) {
    const MAX: u128 = 99_999_999;
    let units = [(left.as_micros(), b'u'), (left.as_millis(), b'm'), (u128::from(left.as_secs()), b'S')];
    let (n, unit) = units.into_iter().find(|(n, _)| *n <= MAX).unwrap_or((MAX, b'S'));
    let mut text = [unit; DIGITS_MAX + 1];
    let digits =
        decimal(u64::try_from(n).unwrap_or(u64::MAX), text.split_last_mut().expect("it is not empty").1);
    let from = DIGITS_MAX - digits;
    match fields.find(Name::GrpcTimeout) {
        Some(idx) => fields.set(idx, &text[from..]),
        None => fields.push_known(Name::GrpcTimeout, &text[from..]),
    }
}

/// Adds how long the service took, for the other proxy.
pub(crate) fn push_server_time(fields: &mut Fields, took: Duration) {
    let mut text = [0; DIGITS_MAX];
    let digits = decimal(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), &mut text);
    fields.push_known(Name::SagemeshServerUs, &text[DIGITS_MAX - digits..]);
}

/// Writes a number to the end of `text`, which has room for any. How many digits it has.
fn decimal(mut n: u64, text: &mut [u8]) -> usize {
    let mut digits = 0;
    for place in text.iter_mut().rev() {
        *place = b'0' + u8::try_from(n % 10).unwrap_or_default();
        n /= 10;
        digits += 1;
        if n == 0 {
            break;
        }
    }
    digits
}

/// Who called, as a service is told (Envoy's form).
pub(crate) fn client_cert(own: &SpiffeId, caller: &SpiffeId) -> String {
    format!("By={own};URI={caller}")
}

/// Removes from an answer or from trailers what must not pass a proxy.
pub(crate) fn strip(fields: &mut Fields) {
    if fields.iter().any(|field| is_ours(field.known, field.name)) {
        fields.retain(|field| !is_ours(field.known, field.name));
    }
}

/// The gRPC status among headers or trailers; what is no number counts as UNKNOWN (2).
pub(crate) fn status(fields: &Fields) -> Option<u8> {
    let value = fields.value(Name::GrpcStatus)?;
    Some(number(value).and_then(|n| u8::try_from(n).ok()).unwrap_or(2))
}

/// How long the service took, as the other proxy says.
pub(crate) fn server_time(fields: &Fields) -> Option<Duration> {
    number(fields.value(Name::SagemeshServerUs)?).map(Duration::from_micros)
}

fn number(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let more = |n: u64, byte| n.checked_mul(10)?.checked_add(digit(byte)?);
    (!digits.is_empty()).then_some(digits)?.iter().try_fold(0, more)
}

/// Why the other proxy refused a call, if it did.
pub(crate) fn refused(fields: &Fields) -> Option<Reason> {
    Reason::from_code(std::str::from_utf8(fields.value(Name::SagemeshRefused)?).ok()?)
}

/// Why the other proxy turned a call away before any server saw it, if it did: then it can go elsewhere.
pub(crate) fn unsent_by_peer(fields: &Fields) -> Option<Reason> {
    let reason = refused(fields)?;
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
            assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
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

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn told(fields: &Fields) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|field| (text(field.name), text(field.value))).collect()
    }

    #[test]
    fn content_types_of_grpc_are_known() {
        #[track_caller]
        fn check(kind: &str, expected: bool) {
            assert_eq!(Asked::of(&fields(&[("content-type", kind)])).is_grpc, expected, "{kind}");
        }
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc;charset=x", true);
        check("application/grpc-web", false);
        check("application/json", false);
        assert!(!Asked::of(&Fields::new()).is_grpc);
    }

    #[test]
    fn nothing_of_the_mesh_passes_its_edge() {
        let list = ["sagemesh-timing", "sagemesh-server-us", "sagemesh-x", "te", "sagemesh-x", "traceparent"];
        let list: Vec<_> = list.iter().map(|name| (*name, "1")).collect();
        let mut answer = fields(&list);
        strip(&mut answer);
        let left: Vec<_> = told(&answer).into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["te", "traceparent"]);
    }

    #[test]
    fn a_request_goes_on_as_itself_but_for_who_called() {
        let mut request = fields(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/a/b"),
            ("host", "echo:1"),
            ("x-forwarded-client-cert", "URI=spiffe://root"),
            ("sagemesh-timing", "7"),
            ("key-bin", "AA"),
        ]);
        let asked = Asked::of(&request);
        assert!(asked.is_from_proxy && asked.host(&request) == b"echo");
        asked.onward(&mut request, b"https", (Name::XForwardedClientCert, b"By=x"));
        let expected = [
            (":authority", "echo:1"),
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/a/b"),
            ("host", "echo:1"),
            ("key-bin", "AA"),
            ("x-forwarded-client-cert", "By=x"),
        ];
        assert_eq!(told(&request), told(&fields(&expected)));
    }

    #[test]
    fn a_server_time_is_read_as_it_was_written() {
        for us in [0, 1, 9, 10, 1_234_567, u64::MAX] {
            let mut answer = Fields::new();
            push_server_time(&mut answer, Duration::from_micros(us));
            assert_eq!(server_time(&answer), Some(Duration::from_micros(us)));
        }
    }

    proptest! {
        #[test]
        fn a_timeout_is_never_written_longer_than_it_is(micros in 0_u64..u64::MAX / 2) {
            let left = Duration::from_micros(micros);
            let mut request = fields(&[("grpc-timeout", "1S")]);
            set_timeout(&mut request, left);
            let text = request.value(Name::GrpcTimeout).expect("it was set");
            prop_assert!(parse_timeout(text).is_some_and(|read| read <= left), "{:?}", request);
            prop_assert_eq!(request.len(), 1);
        }
    }
}
