//! Liveness over real links: who is there, and who has left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use membership::Liveness;
use mesh::gossip::PROTOCOL;
use mesh::{Gossip, Gossiping};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::town::{Running, Town, config, seeded, within};

/// Has a node take part in gossip until `stop`.
fn gossips(tasks: &mut JoinSet<()>, at: &Running, stop: &CancellationToken) -> Gossiping {
    // Nobody compares member maps here: all are the same.
    let (differing, _) = mpsc::channel(1);
    let (gossip, gossiping) = Gossip::new(
        membership::Config::default(),
        at.node.keys.clone(),
        at.handle.clone(),
        at.map.subscribe(),
        BTreeMap::new(),
        differing,
    )
    .unwrap();
    tasks.spawn(gossip.run(stop.clone()));
    gossiping
}

async fn sees(gossiping: &Gossiping, other: &Running, liveness: Liveness) {
    let mut peers = gossiping.peers();
    let is_so = |known: &mesh::gossip::Snapshot| {
        known.get(&other.peer).is_some_and(|known| known.liveness == liveness)
    };
    within("a liveness", peers.wait_for(is_so)).await.unwrap();
}

#[tokio::test]
async fn linked_nodes_see_each_other_at_once_and_hear_who_leaves() {
    let (mut town, mut tasks) = (Town::new(), JoinSet::new());
    // Members that are nowhere: drawing one of them to ask first would be in vain.
    for n in 0..20 {
        town.admit(&format!("gone{n}"));
    }
    let pi = town.start("pi", config()).await;
    let tv = town.start("tv", seeded(&pi)).await;
    let (stays, leaves) = (CancellationToken::new(), CancellationToken::new());
    let (at_pi, at_tv) = (gossips(&mut tasks, &pi, &stays), gossips(&mut tasks, &tv, &leaves));
    tv.links_to(&pi).await;
    let begun = Instant::now();
    sees(&at_pi, &tv, Liveness::Alive).await;
    sees(&at_tv, &pi, Liveness::Alive).await;
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    leaves.cancel();
    sees(&at_pi, &tv, Liveness::Left).await;
}

#[tokio::test]
async fn a_member_that_sends_a_hundred_megabytes_is_read_to_the_bound_and_no_further() {
    let (mut town, mut tasks) = (Town::new(), JoinSet::new());
    let pi = town.start("pi", config()).await;
    let tv = town.start("tv", seeded(&pi)).await;
    let stop = CancellationToken::new();
    let at_pi = gossips(&mut tasks, &pi, &stop);
    tv.links_to(&pi).await;
    for announced in [100 << 20, u32::MAX] {
        let mut stream = within("a stream", tv.handle.open(pi.peer, PROTOCOL)).await.unwrap();
        let block = vec![0; 64 << 10];
        let flood = async {
            let mut sent = 0;
            stream.write_u32(announced).await.unwrap();
            while sent < 100 << 20 && stream.write_all(&block).await.is_ok() {
                sent += block.len();
            }
            sent
        };
        let sent = within("the end of the stream", flood).await;
        assert!(sent <= 1 << 20, "{sent} bytes were taken");
    }
    // The link stays, and so does who gossips over it by the rules.
    let at_tv = gossips(&mut tasks, &tv, &stop);
    sees(&at_pi, &tv, Liveness::Alive).await;
    sees(&at_tv, &pi, Liveness::Alive).await;
}
