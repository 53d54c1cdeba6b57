//! How it went: the summary for people, the result for machines, and whether that was good enough.

use serde_json::{Value, json};

use super::picture::remark;
use super::story::Story;

/// What every link between nodes has to be.
const GROUP: &str = "X25519MLKEM768";
const SIGNATURE: &str = "ML-DSA-65";
/// The share of calls that may fail.
const FAILED_RATIO_MAX: f64 = 0.005;
/// As few may fail whatever the share: a call that is under way on a node as it is killed cannot be saved, since
/// nobody knows whether it was carried out.
const FAILED_ALWAYS: u64 = 5;

/// What is told at the end.
#[derive(Debug)]
pub(super) struct Verdict {
    /// For people.
    pub(super) lines: Vec<String>,
    /// For machines.
    pub(super) result: Value,
    /// What was not good enough. Empty: nothing.
    pub(super) faults: Vec<String>,
}

impl Verdict {
    pub(super) fn of(story: &Story, n_services: usize, start_s: f64) -> Self {
        let n_nodes = story.nodes.len();
        let join = |set: &std::collections::BTreeSet<String>| {
            set.iter().map(String::as_str).collect::<Vec<_>>().join("+")
        };
        let (group, signature) = (join(&story.groups), join(&story.signatures));
        #[expect(clippy::cast_precision_loss, reason = "counts of one demo")]
        let ratio = if story.calls == 0 { 1.0 } else { story.failed as f64 / story.calls as f64 };
        let seconds = |time: Option<std::time::Duration>| time.map(|it| round(it.as_secs_f64()));
        let loss = story.loss.as_ref();
        let detected = seconds(loss.and_then(|it| it.detected(n_nodes)));
        let shifted = seconds(loss.and_then(|it| it.shifted()));
        let (dead, back) =
            (seconds(loss.and_then(|it| it.dead(n_nodes))), seconds(loss.and_then(|it| it.back())));
        let serves = seconds(loss.and_then(|it| it.serves()));

        let mut faults = Vec::new();
        if story.calls == 0 {
            faults.push("no call was made".to_owned());
        }
        if story.total.is_none() {
            faults.push("the customers ended without a total: see the log of `load`".to_owned());
        }
        if ratio > FAILED_RATIO_MAX && story.failed > FAILED_ALWAYS {
            faults.push(format!("{:.2} % of calls failed, where 0.5 % may", ratio * 100.0));
        }
        if group != GROUP || signature != SIGNATURE {
            faults.push(format!("links were {group} with {signature}, not {GROUP} with {SIGNATURE}"));
        }
        if shifted.is_none() {
            faults.push("calls never went well again after the node was killed".to_owned());
        }
        let show = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |it| format!("{it:.1} s"));
        let latency = story.total.as_ref().and_then(|line| Some((line.p50_ms?, line.p99_ms?)));
        let latency = latency.map(|(p50, p99)| format!("p50 {p50:.1} ms, p99 {p99:.1} ms"));
        let reasons: Vec<_> = story.by_reason.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let mut lines: Vec<_> = story.remarks.iter().map(|(at, text)| remark(*at, text)).collect();
        lines.push(String::new());
        lines.extend([
            format!("{n_nodes} nodes joined and {n_services} services were up after {start_s:.1} s"),
            format!("links          {group}, {signature}"),
            format!("calls          {}, {}", story.calls, latency.unwrap_or_else(|| "no answer".to_owned())),
            format!("failed         {} ({:.2} %) {}", story.failed, ratio * 100.0, reasons.join(", ")),
            format!(
                "a node killed  missed by all after {}, held dead after {}, {} calls failed in {}",
                show(detected),
                show(dead),
                loss.map_or(0, |it| it.failed),
                show(shifted)
            ),
            format!("started again  back with all after {}, serves after {}", show(back), show(serves)),
        ]);
        let result = json!({
            "demo.nodes": n_nodes,
            "demo.services": n_services,
            "demo.start_s": round(start_s),
            "demo.calls": story.calls,
            "demo.failed": story.failed,
            "demo.failed_ratio": ratio,
            "demo.p50_ms": story.total.as_ref().and_then(|line| line.p50_ms).map(round),
            "demo.p99_ms": story.total.as_ref().and_then(|line| line.p99_ms).map(round),
            "demo.tls_group": group,
            "demo.tls_signature": signature,
            "demo.kill_failed": loss.map(|it| it.failed),
            "demo.kill_detected_s": detected,
            "demo.kill_dead_s": dead,
            "demo.shift_s": shifted,
            "demo.back_s": back,
            "demo.serves_s": serves,
        });
        Self { lines, result, faults }
    }
}

/// To a hundredth.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use proto::mesh::v1::Peer;

    use super::*;
    use crate::demo::story::Seen;
    use crate::demo::watch::Said;
    use crate::shop::Line;

    fn peer(group: &str) -> Peer {
        let (linked, tls_signature) = (true, SIGNATURE.to_owned());
        Peer { linked, tls_signature, tls_group: group.to_owned(), ..Peer::default() }
    }

    #[test]
    fn too_many_failures_and_classic_links_are_faults() {
        let story = |group: &str, failed: u64| {
            let mut story = Story::new(vec![Seen::default(); 3]);
            story.hear(Said::Peers(0, vec![peer(group)]));
            story.lose(1);
            story.hear(Said::Calls(Line { calls: 10, ok: 10, ..Line::default() }));
            let calls = Line { calls: 1000, ok: 1000 - failed, failed, is_total: true, ..Line::default() };
            story.hear(Said::Calls(calls));
            Verdict::of(&story, 12, 1.0)
        };
        assert_eq!(story(GROUP, 5).faults, Vec::<String>::new());
        assert_eq!(story(GROUP, 5).result["demo.shift_s"], 0.0);
        assert!(story(GROUP, 6).faults[0].contains("0.60 %"));
        assert!(story("X25519", 0).faults[0].contains("X25519 with"));
        assert_eq!(Verdict::of(&Story::new(vec![Seen::default(); 3]), 12, 1.0).faults.len(), 4);
    }
}
