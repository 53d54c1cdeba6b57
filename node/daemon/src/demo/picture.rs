//! The picture of the running demo: 80 columns of text, drawn over and over, or one line a second.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use proto::mesh::v1::Liveness;
use proto::service::v1::Health;

use super::place::SERVING;
use super::story::{Seen, Story};

/// Columns.
const WIDTH: usize = 80;
/// Remarks that are shown.
const REMARKS: usize = 8;
/// Cells of the bar that shows how much time has passed.
const BAR: usize = 20;

/// A terminal without a cursor, until it is dropped.
#[derive(Debug)]
pub(super) struct Screen;

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let screen = Self;
        put("\x1b[?25l\x1b[2J")?;
        Ok(screen)
    }

    /// Draws over what is there.
    pub(super) fn draw(&self, lines: &[String]) -> io::Result<()> {
        let height = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row);
        let height = if height == 0 { usize::MAX } else { usize::from(height) };
        let mut text = "\x1b[H".to_owned();
        for line in &lines[..lines.len().min(height.saturating_sub(1))] {
            let _ = write!(text, "{line}\x1b[K\r\n");
        }
        put(&(text + "\x1b[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is no terminal left if it fails.
        let _ = put("\x1b[?25h");
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The picture, in lines of at most 80 characters.
pub(super) fn lines(story: &Story, whole: Duration) -> Vec<String> {
    let elapsed = story.elapsed().min(whole);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
    let done = (elapsed.as_secs_f64() / whole.as_secs_f64() * BAR as f64) as usize;
    let mut lines = vec![
        format!(
            "{:<41} {:>15} [{}{}]",
            format!("SageMesh demo: a shop on {} nodes", story.nodes.len()),
            format!("{} of {} s", elapsed.as_secs(), whole.as_secs()),
            "#".repeat(done),
            ".".repeat(BAR - done)
        ),
        String::new(),
        "node     address          state    links  key exchange    signature  answers/s".to_owned(),
    ];
    lines.extend((0..story.nodes.len()).map(|idx| node(story, idx)));
    lines.push(String::new());
    lines.push("service    runs on".to_owned());
    lines.extend(SERVING.into_iter().map(|role| service(story, role.name())));
    lines.push(String::new());
    lines.push(calls(story));
    lines.push(failures(story));
    lines.push(String::new());
    let skip = story.remarks.len().saturating_sub(REMARKS);
    lines.extend(story.remarks.iter().skip(skip).map(|(at, text)| remark(*at, text)));
    for line in &mut lines {
        *line = line.chars().take(WIDTH).collect();
    }
    lines
}

/// One thing that was worth a line.
pub(super) fn remark(at: Duration, text: &str) -> String {
    format!("{:>6.1} s  {text}", at.as_secs_f64())
}

/// How a node's liveness is called.
pub(super) const fn state(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Unspecified | Liveness::Unknown => "unknown",
        Liveness::Alive => "alive",
        Liveness::Suspect => "suspect",
        Liveness::Dead => "dead",
        Liveness::Left => "left",
    }
}

fn node(story: &Story, idx: usize) -> String {
    let Seen { name, address, peers } = &story.nodes[idx];
    let n_linked = peers.iter().filter(|peer| peer.linked).count();
    let links =
        if peers.is_empty() { "-".to_owned() } else { format!("{n_linked}/{}", story.nodes.len() - 1) };
    let standing = story.standing(idx);
    let liveness = standing.map_or("unknown", |peer| state(peer.liveness()));
    let word = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let group = standing.map_or_else(|| "-".to_owned(), |peer| word(&peer.tls_group));
    let signature = standing.map_or_else(|| "-".to_owned(), |peer| word(&peer.tls_signature));
    let answers: u64 = story.recent.iter().filter_map(|line| line.by_node.get(name)).sum();
    format!("{name:<8} {address:<16} {liveness:<8} {links:<6} {group:<15} {signature:<10} {answers:>9}")
}

fn service(story: &Story, name: &str) -> String {
    let mut line = format!("{name:<10}");
    for service in story.services.iter().filter(|it| it.name == name) {
        let at = story.nodes.iter().position(|node| node.name == service.node);
        let liveness = at.and_then(|idx| story.standing(idx)).map(|peer| peer.liveness());
        let health = match (liveness, service.health()) {
            (Some(liveness), _) if liveness != Liveness::Alive => state(liveness),
            (_, Health::Healthy) => "healthy",
            (_, Health::Unhealthy) => &service.reason,
            (_, Health::Unspecified | Health::Unknown) => "unknown",
        };
        let _ = write!(line, " {} {health:<18}", service.node);
    }
    line.trim_end().to_owned()
}

/// How calls fare now.
pub(super) fn calls(story: &Story) -> String {
    let n_calls: u64 = story.recent.iter().map(|line| line.calls).sum();
    let mut p50: Vec<_> = story.recent.iter().filter_map(|line| line.p50_ms).collect();
    p50.sort_by(f64::total_cmp);
    let p50 = p50.get(p50.len() / 2).copied().unwrap_or_default();
    let p99 = story.recent.iter().filter_map(|line| line.p99_ms).fold(0.0, f64::max);
    format!("calls     {n_calls:>4}/s   p50 {p50:.1} ms   p99 {p99:.1} ms   eight calls behind each")
}

/// How many failed, and why.
fn failures(story: &Story) -> String {
    let reasons = story.by_reason.iter().map(|(reason, n)| format!("{reason} {n}"));
    let reasons: Vec<_> = reasons.collect();
    format!("failed    {} of {}   {}", story.failed, story.calls, reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use proto::mesh::v1::Peer;

    use super::*;
    use crate::demo::watch::Said;
    use crate::shop::Line;

    #[test]
    fn the_picture_fits_eighty_columns_and_shows_who_is_lost() {
        let seen = |n: usize| Seen {
            name: format!("node-{n}"),
            address: format!("127.0.0.1:{}", 20_000 + n),
            ..Seen::default()
        };
        let mut story = Story::new((1..=20).map(seen).collect());
        let peer = |liveness: Liveness| Peer {
            node: "node-2".to_owned(),
            liveness: liveness.into(),
            linked: liveness == Liveness::Alive,
            tls_group: "X25519MLKEM768".to_owned(),
            tls_signature: "ML-DSA-65".to_owned(),
            ..Peer::default()
        };
        story.hear(Said::Peers(0, vec![peer(Liveness::Alive)]));
        let shown = lines(&story, Duration::from_secs(60));
        assert!(shown[0].ends_with(']'), "{}", shown[0]);
        assert!(shown[4].contains("alive") && shown[4].contains("ML-DSA-65"), "{}", shown[4]);
        story.lose(1);
        story.hear(Said::Peers(0, vec![peer(Liveness::Dead)]));
        let reason = "UNAVAILABLE/".repeat(20);
        let by_reason = [(reason, 3)].into();
        story.hear(Said::Calls(Line { calls: 10, ok: 7, failed: 3, by_reason, ..Line::default() }));
        let shown = lines(&story, Duration::from_secs(60));
        assert!(shown[4].contains("dead"), "{}", shown[4]);
        assert!(shown.iter().any(|line| line.contains("node-1 holds node-2 dead after")), "{shown:#?}");
        assert!(shown.iter().all(|line| line.chars().count() <= WIDTH), "{shown:#?}");
        assert!(shown.iter().any(|line| line.starts_with("failed    3 of 10")), "{shown:#?}");
    }
}
