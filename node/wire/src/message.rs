//! Whether fields make a message (RFC 9113, sections 8.1 to 8.3). What breaks these rules ends the stream, not the
//! connection.

use crate::hpack::{Field, Fields, Name};

/// What a message is not. Its stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What the fields of a message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) content_length: Option<u64>,
    /// 0 in requests and trailers.
    pub(crate) status: u16,
}

/// Checks the fields of a request.
pub(crate) fn request(fields: &Fields) -> Result<Facts, Malformed> {
    let mut pseudo = Pseudo::default();
    let mut host = None;
    let facts = read(fields, |field| {
        let place = match field.known {
            Name::Method => &mut pseudo.method,
            Name::Scheme => &mut pseudo.scheme,
            Name::Path => &mut pseudo.path,
            Name::Authority => &mut pseudo.authority,
            Name::Host => {
                host = Some(field.value);
                return Ok(());
            }
            name if name.is_pseudo() => {
                return Err(Malformed("a request has a field of answers or of extensions"));
            }
            _ => return Ok(()),
        };
        match place.replace(field.value) {
            Some(_) => Err(Malformed("a pseudo-header field comes twice")),
            None => Ok(()),
        }
    })?;
    let Some(method) = pseudo.method else { return Err(Malformed("a request has no :method")) };
    if method == b"CONNECT" {
        if pseudo.scheme.is_some() || pseudo.path.is_some() || pseudo.authority.is_none() {
            return Err(Malformed("CONNECT has an :authority and no :scheme and no :path"));
        }
    } else if pseudo.scheme.is_none() || pseudo.path.is_none_or(<[u8]>::is_empty) {
        return Err(Malformed("a request has a :scheme and a :path that is not empty"));
    }
    match (pseudo.authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(Malformed("`host` and :authority differ"))
        }
        _ => Ok(facts),
    }
}

#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
}

/// Checks the fields of an answer, interim ones included.
pub(crate) fn response(fields: &Fields) -> Result<Facts, Malformed> {
    let mut status = 0;
    let facts = read(fields, |field| {
        if !field.known.is_pseudo() {
            return Ok(());
        }
        let digits = <[u8; 3]>::try_from(field.value).ok().filter(|it| it.iter().all(u8::is_ascii_digit));
        match (field.known, digits) {
            (Name::Status, Some([hundreds @ b'1'..=b'9', tens, ones])) if status == 0 => {
                let digit = |byte: u8| u16::from(byte - b'0');
                status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
                Ok(())
            }
            _ => Err(Malformed("an answer has one pseudo-header field, a :status of three digits")),
        }
    })?;
    match status {
        0 => Err(Malformed("an answer has no :status")),
        101 => Err(Malformed("nobody switches protocols in HTTP/2")),
        _ => Ok(Facts { status, ..facts }),
    }
}

/// Checks the fields of trailers.
pub(crate) fn trailers(fields: &Fields) -> Result<Facts, Malformed> {
    read(fields, |field| match field.known.is_pseudo() {
        true => Err(Malformed("trailers have no pseudo-header fields")),
        false => Ok(()),
    })
}

/// Checks what holds for all fields, and has `check` look at each.
fn read<'a>(
    fields: &'a Fields,
    mut check: impl FnMut(Field<'a>) -> Result<(), Malformed>,
) -> Result<Facts, Malformed> {
    if fields.is_flawed {
        return Err(Malformed("the name or the value of a field has bytes that it must not have"));
    }
    let mut facts = Facts::default();
    let mut is_regular = false;
    for field in fields.iter() {
        match field.known {
            Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade => return Err(Malformed("a field is one of a connection of HTTP/1.1")),
            Name::Te if field.value != b"trailers" => {
                return Err(Malformed("`te` says more than `trailers`"));
            }
            Name::ContentLength => {
                let length = number(field.value).ok_or(Malformed("`content-length` is no number"))?;
                if facts.content_length.is_some_and(|before| before != length) {
                    return Err(Malformed("`content-length` comes twice and differs"));
                }
                facts.content_length = Some(length);
            }
            name if name.is_pseudo() && is_regular => {
                return Err(Malformed("a pseudo-header field comes after another field"));
            }
            _ => {}
        }
        is_regular |= !field.known.is_pseudo();
        check(field)?;
    }
    Ok(facts)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

    #[track_caller]
    fn check_request(list: &[(&str, &str)], is_good: bool) {
        assert_eq!(request(&fields(list)).is_ok(), is_good, "{list:?}");
    }

    #[test]
    fn requests_have_their_pseudo_header_fields_once_and_first() {
        let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
        check_request(&GET, true);
        check_request(&with(&[(":authority", "a"), ("host", "A"), ("te", "trailers")]), true);
        check_request(&with(&[("host", "a")]), true);
        check_request(&with(&[(":authority", "%2Ftmp%2Fsock")]), true);
        check_request(&GET[..2], false);
        check_request(&GET[1..], false);
        check_request(&[GET[0], GET[2]], false);
        check_request(&[GET[0], GET[1], (":path", "")], false);
        for more in [GET[0], GET[1], GET[2], (":status", "200"), (":protocol", "websocket")] {
            check_request(&with(&[more]), false);
        }
        check_request(&with(&[("a", "b"), (":authority", "a")]), false);
        check_request(&with(&[(":authority", "a"), (":authority", "a")]), false);
        check_request(&with(&[(":authority", "a"), ("host", "b")]), false);
        check_request(&[(":method", "CONNECT"), (":authority", "a:1")], true);
        check_request(&[(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")], false);
        check_request(&[(":method", "CONNECT")], false);
    }

    #[test]
    fn fields_of_a_connection_are_refused() {
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            check_request(&[GET[0], GET[1], GET[2], (name, "x")], false);
            assert!(response(&fields(&[(":status", "200"), (name, "x")])).is_err());
            assert!(trailers(&fields(&[(name, "x")])).is_err());
        }
        check_request(&[GET[0], GET[1], GET[2], ("te", "trailers, deflate")], false);
    }

    #[test]
    fn answers_have_a_status() {
        #[track_caller]
        fn check(list: &[(&str, &str)], status: Option<u16>) {
            assert_eq!(response(&fields(list)).ok().map(|facts| facts.status), status, "{list:?}");
        }
        check(&[(":status", "200"), ("a", "b")], Some(200));
        check(&[(":status", "103")], Some(103));
        check(&[("a", "b"), (":status", "200")], None);
        check(&[(":status", "200"), (":status", "200")], None);
        check(&[(":status", "200"), (":path", "/")], None);
        for status in ["", "20", "2000", "abc", "099", "101", "-10"] {
            check(&[(":status", status)], None);
        }
        check(&[], None);
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        assert!(trailers(&fields(&[("grpc-status", "0")])).is_ok());
        assert!(trailers(&fields(&[(":status", "200")])).is_err());
    }

    #[test]
    fn lengths_are_numbers_that_agree() {
        #[track_caller]
        fn check(lengths: &[&str], expected: Option<u64>) {
            let list: Vec<_> = lengths.iter().map(|it| ("content-length", *it)).collect();
            assert_eq!(trailers(&fields(&list)).ok().and_then(|facts| facts.content_length), expected);
        }
        check(&["12"], Some(12));
        check(&["12", "12"], Some(12));
        check(&["18446744073709551615"], Some(u64::MAX));
        for bad in [&["12", "13"][..], &[""], &["-1"], &["+1"], &["1a"], &["18446744073709551616"]] {
            check(bad, None);
        }
    }
}
