//! How it went: the summary for people, the result for machines, and whether that was good enough.

use serde_json::{Value, json};

use super::picture::remark;
use super::story::Story;

/// What every link between nodes has to be.
const GROUP: &str = "X25519MLKEM768";
const SIGNATURE: &str = "ML-DSA-65";

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

        let in_flight = loss.map_or(0, |it| it.in_flight);
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
                "a node killed  missed by all after {}, held dead after {}, {} calls failed in {}, {in_flight} of them \
                 in flight",
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
            "demo.kill_in_flight": loss.map(|it| it.in_flight),
            "demo.kill_detected_s": detected,
            "demo.kill_dead_s": dead,
            "demo.shift_s": shifted,
            "demo.back_s": back,
            "demo.serves_s": serves,
        });
        Self { lines, result, faults: faults(story, (&group, &signature)) }
    }
}

/// What was not good enough, of a demo whose links were all of that group and signature.
fn faults(story: &Story, (group, signature): (&str, &str)) -> Vec<String> {
    let loss = story.loss.as_ref();
    let n_spare = story.failed.saturating_sub(loss.map_or(0, |it| it.in_flight));
    let mut faults = Vec::new();
    if story.calls == 0 {
        faults.push("no call was made".to_owned());
    }
    if story.total.is_none() {
        faults.push("the customers ended without a total: see the log of `load`".to_owned());
    }
    if n_spare > 0 {
        faults.push(format!(
            "{n_spare} of {} calls failed that were not in flight on the killed node and could be saved",
            story.calls
        ));
    }
    if group != GROUP || signature != SIGNATURE {
        faults.push(format!("links were {group} with {signature}, not {GROUP} with {SIGNATURE}"));
    }
    if loss.and_then(|it| it.shifted()).is_none() {
        faults.push("calls never went well again after the node was killed".to_owned());
    }
    faults
}

/// To a hundredth.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::mesh::v1::Peer;

    use super::*;
    use crate::demo::story::Seen;
    use crate::demo::watch::Said;
    use crate::shop::Line;

    fn peer(group: &str) -> Peer {
        let (linked, tls_signature) = (true, SIGNATURE.to_owned());
        Peer { linked, tls_signature, tls_group: group.to_owned(), ..Peer::default() }
    }

    /// A demo of a second whose calls failed for these reasons, before, just after or long after the loss of a node.
    fn story(group: &str, before: &[&str], after: &[&str], late: &[&str]) -> Story {
        let mut story = Story::new(vec![Seen::default(); 3]);
        story.hear(Said::Peers(0, vec![peer(group)]));
        let mut total = Line { is_total: true, ..Line::default() };
        let mut customers_say = |story: &mut Story, reasons: &[&str]| {
            let failed = u64::try_from(reasons.len()).expect("a few");
            let by_reason = reasons.iter().map(|reason| ((*reason).to_owned(), 1)).collect();
            story.hear(Said::Calls(Line {
                calls: 100,
                ok: 100 - failed,
                failed,
                by_reason,
                ..Line::default()
            }));
            total.calls += 100;
            total.failed += failed;
        };
        customers_say(&mut story, before);
        story.lose(1);
        customers_say(&mut story, after);
        customers_say(&mut story, &[]);
        let loss = story.loss.as_mut().expect("a node is lost");
        loss.at = loss.at.checked_sub(Duration::from_secs(3)).expect("the machine runs for longer");
        customers_say(&mut story, late);
        customers_say(&mut story, &[]);
        story.hear(Said::Calls(total));
        story
    }

    #[test]
    fn only_calls_in_flight_on_the_killed_node_may_fail() {
        #[track_caller]
        fn check(before: &[&str], after: &[&str], late: &[&str], n_faulty: u64) {
            let faults = Verdict::of(&story(GROUP, before, after, late), 12, 1.0).faults;
            match n_faulty {
                0 => assert_eq!(faults, Vec::<String>::new()),
                _ => {
                    assert_eq!(faults.len(), 1, "{faults:?}");
                    assert!(faults[0].starts_with(&format!("{n_faulty} of 500 calls")), "{faults:?}");
                }
            }
        }
        const LOST: &str = "UNAVAILABLE/CALL_LOST";
        check(&[], &[], &[], 0);
        check(&[], &[LOST], &[], 0);
        check(&[LOST], &[], &[], 1);
        check(&[], &[], &[LOST], 1);
        // What the mesh has not sent, or gave up waiting for, it could have sent elsewhere.
        check(&[], &["UNAVAILABLE/NO_ENDPOINT"], &[], 1);
        check(&[], &["UNAVAILABLE/ENDPOINT_UNREACHABLE"], &[], 1);
        check(&[], &["DEADLINE_EXCEEDED"], &[], 1);
        check(&[], &["CALL_LOST"], &[], 1);
    }

    #[test]
    fn classic_links_and_a_demo_without_calls_are_faults() {
        let faults = Verdict::of(&story("X25519", &[], &[], &[]), 12, 1.0).faults;
        assert!(faults[0].contains("X25519 with"), "{faults:?}");
        assert_eq!(Verdict::of(&Story::new(vec![Seen::default(); 3]), 12, 1.0).faults.len(), 4);
    }
}
