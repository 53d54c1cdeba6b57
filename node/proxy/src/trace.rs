//! Spans of calls that their callers have traced (W3C Trace Context, Level 1, section 3.2). Headers pass through
//! as they came; a span here is a child of the caller's.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::{Level, Span, info_span, span_enabled};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A span for a call that its caller samples, if traces are collected; none for all others, which so cost nothing.
pub(crate) fn span(kind: &'static str, traceparent: Option<&[u8]>) -> Span {
    let Some(traceparent) = traceparent.filter(|_| span_enabled!(Level::INFO)) else { return Span::none() };
    let Some(parent) = std::str::from_utf8(traceparent).ok().and_then(parent) else { return Span::none() };
    let span = info_span!("proxy.call", otel.kind = kind, rpc.system = "grpc");
    // Fails only where no traces are collected.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    span
}

/// Reads `00-TRACE-SPAN-FLAGS`; `None` if it is malformed or not sampled.
pub(crate) fn parent(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_form = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    if !is_form || version == "ff" || !is_sampled {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sampled_and_well_formed_parents_count() {
        #[track_caller]
        fn check(text: &str, expected: bool) {
            assert_eq!(parent(text).is_some(), expected, "{text}");
        }
        check("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true);
        check("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false);
        check("00-00000000000000000000000000000000-b7ad6b7169203331-01", false);
        check("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false);
        check("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false);
        check("00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", false);
        check("", false);
    }
}
