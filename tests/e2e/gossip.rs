//! Liveness over real links: who is there, and who has left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use membership::Liveness;
use mesh::{Gossip, Gossiping};
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
