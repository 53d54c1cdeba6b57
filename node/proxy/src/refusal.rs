//! Refusals as gRPC tells them: HTTP 200, headers that are trailers, and `google.rpc.ErrorInfo` in the details.

use std::fmt::Write as _;

use data_encoding::BASE64_NOPAD;
use proto::Message;
use proto::google::rpc::{Detail, ErrorInfo, Status};
use wire::hpack::{Fields, Name};

use types::{Reason, Refusal};

/// Of what was seen, as many bytes are told: it may be hostile, and callers bound their headers.
const DETAIL_LEN_MAX: usize = 1024;

/// Whom a refusal is told to, and where in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A caller, as the whole answer.
    Answer,
    /// Another proxy, as the whole answer, which it can tell from what a service answers.
    AnswerToProxy,
    /// A caller, as the end of an answer that has begun.
    Trailers,
}

/// Refusals in their forms, the last of each reason: many calls are refused alike.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    told: Vec<(Form, Refusal, Fields)>,
}

impl Refusals {
    /// A refusal in its form.
    pub(crate) fn fields(&mut self, refusal: &Refusal, form: Form) -> &Fields {
        let is_like = |it: &(Form, Refusal, Fields)| it.0 == form && it.1.reason == refusal.reason;
        let place = match self.told.iter().position(is_like) {
            Some(place) => {
                if self.told[place].1 != *refusal {
                    self.told[place] = (form, refusal.clone(), written(refusal, form));
                }
                place
            }
            None => {
                self.told.push((form, refusal.clone(), written(refusal, form)));
                self.told.len() - 1
            }
        };
        &self.told[place].2
    }
}

fn written(refusal: &Refusal, form: Form) -> Fields {
    let code = refusal.reason.status() as u8;
    let cut = refusal.detail.floor_char_boundary(DETAIL_LEN_MAX);
    let told = refusal.reason.because(&refusal.detail[..cut]).to_string();
    let mut fields = Fields::new();
    if form != Form::Trailers {
        fields.push_known(Name::Status, b"200");
        fields.push_known(Name::ContentType, b"application/grpc");
    }
    fields.push_known(Name::GrpcStatus, code.to_string().as_bytes());
    fields.push_known(Name::GrpcMessage, percent_encoded(&told).as_bytes());
    fields.push_known(Name::GrpcStatusDetails, details(refusal, code, told).as_bytes());
    if form == Form::AnswerToProxy {
        fields.push_known(Name::SagemeshRefused, refusal.reason.code().as_bytes());
    }
    fields
}

/// What is said to whoever does not speak gRPC, and so reads no gRPC status.
pub(crate) const NOT_GRPC: &str =
    "This port carries gRPC: call it by POST, with `content-type: application/grpc` and `te: trailers`.\n";

/// The head of the answer to what is not gRPC at all; [`NOT_GRPC`] is its body.
pub(crate) fn not_grpc() -> Fields {
    let mut fields = Fields::new();
    fields.push_known(Name::Status, b"415");
    fields.push_known(Name::ContentType, b"text/plain");
    fields
}

/// Why another proxy turned a call away, with what it has seen.
pub(crate) fn turned_away(answer: &Fields, reason: Reason) -> Refusal {
    let told = answer.value(Name::GrpcMessage).unwrap_or_default();
    reason.because(detail_of(&String::from_utf8_lossy(told)))
}

fn details(refusal: &Refusal, code: u8, message: String) -> String {
    let info = ErrorInfo {
        reason: refusal.reason.code().to_owned(),
        domain: "sagemesh".to_owned(),
        metadata: [("advice".to_owned(), refusal.reason.advice().to_owned())].into(),
    };
    let type_url = "type.googleapis.com/google.rpc.ErrorInfo".to_owned();
    let detail = Detail { type_url, value: info.encode_to_vec() };
    let status = Status { code: code.into(), message, details: vec![detail] };
    BASE64_NOPAD.encode(&status.encode_to_vec())
}

/// What was seen, of a refusal that another proxy told as `grpc-message`.
fn detail_of(message: &str) -> String {
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
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => {
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_what_to_do_in_forms_that_grpc_reads() {
        let refusal = Reason::PolicyDenied.because("100 % über");
        let mut refusals = Refusals::default();
        let fields = refusals.fields(&refusal, Form::AnswerToProxy).clone();
        let field = |name| std::str::from_utf8(fields.value(name).expect("it is there")).expect("ASCII");
        assert_eq!((field(Name::Status), field(Name::GrpcStatus)), ("200", "7"));
        assert_eq!(field(Name::SagemeshRefused), "POLICY_DENIED");
        assert!(field(Name::GrpcMessage).starts_with("100 %25 %C3%BCber (POLICY_DENIED): "));
        let bytes = BASE64_NOPAD.decode(field(Name::GrpcStatusDetails).as_bytes()).expect("base64");
        let status = Status::decode(&bytes[..]).expect("a status");
        assert_eq!((status.code, status.message), (7, refusal.to_string()));
        let info = ErrorInfo::decode(&status.details[0].value[..]).expect("an ErrorInfo");
        assert_eq!((&*info.reason, &*info.domain), ("POLICY_DENIED", "sagemesh"));
        assert_eq!(info.metadata["advice"], Reason::PolicyDenied.advice());
        assert_eq!(turned_away(&fields, Reason::PolicyDenied), refusal);
        assert!(refusals.fields(&refusal, Form::Trailers).value(Name::Status).is_none());
        let other = Reason::PolicyDenied.because("another");
        assert_eq!(turned_away(refusals.fields(&other, Form::Answer), Reason::PolicyDenied), other);
        assert_eq!(refusals.told.len(), 3);
    }

    #[test]
    fn what_was_seen_is_told_within_bounds() {
        let mut refusals = Refusals::default();
        let fields = refusals.fields(&Reason::ServiceUnknown.because("ü".repeat(100_000)), Form::Trailers);
        assert!(fields.value(Name::GrpcMessage).expect("it is there").len() < 8192);
    }
}
