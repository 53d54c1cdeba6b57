//! Links between real nodes: who gets one, what ends it, and what a hostile peer can do with it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::AsyncWrite as _;
use mesh::{ALPN, Config, Count, Direction, Error, Event, Limits, Mesh, Protocol};
use rustls::pki_types::ServerName;
use rustls::{NamedGroup, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::compat::TokioAsyncReadCompatExt;
use types::Reason;

use crate::tls::{Net, Stock};
use crate::town::{ECHO, LIMITS, Running, Town, config, echo, seeded, within};
use crate::world;

/// What opens a stream of `ECHO` (multistream-select): each line with its length before it.
const HELLO: &[u8] = b"\x13/multistream/1.0.0\n\x11/sagemesh/echo/1\n";
const UNKNOWN: Protocol = Protocol::new("/sagemesh/unknown/1");

/// Two linked nodes; the first one echoes.
async fn pair() -> (Town, Running, Running) {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    town.echoes(&pi);
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
    pi.links_to(&tv).await;
    (town, pi, tv)
}

/// Dials as a stock client would. Whether it was let in.
async fn is_let_in(stock: &Stock, at: &Running) -> bool {
    let stream = TcpStream::connect(at.address).await.unwrap();
    let name = ServerName::try_from("pi.home.mesh").unwrap();
    let dialled = async {
        let mut stream = TlsConnector::from(Arc::new(stock.config())).connect(name, stream).await?;
        stream.read_u8().await
    };
    within("an answer", dialled).await.is_ok()
}

#[tokio::test]
async fn three_nodes_link_up_and_see_each_other_post_quantum() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let tv = town.start("tv", seeded(&pi)).await;
    let nas = town.start("nas", seeded(&pi)).await;
    // What gossip would say.
    nas.handle.hint(tv.peer, tv.address);
    for (one, others) in [(&pi, [&tv, &nas]), (&tv, [&pi, &nas]), (&nas, [&pi, &tv])] {
        for other in others {
            let link = one.links_to(other).await;
            assert_eq!(&link.name, other.node.domain.node());
            assert_eq!(link.tls().caller.id, other.node.id());
            assert_eq!(link.tls().group, Some(NamedGroup::X25519MLKEM768));
            assert_eq!(link.tls().signature, Some(SignatureScheme::ML_DSA_65));
            assert!(link.tls().is_post_quantum());
        }
    }
    let link = nas.links_to(&tv).await;
    assert_eq!((link.direction, link.address), (Direction::Outbound, tv.address));
    assert_eq!(tv.links_to(&nas).await.direction, Direction::Inbound);
}

#[tokio::test]
async fn streams_run_both_ways() {
    let (mut town, pi, tv) = pair().await;
    town.echoes(&tv);
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
    assert_eq!(bytes.len(), 1 << 20);
    let there = tv.opens(&pi).await;
    assert_eq!((there.peer(), there.link().peer), (pi.peer, pi.peer));
    tokio::join!(echo(there, &bytes), async { echo(pi.opens(&tv).await, &bytes).await });
}

#[tokio::test]
async fn a_stream_knows_who_opened_it() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let mut incoming = pi.handle.accept(ECHO, LIMITS).unwrap();
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
    let mut mine = tv.opens(&pi).await;
    let mut theirs = within("a stream", incoming.next()).await.unwrap();
    assert_eq!((theirs.peer(), &theirs.link().tls().caller.id), (tv.peer, &tv.node.id()));
    theirs.write_all(b"first").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut heard = String::new();
    within("what the acceptor says first", mine.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "first");
}

#[tokio::test]
async fn a_newcomer_is_let_in_by_the_record_it_brings_and_stays() {
    let mut town = Town::new();
    let mut pi = town.start("pi", config()).await;
    let before = Arc::clone(&pi.map.borrow());
    let tv = town.start("tv", seeded(&pi)).await;
    pi.map.send_replace(Arc::clone(&before));
    // It may have been linked while it was known: start it anew.
    tv.stops().await;
    pi.loses(&tv).await;
    let tv = town.start_node(&tv.node, seeded(&pi)).await;
    pi.links_to(&tv).await;
    let record = pi.hears(|event| match event {
        Event::Record(_, envelope) => Some(envelope),
        _ => None,
    });
    let record = record.await;
    assert_eq!(record.digest(), town.net.mesh.record(&tv.node).envelope().digest());
    // The map changes before the record is merged: that is no reason to part.
    let cut = pi.handle.count(Count::LinkCut);
    pi.map.send_replace(before);
    let link = pi.links_to(&tv).await;
    echo_over(&mut town, &pi, &tv).await;
    assert_eq!(pi.handle.count(Count::LinkCut), cut);
    assert_eq!(pi.links_to(&tv).await.since, link.since);
}

async fn echo_over(town: &mut Town, pi: &Running, tv: &Running) {
    town.echoes(pi);
    tv.links_to(pi).await;
    echo(tv.opens(pi).await, b"still here").await;
}

#[tokio::test]
async fn who_brings_no_certificate_or_a_strange_one_or_is_not_post_quantum_is_refused() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let tv = town.admit("tv");
    let alpn = || vec![ALPN.to_vec()];
    let stock = |node| Stock { alpn: alpn(), ..Stock::of(node) };
    let mut post_quantum = rustls::crypto::aws_lc_rs::default_provider();
    post_quantum.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let stranger = world::Mesh::found("other.mesh").admit("tv", "");
    let cases = [
        ("no ML-DSA", stock(&tv)),
        ("no ML-KEM", Stock { provider: post_quantum, ..stock(&tv) }),
        ("no certificate", Stock { leaf: Vec::new(), ..stock(&tv) }),
        ("of another mesh", stock(&stranger)),
        ("of no protocol", Stock { alpn: Vec::new(), ..stock(&tv) }),
        ("of another protocol", Stock { alpn: vec![b"h2".to_vec()], ..stock(&tv) }),
    ];
    for (idx, (what, stock)) in (1..).zip(&cases) {
        assert!(!is_let_in(stock, &pi).await, "{what}");
        pi.counts(Count::LinkRefused, idx).await;
    }
    assert_eq!(pi.handle.count(Count::LinkMade), 0);
    // Who brings everything is let in by the same port.
    town.intrude(&tv, &pi).await;
    pi.counts(Count::LinkMade, 1).await;
}

#[tokio::test]
async fn nodes_of_two_meshes_never_link() {
    let (mut here, mut there) = (Town::new(), Town::of(Net::of("other.mesh")));
    let pi = here.start("pi", config()).await;
    let stranger = there.start("pi", seeded(&pi)).await;
    stranger.counts(Count::LinkRefused, 2).await;
    for node in [&pi, &stranger] {
        assert_eq!(node.handle.count(Count::LinkMade), 0);
        assert!(node.handle.peers().borrow().is_empty());
    }
}

#[tokio::test]
async fn a_service_on_a_node_is_no_node() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let tv = Arc::new(town.net.admit("tv", "svc/api"));
    town.publish();
    let svids = town.net.svids(&tv, &tv.service("api"));
    let client = tls::Client::new(tls::Pq::Require, vec![ALPN.to_vec()], svids, pi.map.subscribe());
    let stream = TcpStream::connect(pi.address).await.unwrap();
    let (mut stream, _) = client.connect(stream, tls::Expect::Peer(pi.peer)).await.unwrap();
    within("the end", stream.read_u8()).await.unwrap_err();
    pi.counts(Count::LinkRefused, 1).await;
    assert_eq!(pi.handle.count(Count::LinkMade), 0);
}

#[tokio::test]
async fn a_revoked_peer_is_cut_off_at_once_and_never_comes_back() {
    let (mut town, mut pi, mut tv) = pair().await;
    let mut stream = tv.opens(&pi).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    // Only the one who is left hears of it.
    town.net.mesh.revoke(&tv.node);
    pi.map.send_replace(Arc::new(town.net.mesh.members.clone()));
    let reason = |event| match event {
        Event::Unlinked { refusal, .. } => Some(refusal.map(|it| it.reason)),
        _ => None,
    };
    assert_eq!(pi.hears(reason).await, Some(Reason::MemberRevoked));
    assert!(pi.handle.link(&tv.peer).is_none());
    assert!(matches!(pi.handle.open(tv.peer, ECHO).await, Err(Error::Unlinked(_))));
    assert_eq!(tv.hears(reason).await, None, "the revoked one sees its link end");
    assert_eq!(pi.handle.count(Count::LinkCut), 1);
    // Its streams end with its link.
    let ended = within("the end of its stream", stream.read_u8()).await;
    ended.unwrap_err();
    // It dials again and again, and never believes that it is linked.
    pi.counts(Count::LinkRefused, 2).await;
    tv.counts(Count::LinkFailed, 2).await;
    assert_eq!((pi.handle.count(Count::LinkMade), tv.handle.count(Count::LinkMade)), (1, 1));
}

#[tokio::test]
async fn a_dialler_reaches_whom_it_meant_or_nobody() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let nas = town.admit("nas");
    let tv = town.start("tv", config()).await;
    tv.handle.hint(town.net.mesh.record(&nas).member().peer, pi.address);
    tv.counts(Count::LinkRefused, 1).await;
    assert_eq!((tv.handle.count(Count::LinkMade), pi.handle.count(Count::LinkMade)), (0, 0));
    tv.handle.hint(pi.peer, pi.address);
    tv.links_to(&pi).await;
}

#[tokio::test]
async fn a_node_that_is_its_own_seed_leaves_itself_alone() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let port = pi.address.port();
    pi.stops().await;
    let seeds = vec![pi.address.to_string()];
    let again = Config { listen: vec![([127, 0, 0, 1], port).into()], seeds, ..config() };
    let pi = town.start_node(&pi.node, again).await;
    pi.counts(Count::LinkFailed, 1).await;
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
    assert!(pi.handle.count(Count::LinkFailed) <= 2, "once, seen from both ends");
}

#[tokio::test]
async fn unknown_protocols_are_refused_and_the_link_goes_on() {
    let (_town, pi, tv) = pair().await;
    let refused = within("a refusal", tv.handle.open(pi.peer, UNKNOWN)).await;
    assert!(matches!(refused, Err(Error::Unsupported(UNKNOWN))), "{refused:?}");
    echo(tv.opens(&pi).await, b"goes on").await;
    assert!(matches!(pi.handle.accept(ECHO, LIMITS), Err(Error::Taken(ECHO))));
}

#[tokio::test]
async fn a_protocol_ends_with_who_serves_it() {
    let (_town, pi, tv) = pair().await;
    let incoming = tv.handle.accept(ECHO, LIMITS).unwrap();
    pi.opens(&tv).await;
    drop(incoming);
    let refused = within("a refusal", pi.handle.open(tv.peer, ECHO)).await;
    assert!(matches!(refused, Err(Error::Unsupported(ECHO))), "{refused:?}");
}

#[tokio::test]
async fn a_protocol_takes_as_many_streams_as_its_limits_say() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let limits = Limits { per_peer: 2, total: 3, waiting: 8, ..LIMITS };
    let mut incoming = pi.handle.accept(ECHO, limits).unwrap();
    let (tv, nas) = (town.start("tv", seeded(&pi)).await, town.start("nas", seeded(&pi)).await);
    tv.links_to(&pi).await;
    nas.links_to(&pi).await;
    let (first, _second) = (tv.opens(&pi).await, tv.opens(&pi).await);
    let full = tv.handle.open(pi.peer, ECHO).await;
    assert!(matches!(full, Err(Error::Full(ECHO))), "two of a peer: {full:?}");
    let _third = nas.opens(&pi).await;
    let full = nas.handle.open(pi.peer, ECHO).await;
    assert!(matches!(full, Err(Error::Full(ECHO))), "three in all: {full:?}");
    assert_eq!(pi.handle.count(Count::StreamRefused), 2);
    // One that ends on both sides makes room.
    drop(first);
    drop(within("the first", incoming.next()).await);
    tv.opens(&pi).await;
}

#[tokio::test]
async fn streams_that_nobody_takes_fill_a_queue_and_no_more() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let limits = Limits { waiting: 2, wait_max: Duration::ZERO, ..LIMITS };
    let mut incoming = pi.handle.accept(ECHO, limits).unwrap();
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
    let _streams = (tv.opens(&pi).await, tv.opens(&pi).await);
    assert!(matches!(tv.handle.open(pi.peer, ECHO).await, Err(Error::Full(_))));
    pi.stops().await;
    assert!(within("the end", incoming.next()).await.is_none(), "they are too old");
    assert_eq!(pi.handle.count(Count::StreamExpired), 2);
}

#[tokio::test]
async fn a_node_opens_no_more_streams_than_it_may() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    town.echoes_within(&pi, Limits { per_peer: 100, total: 100, waiting: 100, ..LIMITS });
    let tv = town.start("tv", Config { peer_streams_max: 4, ..seeded(&pi) }).await;
    tv.links_to(&pi).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(tv.opens(&pi).await);
    }
    assert!(matches!(tv.handle.open(pi.peer, ECHO).await, Err(Error::Busy(4))));
    streams.pop();
    tv.opens(&pi).await;
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_of_one_peer_are_bounded_and_leave_the_others_theirs() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let mut incoming = pi.handle.accept(ECHO, LIMITS).unwrap();
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
    let mallory = town.admit("mallory");
    let stream = town.intrude(&mallory, &pi).await;
    let mut bounds = yamux::Config::default();
    bounds.set_max_connection_receive_window(None).set_max_num_streams(20_000);
    let mut connection = yamux::Connection::new(stream.compat(), bounds, yamux::Mode::Client);
    let before = resident();
    let mut streams: Vec<yamux::Stream> = Vec::new();
    // Until all are open or the node has had enough.
    let flood = poll_fn(|cx| {
        loop {
            match connection.poll_next_inbound(cx) {
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready("cut off"),
                Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
            }
            match connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(mut stream)) => {
                    let _ = std::pin::Pin::new(&mut stream).poll_write(cx, HELLO);
                    streams.push(stream);
                }
                Poll::Ready(Err(_)) => return Poll::Ready("cut off"),
                Poll::Pending => return Poll::Pending,
            }
            if streams.len() == 10_000 {
                return Poll::Ready("all are open");
            }
        }
    });
    let end = within("the end of the flood", flood).await;
    let grown = resident().saturating_sub(before);
    let count = |count| pi.handle.count(count);
    let (offered, refused, dropped) =
        (count(Count::StreamOffered), count(Count::StreamRefused), count(Count::StreamDropped));
    assert!(grown < 96 << 20, "{grown} bytes for a flood");
    // Those handed over and those that have not named their protocol yet are all that there can be at once.
    let n_open = offered - refused - dropped;
    assert!(end == "cut off" || n_open <= 8 + 64, "{n_open} at once");
    assert!(refused > 0, "the limit of the protocol was reached");
    drop((streams, connection));
    // At most its eight were handed over; the other peer's stream comes through.
    let mine = tv.opens(&pi).await;
    let mut n_hostile = 0;
    loop {
        let stream = within("the honest stream", incoming.next()).await.unwrap();
        match stream.peer() == tv.peer {
            true => break,
            false => n_hostile += 1,
        }
    }
    assert!(n_hostile <= 8, "{n_hostile}");
    drop(mine);
}

#[tokio::test]
async fn who_does_not_read_is_sent_no_more_than_a_window() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let mut incoming = pi.handle.accept(ECHO, LIMITS).unwrap();
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
    let mut stream = tv.opens(&pi).await;
    let _unread = within("a stream", incoming.next()).await.unwrap();
    let (block, mut sent) = (vec![0; 64 << 10], 0);
    // A write that does not come back is what is claimed; nothing else ends this.
    while let Ok(written) = timeout(Duration::from_millis(500), stream.write(&block)).await {
        sent += written.unwrap();
        assert!(sent <= 1 << 20, "{sent} bytes taken from the 100 MB that would come");
    }
    assert!(sent >= 192 << 10, "{sent}");
    // The link itself is not held up.
    let mut second = tv.opens(&pi).await;
    second.write_all(b"x").await.unwrap();
    let mut heard = within("the second stream", incoming.next()).await.unwrap();
    assert_eq!(within("a byte", heard.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn who_says_nothing_holds_one_of_few_places() {
    let mut town = Town::new();
    let pi = town.start("pi", Config { pending_max: 4, ..config() }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(pi.address).await.unwrap());
    }
    let mut fifth = TcpStream::connect(pi.address).await.unwrap();
    let ended = within("the end of the fifth", fifth.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert_eq!(pi.handle.count(Count::LinkFailed), 1);
    // Their places are free once they go.
    drop(silent);
    let tv = town.start("tv", seeded(&pi)).await;
    tv.links_to(&pi).await;
}

#[tokio::test]
async fn a_node_stops_gracefully_and_its_peers_know() {
    let (_town, pi, tv) = pair().await;
    let mut incoming = tv.handle.accept(ECHO, LIMITS).unwrap();
    tv.stops().await;
    assert!(incoming.next().await.is_none());
    assert!(matches!(tv.handle.accept(UNKNOWN, LIMITS), Err(Error::Closed)));
    assert!(matches!(tv.handle.open(pi.peer, ECHO).await, Err(Error::Unlinked(_))));
    pi.loses(&tv).await;
    assert!(TcpStream::connect(tv.address).await.is_err(), "its port is closed");
}

#[tokio::test]
async fn a_link_is_made_again_when_the_peer_restarts_on_its_port() {
    let (mut town, pi, tv) = pair().await;
    let node = Arc::clone(&pi.node);
    let address = pi.address;
    pi.stops().await;
    tv.loses(&pi).await;
    let pi = town.start_node(&node, Config { listen: vec![address], ..config() }).await;
    town.echoes(&pi);
    pi.links_to(&tv).await;
    tv.links_to(&pi).await;
    echo(tv.opens(&pi).await, b"again").await;
}

#[tokio::test]
async fn a_port_is_not_shared() {
    let mut town = Town::new();
    let pi = town.start("pi", config()).await;
    let tv = town.admit("tv");
    let second = Config { listen: vec![pi.address], ..config() };
    let bound = Mesh::bind(second, town.net.svids(&tv, &tv.id()), pi.map.subscribe()).await;
    assert!(matches!(bound, Err(Error::Listen { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_each_other_at_once_keep_one_link() {
    let mut town = Town::new();
    let (mut n_doubled, mut round) = (0, 0);
    // Most rounds make two links, but not all.
    while n_doubled < 2 {
        round += 1;
        assert!(round < 50, "no round tests what this claims");
        let one = town.start(&format!("one-{round}"), config()).await;
        let two = town.start(&format!("two-{round}"), config()).await;
        town.echoes(&one);
        town.echoes(&two);
        one.handle.hint(two.peer, two.address);
        two.handle.hint(one.peer, one.address);
        let (here, there) = tokio::join!(one.links_to(&two), two.links_to(&one));
        drop((here, there));
        // Streams opened right away get through, whichever link stays.
        tokio::join!(async { echo(one.opens(&two).await, b"here").await }, async {
            echo(two.opens(&one).await, b"there").await;
        });
        let n_links =
            |node: &Running| node.handle.count(Count::LinkMade).abs_diff(node.handle.count(Count::LinkEnded));
        let is_one = async {
            let mut every = tokio::time::interval(Duration::from_millis(5));
            loop {
                every.tick().await;
                let (here, there) = (one.links_to(&two).await, two.links_to(&one).await);
                // Until each has made the other's, both have one and speak of another.
                if n_links(&one) == 1 && n_links(&two) == 1 && here.direction != there.direction {
                    return;
                }
            }
        };
        within("one link", is_one).await;
        n_doubled += one.handle.count(Count::LinkDoubled) + two.handle.count(Count::LinkDoubled);
        echo(one.opens(&two).await, b"on it").await;
    }
}
