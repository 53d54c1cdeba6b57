//! The relay is transparent: a call through two proxies is the call over a direct connection, byte for byte and field
//! for field. Calls of any shape, by a seed, are carried out twice: `scripted` is both ends, and the connection between them is
//! a direct one or leads through both proxies and mutual TLS. What each end has seen must be the same, but for this:
//!
//! - **Frames.** A relay cuts DATA and header blocks as it likes, and drops padding and empty DATA. Bodies are compared as
//!   bytes. Whether a message without a body ends with its fields or behind them is not compared: which of both a server
//!   sees depends on whether the end was there when the relay had a connection.
//! - **Order** of fields that have different names (ADR 9). The order of those with the same name is compared.
//! - **What is the mesh's** (ADR 7): fields that begin with `sagemesh-` pass in neither direction. A server sees one
//!   `x-forwarded-client-cert`, which is the relay's, and none of the caller's. `grpc-timeout` is no more than the caller
//!   said. `:scheme` is `http`, as the connection to a server is in the clear, and a host that the caller named by `host`
//!   alone stands in `:authority` as well.
//! - **Secrets.** `authorization`, `cookie`, `set-cookie` and `proxy-authorization` are never indexed, whatever they came
//!   as (ADR 9).
//! - **Resets.** A relay may drop what no window was open for when a stream is reset: of such calls each end sees the
//!   beginning of what was sent. A server sees CANCEL, whatever the code was by which the caller gave up. A caller sees the
//!   server's code. (But REFUSED_STREAM, which means that no server has looked at the call; the relay sends it elsewhere.
//!   `rig` tests that.)
//! - **Ends.** When the answer has ended the call has, for both ends: a relay cuts what is still to come of the request, by
//!   NO_ERROR towards the caller (RFC 9113, section 8.1) and by CANCEL towards the server, as gRPC does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::net::TcpStream;
use wire::Code;

use super::scripted::{Act, Backend, CALL, End, Field, Ledger, Plan, Progress, Seen, Step, byte};
use super::street::{self, Street, grpc};
use crate::town::within;

/// Of as many cases as `PROPTEST_CASES` says, 256 without it, one in so many is run: they are long.
const SHARE: u64 = 6;
/// Calls of one case: all on one connection.
const CALLS_MAX: u64 = 12;
/// Most bytes of one body: above what windows, buffers and the beginning of a request that is kept hold.
const BODY_MAX: usize = 600_000;
const SECRETS: [&[u8]; 4] = [b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"];

fn n_cases() -> u64 {
    let said = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse::<u64>().ok());
    said.unwrap_or(256).div_ceil(SHARE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_through_the_relay_is_the_same_as_a_direct_one() {
    let mut street = Street::new();
    let (direct, relayed) = (Backend::start(1).await, Backend::start(2).await);
    // Nothing is to be lost by a machine that is busy.
    let config = || proxy::Config {
        ping_interval: Duration::from_secs(60),
        route: route::Config { stall_min: Duration::from_secs(10), ..route::Config::default() },
        ..street::config()
    };
    let _nas = street.house_with("nas", "echo", grpc(relayed.address), "svc/web", config()).await;
    let pi = street.house_with("pi", "web", None, "", config()).await;
    for seed in 0..n_cases() {
        let plans = plans(seed);
        let first = run(seed, &plans, direct.address, &direct.ledger).await;
        let second = run(seed, &plans, pi.outbound, &relayed.ledger).await;
        for plan in &plans {
            let told = [&first, &second].map(|(asked, served)| (asked.get(&plan.id), served.get(&plan.id)));
            check(seed, plan, told[0], told[1]);
        }
    }
    assert_eq!(pi.handle.count(proxy::Count::ConnectionPanicked), 0);
    pi.settles().await;
}

type Told = BTreeMap<u64, Seen>;

/// Carries out plans, and says what the client and the server have seen.
async fn run(seed: u64, plans: &[Arc<Plan>], at: SocketAddr, ledger: &Arc<Mutex<Ledger>>) -> (Told, Told) {
    ledger.lock().unwrap().plan(plans);
    let socket = TcpStream::connect(at).await.unwrap();
    let mut client = End::new(true, seed, Arc::default(), plans.to_vec());
    let carried = tokio::time::timeout(Duration::from_secs(60), client.drive(&socket)).await;
    assert!(matches!(carried, Ok(Ok(()))), "seed {seed}: {carried:?}: {}", client.hanging());
    let is_needed = |plan: &&Arc<Plan>| !plan.steps[0].iter().any(|step| matches!(step.act, Act::Reset(_)));
    let needed: Vec<u64> = plans.iter().filter(is_needed).map(|plan| plan.id).collect();
    let is_served = || {
        let ledger = ledger.lock().unwrap();
        needed.iter().chain(&ledger.begun).all(|id| ledger.served.contains_key(id))
    };
    within("an end of all calls at the server", async {
        while !is_served() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let mut ledger = ledger.lock().unwrap();
    ledger.begun.clear();
    (client.done, std::mem::take(&mut ledger.served))
}

/// Random calls.
fn plans(seed: u64) -> Vec<Arc<Plan>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = rng.random_range(1..=CALLS_MAX);
    (0..n).map(|at| Arc::new(plan(seed * CALLS_MAX + at, &mut rng))).collect()
}

fn plan(id: u64, rng: &mut ChaCha8Rng) -> Plan {
    let mut acts = [request(id, rng), answer(rng)];
    if rng.random_bool(0.15) {
        let side = rng.random_range(0..2);
        let n = rng.random_range(1 - side..=acts[side].len());
        acts[side].truncate(n);
        let code = *[0, 2, 8, 11, 0xdead].choose(rng).unwrap();
        acts[side].push(Act::Reset(Code(code)));
    }
    // Any order in which both ends could act is one; then most steps wait for what came before them.
    let mut order = vec![0; acts[0].len() - 1];
    let of_server = vec![1; acts[1].len()];
    match rng.random_range(0..3) {
        0 => order.extend(of_server),
        1 => order.splice(0..0, of_server).for_each(drop),
        _ => {
            order.extend(of_server);
            order.shuffle(rng);
        }
    }
    order.insert(0, 0);
    let is_strict = rng.random_bool(0.7);
    let mut done = [Progress::default(); 2];
    let mut steps = [Vec::new(), Vec::new()];
    let mut acts = acts.map(Vec::into_iter);
    for side in order {
        let act = acts[side].next().expect("as many as were counted");
        let is_patient = is_strict && rng.random_bool(0.8);
        let after = if is_patient { done[1 - side] } else { Progress::default() };
        match &act {
            Act::Fields { is_end, .. } => {
                done[side].n_lists += 1;
                done[side].is_over = *is_end;
            }
            Act::Data { len, is_end, .. } => {
                done[side].n_bytes += len;
                done[side].is_over = *is_end;
            }
            Act::Reset(_) => {}
        }
        steps[side].push(Step { after, act });
    }
    Plan { id, steps }
}

fn request(id: u64, rng: &mut ChaCha8Rng) -> Vec<Act> {
    let hosts = ["echo", "echo:50051", "echo.svc.home.mesh", "echo.svc.home.mesh:443"];
    let (host, named) = (*hosts.choose(rng).unwrap(), rng.random_range(0..6));
    let mut list = vec![
        field(":method", "POST"),
        field(":scheme", ["http", "https"][usize::from(id.is_multiple_of(5))]),
    ];
    list.push(field(":path", &format!("/t.T/{}", ["Echo", "Other", "a/b?c=%20"].choose(rng).unwrap())));
    if named != 0 {
        list.push(field(":authority", host));
    }
    if named <= 1 {
        list.push(field("host", host));
    }
    list.push(field("te", "trailers"));
    list.push(field("content-type", ["application/grpc", "application/grpc+proto"].choose(rng).unwrap()));
    if rng.random_bool(0.4) {
        list.push(field("grpc-timeout", ["1H", "3600S", "99999999m", "99999999u"].choose(rng).unwrap()));
    }
    list.push(Field { name: CALL.to_vec(), value: id.to_string().into_bytes(), is_secret: false });
    more_fields(&mut list, rng);
    message(list, rng)
}

fn answer(rng: &mut ChaCha8Rng) -> Vec<Act> {
    let mut acts = Vec::new();
    while rng.random_bool(0.1) {
        let mut list = vec![field(":status", ["103", "100", "199"].choose(rng).unwrap())];
        more_fields(&mut list, rng);
        acts.push(Act::Fields { list, is_end: false });
    }
    let mut list = vec![field(":status", ["200", "200", "200", "404", "503"].choose(rng).unwrap())];
    list.push(field("content-type", "application/grpc"));
    if rng.random_bool(0.2) {
        list.push(field("grpc-status", ["0", "5", "16", "x"].choose(rng).unwrap()));
    }
    more_fields(&mut list, rng);
    acts.extend(message(list, rng));
    acts
}

/// A message that begins with these fields: its body in pieces, and trailers if chance will have it.
fn message(mut list: Vec<Field>, rng: &mut ChaCha8Rng) -> Vec<Act> {
    let len = match rng.random_range(0..20) {
        0..5 => 0,
        5..14 => rng.random_range(1..2000),
        14..19 => rng.random_range(1..70_000),
        _ => rng.random_range(70_000..BODY_MAX),
    };
    if rng.random_bool(0.1) {
        list.push(field("content-length", &len.to_string()));
    }
    let has_trailers = rng.random_bool(0.4);
    let is_short = len == 0 && !has_trailers && rng.random_bool(0.7);
    let mut acts = vec![Act::Fields { list, is_end: is_short }];
    if is_short {
        return acts;
    }
    let mut cuts: Vec<usize> = (0..rng.random_range(0..8)).map(|_| rng.random_range(0..=len)).collect();
    cuts.extend([0, len]);
    cuts.sort_unstable();
    for cut in cuts.windows(2) {
        let padding = rng.random_bool(0.2).then(|| rng.random_range(0..=255));
        acts.push(Act::Data { len: cut[1] - cut[0], padding, is_end: false });
    }
    if has_trailers {
        let mut list = Vec::new();
        if rng.random_bool(0.9) {
            list.push(field("grpc-status", ["0", "3", "14"].choose(rng).unwrap()));
            list.push(field("grpc-message", ["", "no%20", "it ends with a blank "].choose(rng).unwrap()));
            more_fields(&mut list, rng);
        }
        acts.push(Act::Fields { list, is_end: true });
    } else if let Some(Act::Data { is_end, .. }) = acts.last_mut() {
        *is_end = true;
    }
    acts
}

fn field(name: &str, value: &str) -> Field {
    Field { name: name.into(), value: value.into(), is_secret: false }
}

/// Fields of all sorts.
fn more_fields(list: &mut Vec<Field>, rng: &mut ChaCha8Rng) {
    const NAMES: [&str; 30] = [
        "x-a",
        "x-b",
        "x-c",
        "x-d",
        "x-e",
        "key-bin",
        "key-bin",
        "cookie",
        "cookie",
        "set-cookie",
        "authorization",
        "proxy-authorization",
        "tracestate",
        "user-agent",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-previous-rpc-attempts",
        "grpc-tags-bin",
        "grpc-trace-bin",
        "accept",
        "accept-encoding",
        "vary",
        "date",
        "server",
        "grpc-status-details-bin",
        "sagemesh-x",
        "sagemesh-refused",
        "sagemesh-timing",
        "sagemesh-server-us",
        "x-forwarded-client-cert",
    ];
    if rng.random_bool(0.3) {
        list.push(field("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    }
    for _ in 0..rng.random_range(0..6) {
        let name = *NAMES.choose(rng).unwrap();
        let n = *[0, 1, 10, 40, 300, 3000].choose(rng).unwrap();
        let value: Vec<u8> = match name {
            "sagemesh-refused" => b"NOT_SERVING".to_vec(),
            // Some come again, so that tables and caches have their part.
            _ if rng.random_bool(0.5) => b"the same".to_vec(),
            _ => (0..rng.random_range(0..=n)).map(|_| letter(rng)).collect(),
        };
        list.push(Field {
            name: name.into(),
            value: value.trim_ascii().to_vec(),
            is_secret: rng.random_bool(0.15),
        });
    }
}

/// A byte that a value may have.
fn letter(rng: &mut ChaCha8Rng) -> u8 {
    match rng.random_range(0..20) {
        0 => *b" \t".choose(rng).unwrap(),
        1 => rng.random_range(0x80..=0xff),
        _ => rng.random_range(0x21..0x7f),
    }
}

/// Whether a step ends a message.
fn is_end(step: &Step) -> bool {
    matches!(step.act, Act::Fields { is_end: true, .. } | Act::Data { is_end: true, .. })
}

fn resets(steps: &[Step]) -> Option<Code> {
    steps.iter().find_map(|step| if let Act::Reset(code) = step.act { Some(code) } else { None })
}

/// What one end sends, as the other sees it whole.
fn sent(plan: &Plan, side: usize) -> Seen {
    let mut seen = Seen::default();
    for step in &plan.steps[side] {
        match &step.act {
            Act::Fields { list, is_end } => {
                seen.lists.push((seen.body.len(), list.clone()));
                seen.is_over |= is_end;
            }
            Act::Data { len, is_end, .. } => {
                let from = seen.body.len();
                seen.body.extend((from..from + len).map(|at| byte(plan.id, side == 0, at)));
                seen.is_over |= is_end;
            }
            Act::Reset(code) => seen.reset = Some(*code),
        }
    }
    seen
}

type Ends<'a> = (Option<&'a Seen>, Option<&'a Seen>);

/// Compares a call over a direct connection with the same through the relay.
fn check(seed: u64, plan: &Plan, direct: Ends<'_>, relayed: Ends<'_>) {
    let what = format!("seed {seed}, call {}: {:?}", plan.id, brief(plan));
    let [asks, answers] = &plan.steps;
    let (sent_request, sent_answer) = (sent(plan, 0), sent(plan, 1));
    let is_given_up = resets(asks).is_some();
    let is_answered = answers.iter().any(is_end) && !is_given_up;
    // Whether the end of the answer waits for that of the request.
    let is_early = answers.iter().any(|step| is_end(step) && !step.after.is_over);
    let is_asked = asks.iter().any(is_end) && !is_given_up && is_answered && !is_early;

    let answer = |ends: Ends<'_>| ends.0.expect("the client has seen the end").clone();
    let (seen, through) = (answer(direct), unmeshed_answer(answer(relayed)));
    is_part(&seen, &sent_answer, is_answered, &format!("direct answer, {what}"));
    is_part(&through, &unmeshed_answer(sent_answer), is_answered, &format!("answer, {what}"));
    match resets(answers) {
        Some(code) if !is_answered && !is_given_up => {
            assert_eq!((seen.reset, through.reset), (Some(code), Some(code)), "{what}");
            assert_eq!(seen.lists.len(), through.lists.len(), "{what}");
        }
        _ => assert!(matches!(through.reset, None | Some(Code::NO_ERROR)), "{what}"),
    }
    if let Some(seen) = direct.1 {
        is_part(seen, &sent_request, is_asked, &format!("direct request, {what}"));
    }
    let Some(through) = relayed.1 else { return assert!(is_given_up, "{what}") };
    let mut through = through.clone();
    let told = [&mut sent_request.lists[0].1.clone(), &mut through.lists[0].1].map(take_timeout);
    assert!(told[1] <= told[0] && told[1].is_some() == told[0].is_some(), "{told:?}: {what}");
    is_part(&through, &meshed_request(&sent_request), is_asked, &format!("request, {what}"));
    assert!(matches!(through.reset, None | Some(Code::CANCEL)), "{what}");
}

/// Asserts that what was seen is what was sent, whole or only its beginning.
#[track_caller]
fn is_part(seen: &Seen, sent: &Seen, is_whole: bool, what: &str) {
    assert!(sent.body.starts_with(&seen.body), "a body differs: {what}");
    for ((at, list), (sent_at, sent_list)) in seen.lists.iter().zip(&sent.lists) {
        assert_eq!(at, sent_at, "fields came elsewhere: {what}");
        assert_eq!(sorted(list), sorted(sent_list), "fields differ: {what}");
    }
    let last = seen.lists.last();
    let is_more = seen.lists.len() > sent.lists.len() || (seen.is_over && !sent.is_over);
    assert!(!is_more, "more than was sent: {last:?}, {what}");
    if is_whole {
        let counts = |it: &Seen| (it.body.len(), it.lists.len(), it.is_over);
        assert_eq!(counts(seen), counts(sent), "not all came: {what}");
    }
}

/// Fields by name; those of one name in their order.
fn sorted(list: &[Field]) -> Vec<Field> {
    let mut list = list.to_vec();
    list.sort_by(|one, other| one.name.cmp(&other.name));
    list
}

/// Without what is the mesh's, and with secrets marked as such.
fn unmeshed(list: &mut Vec<Field>) {
    list.retain(|field| !field.name.starts_with(b"sagemesh-"));
    for field in list {
        field.is_secret |= SECRETS.contains(&&field.name[..]);
    }
}

fn unmeshed_answer(mut seen: Seen) -> Seen {
    seen.lists.iter_mut().for_each(|(_, list)| unmeshed(list));
    seen
}

/// What a server is to see of a request, but for its timeout.
fn meshed_request(sent: &Seen) -> Seen {
    let mut meshed = unmeshed_answer(sent.clone());
    for (_, list) in &mut meshed.lists {
        list.retain(|field| field.name != b"x-forwarded-client-cert");
    }
    let list = &mut meshed.lists[0].1;
    list.retain(|field| field.name != b"grpc-timeout");
    let host = list.iter().find(|field| field.name == b"host").map(|field| field.value.clone());
    if !list.iter().any(|field| field.name == b":authority") {
        let value = host.expect("one of both");
        list.push(Field { name: b":authority".to_vec(), value, is_secret: false });
    }
    list.iter_mut().filter(|field| field.name == b":scheme").for_each(|field| field.value = b"http".to_vec());
    let ends = "By=spiffe://nas.home.mesh/svc/echo;URI=spiffe://pi.home.mesh/svc/web";
    list.push(field("x-forwarded-client-cert", ends));
    meshed
}

/// Takes the timeout out of a list.
fn take_timeout(list: &mut Vec<Field>) -> Option<Duration> {
    let place = list.iter().position(|field| field.name == b"grpc-timeout")?;
    let value = String::from_utf8(list.remove(place).value).unwrap();
    let (digits, unit) = value.split_at(value.len() - 1);
    let n = digits.parse().unwrap();
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        other => panic!("{other}"),
    })
}

/// A plan without its bytes.
fn brief(plan: &Plan) -> [Vec<String>; 2] {
    let brief = |step: &Step| match &step.act {
        Act::Fields { list, is_end } => {
            format!("{} fields{}", list.len(), if *is_end { ", end" } else { "" })
        }
        Act::Data { len, is_end, .. } => format!("{len} bytes{}", if *is_end { ", end" } else { "" }),
        Act::Reset(code) => format!("reset {}", code.0),
    };
    plan.steps.clone().map(|steps| steps.iter().map(brief).collect())
}
