//! Hands to the map's owner the records that callers of services and of the API brought along, so that a member
//! whom gossip has not told of yet is one for all rooms. At most one batch a second: callers must not make the
//! owner work without end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use identity::Members;
use mesh::sync::Given;
use tls::news::{Brought, NEWS_MAX};
use types::{Envelope, PeerId};

/// How long callers are let be after a batch.
const REST: Duration = Duration::from_secs(1);

/// Serves until `shutdown`.
pub(crate) async fn run(
    mut brought: mpsc::Receiver<Brought>,
    members: watch::Receiver<Arc<Members>>,
    given: mpsc::Sender<Given>,
    shutdown: CancellationToken,
) {
    let work = async {
        let mut batch = Vec::new();
        while brought.recv_many(&mut batch, NEWS_MAX).await > 0 {
            let mut news: BTreeMap<PeerId, Vec<Envelope>> = BTreeMap::new();
            let known = Arc::clone(&members.borrow());
            for Brought { from, record } in batch.drain(..) {
                let of_peer = news.entry(from).or_default();
                // One that opens many connections brings it with each.
                if known.item(&record.digest()).is_none() && !of_peer.contains(&record) {
                    of_peer.push(record);
                }
            }
            for (from, statements) in news.into_iter().filter(|(_, statements)| !statements.is_empty()) {
                // Fails only once the node stops.
                let _ = given.send(Given { from, statements }).await;
            }
            sleep(REST).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        // Nobody is left to bring anything.
        () = work => shutdown.cancelled().await,
    }
}

#[cfg(test)]
mod tests {
    use identity::author;
    use identity::{KeySet, SoftKeys};
    use tls::random;
    use types::Now;
    use types::key::{KeySlot, Keys};

    use super::*;

    fn root() -> Envelope {
        let secrets = KeySlot::ROOT.map(|slot| (slot, random::secret(slot)));
        let keys = SoftKeys::new(secrets.iter().map(|(slot, secret)| (*slot, secret))).expect("keys");
        let next = KeySet::of(&keys, KeySlot::ROOT).expect("keys").digest();
        author::root(&keys, "home.mesh".parse().expect("a name"), next, Now::read()).expect("a root")
    }

    #[tokio::test(start_paused = true)]
    async fn each_record_is_handed_on_once_and_what_is_known_is_not() {
        let (known, new) = (root(), root());
        let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
        let members = Members::new(verifier, known.digest(), known.clone()).expect("a map");
        let (tell, brought) = mpsc::channel(NEWS_MAX);
        let (given, mut taken) = mpsc::channel(NEWS_MAX);
        let from = PeerId([1; 32]);
        for record in [&known, &new, &new] {
            tell.try_send(Brought { from, record: record.clone() }).expect("room");
        }
        let (_map, members) = watch::channel(Arc::new(members));
        let stop = CancellationToken::new();
        let room = run(brought, members, given, stop.clone());
        let test = async {
            let first = taken.recv().await.expect("a batch");
            assert_eq!((first.from, &first.statements[..]), (from, &[new][..]));
            let told = tokio::time::Instant::now();
            tell.try_send(Brought { from, record: root() }).expect("room");
            taken.recv().await.expect("a batch");
            assert!(told.elapsed() >= REST, "callers wait");
            stop.cancel();
        };
        tokio::join!(room, test);
    }
}
