//! What one call hands on to the calls that it makes: how much time is left, and the trace it belongs to.
//!
//! The headers are those of gRPC (doc/PROTOCOL-HTTP2.md, `grpc-timeout`) and of W3C Trace Context.

use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use super::Role;

/// Headers that go on as they came.
const PASSED_ON: [&str; 2] = ["traceparent", "tracestate"];
/// What tonic says when a deadline passes.
const TIMEOUT: &str = "Timeout expired";
/// How long the work behind an answer takes.
const WORK_US: std::ops::Range<u64> = 1_000..4_000;

/// One call, as far as the calls that follow from it are concerned.
#[derive(Clone, Debug)]
pub(super) struct Call {
    until: Option<Instant>,
    headers: Vec<(&'static str, MetadataValue<Ascii>)>,
}

impl Call {
    /// A call that nobody made before: it has this much time and a new trace.
    pub(super) fn begin(time: Duration) -> Self {
        let (trace, span) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
        let parent = MetadataValue::try_from(format!("00-{trace:032x}-{span:016x}-01"));
        let headers = parent.map(|parent| ("traceparent", parent)).into_iter().collect();
        Self { until: Some(Instant::now() + time), headers }
    }

    /// The call that this request makes.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let headers = request.metadata();
        let header = |name| Some((name, headers.get(name)?.clone()));
        Self {
            until: timeout(headers).and_then(|time| Instant::now().checked_add(time)),
            headers: PASSED_ON.into_iter().filter_map(header).collect(),
        }
    }

    /// A request that belongs to the call.
    ///
    /// # Errors
    /// The call's time has passed.
    pub(super) fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(*name, value.clone());
        }
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Status::deadline_exceeded("no time is left for the next call"));
            }
            request.set_timeout(left);
        }
        Ok(request)
    }
}

/// What a caller is told when another service failed it: the same code and the same details.
pub(super) fn failed_by(role: Role) -> impl Fn(Status) -> Status {
    move |status| {
        // tonic says CANCELLED when a deadline passes, and only its words tell it from a broken stream.
        let is_late = status.code() == Code::Cancelled && status.message() == TIMEOUT;
        let code = if is_late { Code::DeadlineExceeded } else { status.code() };
        let message = format!("{}: {}", role.name(), status.message());
        Status::with_details(code, message, status.details().to_vec().into())
    }
}

/// Takes as long as real work might.
pub(super) async fn work() {
    let us = rand::rng().random_range(WORK_US);
    sleep(Duration::from_micros(us)).await;
}

/// A number for a receipt, an order or a parcel.
pub(super) fn number(what: &str) -> String {
    format!("{what}-{:08x}", rand::random::<u32>())
}

fn timeout(headers: &MetadataMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(3600 * u64::from(u32::try_from(amount).ok()?)),
        "M" => Duration::from_secs(60 * u64::from(u32::try_from(amount).ok()?)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_hands_on_its_trace_and_what_is_left_of_its_time() {
        let first = Call::begin(Duration::from_secs(2)).request(()).expect("time");
        tokio::time::advance(Duration::from_millis(500)).await;
        let call = Call::of(&first);
        tokio::time::advance(Duration::from_millis(500)).await;
        let second = call.request(()).expect("time");
        assert_eq!(timeout(second.metadata()), Some(Duration::from_millis(1500)));
        let trace = first.metadata().get("traceparent").expect("a trace");
        assert_eq!(trace.len(), 55);
        assert_eq!(second.metadata().get("traceparent"), Some(trace));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(call.request(()).expect_err("no time").code(), Code::DeadlineExceeded);
    }

    #[test]
    fn a_timeout_has_a_unit() {
        for (text, expected) in [
            ("1S", Some(1_000)),
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("250m", Some(250)),
            ("3000u", Some(3)),
            ("", None),
            ("5", None),
            ("-1S", None),
            ("1s", None),
            ("ü", None),
        ] {
            let mut headers = MetadataMap::new();
            if let Ok(value) = MetadataValue::try_from(text) {
                headers.insert("grpc-timeout", value);
            }
            assert_eq!(timeout(&headers), expected.map(Duration::from_millis), "{text}");
        }
    }
}
