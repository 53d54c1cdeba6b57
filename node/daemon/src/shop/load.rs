//! The customers: they call the frontend at an even rate, whatever becomes of the calls before, and a line of
//! JSON a second says how they fared.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use proto::Message;
use proto::google::rpc;
use proto::shop::v1::frontend_service_client::FrontendServiceClient;
use proto::shop::v1::{BuyRequest, Stop};
use types::histogram::Histogram;

use super::call::{Call, failed_by};
use super::{Role, Site};

/// Different reasons, and different nodes, that a line names. What comes beyond counts as the last.
const NAMES_MAX: usize = 32;
/// Under which all further names are counted.
const MORE: &str = "more";
/// The reason of a call that could not be made, as every caller still waited for an answer.
const CALLERS_BUSY: &str = "CALLERS_BUSY";

/// What the customers do.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Calls a second [0.1 to 10000]
    #[arg(long, value_name = "N", default_value_t = 20.0, value_parser = rate)]
    pub rate: f64,
    /// Callers, each with a connection of its own and one call at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub callers: u16,
    /// How long a caller waits for an answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub deadline_ms: u64,
    /// How often a line is printed, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub every_ms: u64,
}

/// How the calls since the line before, or of the whole run, fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since the start.
    pub t: f64,
    /// Calls that ended.
    pub calls: u64,
    /// Those that were answered.
    pub ok: u64,
    /// Those that were not.
    pub failed: u64,
    /// Why not: the gRPC status, and the mesh's reason if it gave one, as in `UNAVAILABLE/NO_ENDPOINT`.
    pub by_reason: BTreeMap<String, u64>,
    /// The median time to an answer; absent without answers.
    pub p50_ms: Option<f64>,
    /// The time to an answer that one in a hundred exceeds.
    pub p99_ms: Option<f64>,
    /// By node how many answers its services gave to calls that went well, eight a call.
    pub by_node: BTreeMap<String, u64>,
    /// Whether this is the last line, of the whole run.
    pub is_total: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "a number is needed")?;
    if (0.1..=10_000.0).contains(&rate) { Ok(rate) } else { Err("choose 0.1 to 10000".to_owned()) }
}

/// Calls until `shutdown`, waits for the answers that are due, and writes the total.
pub(super) async fn run(
    load: &Load,
    site: &Site,
    out: &mut (dyn Write + Send),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let deadline = Duration::from_millis(load.deadline_ms);
    let mut idle: Vec<Channel> = (0..load.callers).map(|_| site.new_channel(Role::Frontend)).collect();
    let mut calls = JoinSet::new();
    let (start, mut second, mut total) = (Instant::now(), Tally::default(), Tally::default());
    let mut next_call = interval(Duration::from_secs_f64(1.0 / load.rate));
    // An open loop makes up for calls that it was too late for.
    next_call.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut next_line = interval(Duration::from_millis(load.every_ms));
    next_line.tick().await;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = next_line.tick() => {
                write(out, &second.line(start.elapsed(), false))?;
                total.merge(&std::mem::take(&mut second));
            }
            Some(done) = calls.join_next() => {
                let (channel, outcome) = done.context("a caller panicked: this is a bug, report it")?;
                idle.push(channel);
                second.count(outcome);
            }
            _ = next_call.tick() => match idle.pop() {
                Some(channel) => {
                    calls.spawn(buy(channel, deadline));
                }
                None => second.fail(CALLERS_BUSY.to_owned()),
            },
        }
    }
    while let Some(done) = calls.join_next().await {
        second.count(done.context("a caller panicked: this is a bug, report it")?.1);
    }
    total.merge(&second);
    write(out, &total.line(start.elapsed(), true))
}

type Outcome = Result<(Duration, Vec<Stop>), Status>;

async fn buy(channel: Channel, deadline: Duration) -> (Channel, Outcome) {
    let start = Instant::now();
    let mut frontend = FrontendServiceClient::new(channel.clone());
    let asked = Call::begin(deadline).request(BuyRequest { customer: "somebody".to_owned() });
    let answer = async { frontend.buy(asked?).await };
    // The channel's own deadline begins once it is connected.
    let answer = timeout(deadline, answer).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
    let outcome = answer.map(|answer| (start.elapsed(), answer.into_inner().stops));
    (channel, outcome.map_err(failed_by(Role::Frontend)))
}

/// What is counted.
#[derive(Default)]
struct Tally {
    latency: Histogram,
    by_reason: BTreeMap<String, u64>,
    by_node: BTreeMap<String, u64>,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Ok((latency, stops)) => {
                self.latency.record(latency);
                for stop in stops {
                    add(&mut self.by_node, stop.node, 1);
                }
            }
            Err(status) => self.fail(reason(&status)),
        }
    }

    fn fail(&mut self, reason: String) {
        add(&mut self.by_reason, reason, 1);
    }

    fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        for (mine, theirs) in [(&mut self.by_reason, &other.by_reason), (&mut self.by_node, &other.by_node)] {
            for (name, n) in theirs {
                add(mine, name.clone(), *n);
            }
        }
    }

    fn line(&self, elapsed: Duration, is_total: bool) -> Line {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (ok, failed) = (self.latency.len(), self.by_reason.values().sum());
        Line {
            t: (elapsed.as_secs_f64() * 10.0).round() / 10.0,
            calls: ok + failed,
            ok,
            failed,
            by_reason: self.by_reason.clone(),
            p50_ms: self.latency.quantile(0.5).map(ms),
            p99_ms: self.latency.quantile(0.99).map(ms),
            by_node: self.by_node.clone(),
            is_total,
        }
    }
}

/// INVARIANT: a map holds `NAMES_MAX` names and one for all others.
fn add(counts: &mut BTreeMap<String, u64>, name: String, n: u64) {
    let is_full = counts.len() >= NAMES_MAX && !counts.contains_key(&name);
    *counts.entry(if is_full { MORE.to_owned() } else { name }).or_default() += n;
}

fn write(out: &mut dyn Write, line: &Line) -> anyhow::Result<()> {
    let text = serde_json::to_string(line).context("failed to encode a line")?;
    writeln!(out, "{text}").and_then(|()| out.flush()).context("failed to print")
}

/// The status and, where the mesh refused the call, its reason (`google.rpc.ErrorInfo`).
fn reason(status: &Status) -> String {
    let details = rpc::Status::decode(status.details()).map(|it| it.details).unwrap_or_default();
    let info = details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.ErrorInfo"));
    let info = info.and_then(|detail| rpc::ErrorInfo::decode(&*detail.value).ok());
    let code = code_name(status);
    info.map_or_else(|| code.clone(), |info| format!("{code}/{}", info.reason))
}

/// `DeadlineExceeded` is `DEADLINE_EXCEEDED` to everyone but Rust.
fn code_name(status: &Status) -> String {
    let mut name = String::new();
    for c in format!("{:?}", status.code()).chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_mesh_is_counted_by_its_reason() {
        let info = rpc::ErrorInfo { reason: "NO_ENDPOINT".to_owned(), ..rpc::ErrorInfo::default() };
        let type_url = "type.googleapis.com/google.rpc.ErrorInfo".to_owned();
        let detail = rpc::Detail { type_url, value: info.encode_to_vec() };
        let details = rpc::Status { code: 14, message: String::new(), details: vec![detail] };
        let code = tonic::Code::Unavailable;
        let refused = Status::with_details(code, "no endpoint", details.encode_to_vec().into());
        let passed_on = failed_by(Role::Cart)(refused);
        assert_eq!(reason(&passed_on), "UNAVAILABLE/NO_ENDPOINT");
        assert_eq!(reason(&Status::deadline_exceeded("")), "DEADLINE_EXCEEDED");
        assert_eq!(reason(&Status::with_details(code, "", vec![255].into())), "UNAVAILABLE");
    }

    #[test]
    fn hostile_names_cannot_make_a_line_grow() {
        let mut counts = BTreeMap::new();
        for n in 0..1000 {
            add(&mut counts, n.to_string(), 1);
        }
        assert_eq!((counts.len(), counts.values().sum::<u64>()), (NAMES_MAX + 1, 1000));
    }
}
