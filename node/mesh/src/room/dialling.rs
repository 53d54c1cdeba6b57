//! Dialling what the dialer says is due.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::{info, warn};

use types::chain;

use crate::address::{multiaddr, to_libp2p};
use crate::dialer::Target;
use crate::error::refusal;
use crate::metrics::Count;
use crate::room::Mesh;

/// How long looking up a name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

impl Mesh {
    fn can_dial(&self) -> bool {
        self.dialing.len() + self.lookups.len() < self.config.pending_max as usize
            && self.links.len() < self.config.links_max as usize
    }

    pub(super) fn next_dial(&self) -> Option<Instant> {
        self.dialer.next_deadline(|peer| self.links.contains_key(peer)).filter(|_| self.can_dial())
    }

    pub(super) fn dial_due(&mut self) {
        while self.can_dial() {
            let links = &self.links;
            let Some((target, n_failed)) = self.dialer.next(Instant::now(), |peer| links.contains_key(peer))
            else {
                return;
            };
            match target {
                Target::Hint(_, address) => self.dial(target, address),
                Target::Seed(ref name) => {
                    let (name, target) = (name.clone(), target);
                    self.lookups.spawn(async move {
                        let found = timeout(LOOKUP_TIMEOUT, lookup_host(name)).await;
                        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                        (target, n_failed, found.map(Iterator::collect))
                    });
                }
            }
        }
    }

    pub(super) fn on_lookup(&mut self, target: Target, n_failed: u32, found: io::Result<Vec<SocketAddr>>) {
        let addresses = match found {
            Ok(addresses) => addresses,
            Err(err) => {
                warn!(?target, error = chain(&err), "failed to look up a seed");
                Vec::new()
            }
        };
        // Each attempt takes the next of them.
        match addresses.get(n_failed as usize % addresses.len().max(1)) {
            Some(address) => self.dial(target, *address),
            None => self.dialer.failed(&target, Instant::now()),
        }
    }

    fn dial(&mut self, target: Target, address: SocketAddr) {
        let options = match &target {
            Target::Seed(_) => DialOpts::unknown_peer_id().address(multiaddr(address)).build(),
            Target::Hint(peer, _) => DialOpts::peer_id(to_libp2p(*peer))
                .condition(PeerCondition::Always)
                .addresses(vec![multiaddr(address)])
                .build(),
        };
        let id = options.connection_id();
        self.dialing.insert(id, target);
        if let Err(err) = self.swarm.dial(options) {
            self.on_dial_failed(id, &err);
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(target) = self.dialing.remove(&id) else { return };
        if matches!(error, DialError::LocalPeerId { .. }) {
            self.dialer.answered(&target, self.own);
            return;
        }
        let cause: &(dyn std::error::Error + 'static) = match error {
            // Its text names addresses and no cause.
            DialError::Transport(failed) if !failed.is_empty() => &failed[0].1,
            other => other,
        };
        let refusal = refusal(cause);
        self.count(if refusal.is_some() { Count::LinkRefused } else { Count::LinkFailed });
        let reason = refusal.map(|it| it.reason.code());
        info!(?target, error.type = reason, error = chain(cause), "failed to link up");
        self.dialer.failed(&target, Instant::now());
    }
}
