//! Refusals as gRPC tells them: a status with a `google.rpc.ErrorInfo` (google/rpc/error_details.proto), and
//! back.

use std::collections::HashMap;

use prost::Message;
use prost::bytes::Bytes;
use tonic::{Code, Status};

use proto::google::rpc;
use types::{Reason, Refusal};

/// Who defines the reasons.
pub const DOMAIN: &str = "sagemesh";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
/// Most characters of a detail that are sent: it travels in a header, twice.
const DETAIL_LEN_MAX: usize = 600;

/// The status that tells of a refusal: its message is the detail with the code and the advice.
pub fn status(refusal: &Refusal) -> Status {
    let reason = refusal.reason;
    let detail = refusal.detail.chars().take(DETAIL_LEN_MAX).collect();
    let message = Refusal { reason, detail }.to_string();
    let code = Code::from_i32(reason.status() as i32);
    let info = rpc::ErrorInfo {
        reason: reason.code().to_owned(),
        domain: DOMAIN.to_owned(),
        metadata: HashMap::from([("advice".to_owned(), reason.advice().to_owned())]),
    };
    let detail = rpc::Detail { type_url: ERROR_INFO.to_owned(), value: info.encode_to_vec() };
    let details =
        rpc::Status { code: reason.status() as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}

/// The refusal that a status tells of; `None` if it tells of something else.
pub fn read(status: &Status) -> Option<Refusal> {
    let details = rpc::Status::decode(status.details()).ok()?;
    let info = details.details.iter().find(|detail| detail.type_url == ERROR_INFO)?;
    let info = rpc::ErrorInfo::decode(info.value.as_slice()).ok()?;
    let reason = Reason::from_code(&info.reason).filter(|_| info.domain == DOMAIN)?;
    let told = status.message();
    let rest = format!(" ({reason}): {}", reason.advice());
    Some(reason.because(told.strip_suffix(&rest).unwrap_or(told)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_from_its_status() {
        for reason in Reason::ALL {
            let refusal = reason.because("what was seen, with ümlauts: and (marks)");
            let status = status(&refusal);
            assert_eq!(status.code() as i32, reason.status() as i32);
            assert!(status.message().contains(reason.code()) && status.message().contains(reason.advice()));
            assert_eq!(read(&status), Some(refusal));
        }
    }

    #[test]
    fn a_long_detail_is_cut_and_a_foreign_status_is_none() {
        let status = status(&Reason::Overloaded.because("é".repeat(10_000)));
        assert!(status.message().len() < 2_000 && status.details().len() < 4_000);
        assert_eq!(read(&Status::internal("broken")), None);
        assert_eq!(read(&Status::with_details(Code::Internal, "", Bytes::from_static(b"\xff"))), None);
    }
}
