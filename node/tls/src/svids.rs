//! A node's or service's current certificates, and their replacement before they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ML_DSA_65_SIGNING, PqdsaKeyPair,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroize;

use identity::statement::CLOCK_LEEWAY;
use identity::svid::{self, SVID_VALID};
use identity::{Members, SignedRecord};
use types::key::{Algorithm, Keys, PublicKey};
use types::{Digest, Now, Refusal, SpiffeId, Timestamp};

use crate::random;

/// How long after a failed replacement it is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// How often the wall clock is looked at. The clock that timers run on stands still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(30);

/// The certificates that one identity presents now, with new keys of their own.
#[derive(Debug)]
pub struct Svids {
    /// Whom they name.
    pub id: SpiffeId,
    /// When they end.
    pub not_after: Timestamp,
    pub(crate) p256: Arc<CertifiedKey>,
    pub(crate) ml_dsa: Arc<CertifiedKey>,
}

/// Certificates could not be made. Those in use stay in use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node may not vouch for that identity, or not now.
    #[error("failed to issue an SVID")]
    Refused(#[from] Refusal),
    /// The library made no key.
    #[error("failed to make a key for an SVID: the cryptographic library refused")]
    Key,
}

impl Svids {
    /// Issues both certificates of `id` under the member's authority, with fresh keys.
    ///
    /// # Errors
    /// As [`svid::issue`].
    pub fn issue(keys: &dyn Keys, record: &SignedRecord, id: &SpiffeId, now: Now) -> Result<Self, Error> {
        let issue = |mut pair: (PublicKey, PrivateKeyDer<'static>)| {
            let request =
                svid::Request { id, key: &pair.0, serial: random::bytes(), record: Some(record.envelope()) };
            let leaf = svid::issue(keys, record.member(), request, now)?;
            let signing = any_supported_type(&pair.1);
            pair.1.zeroize();
            let signing = signing.map_err(|_| Error::Key)?;
            Ok::<_, Error>(Arc::new(CertifiedKey::new(vec![leaf], signing)))
        };
        Ok(Self {
            id: id.clone(),
            not_after: svid::not_after(record.member(), now),
            p256: issue(fresh_p256().ok_or(Error::Key)?)?,
            ml_dsa: issue(fresh_ml_dsa().ok_or(Error::Key)?)?,
        })
    }

    /// The leaf that is presented with an algorithm, in DER.
    pub fn leaf(&self, algorithm: Algorithm) -> &[u8] {
        match algorithm {
            Algorithm::MlDsa65 => &self.ml_dsa.cert[0],
            Algorithm::EcdsaP256 | Algorithm::Ed25519 => &self.p256.cert[0],
        }
    }
}

fn fresh_p256() -> Option<(PublicKey, PrivateKeyDer<'static>)> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).ok()?;
    let public = PublicKey::new(Algorithm::EcdsaP256, pair.public_key().as_ref()).ok()?;
    let private = PrivatePkcs8KeyDer::from(pair.to_pkcs8v1().ok()?.as_ref().to_vec());
    Some((public, PrivateKeyDer::Pkcs8(private)))
}

fn fresh_ml_dsa() -> Option<(PublicKey, PrivateKeyDer<'static>)> {
    let pair = PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).ok()?;
    let public = PublicKey::new(Algorithm::MlDsa65, pair.public_key().as_ref()).ok()?;
    let private = PrivatePkcs8KeyDer::from(pair.to_pkcs8v1().ok()?.as_ref().to_vec());
    Some((public, PrivateKeyDer::Pkcs8(private)))
}

/// Keeps an identity's certificates fresh: replaces them at half of their life and whenever the node's record
/// changes. Connections made before keep theirs.
pub struct Rotation {
    keys: Arc<dyn Keys>,
    id: SpiffeId,
    members: watch::Receiver<Arc<Members>>,
    svids: watch::Sender<Arc<Svids>>,
    /// Of the record under which the current certificates were issued.
    record: Digest,
}

impl Rotation {
    /// Issues the first certificates; the receiver always holds the current ones.
    ///
    /// # Errors
    /// If the node has no record that counts, or may not vouch for `id`.
    pub fn new(
        keys: Arc<dyn Keys>,
        id: SpiffeId,
        members: watch::Receiver<Arc<Members>>,
    ) -> Result<(Self, watch::Receiver<Arc<Svids>>), Error> {
        let (first, record) = issue(&*keys, &id, &members.borrow(), Now::read())?;
        let (svids, current) = watch::channel(Arc::new(first));
        Ok((Self { keys, id, members, svids, record }, current))
    }

    /// Replaces certificates until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut due = next(Now::read());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(due.min(Instant::now() + LOOK).into()) => {}
                changed = self.members.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            let now = Now::read();
            let is_same = self.current_record() == Some(self.record);
            if is_same && !is_due(now, due, self.svids.borrow().not_after) {
                continue;
            }
            if is_same && self.ends_with_record(now) {
                due = now.mono + RETRY;
                continue;
            }
            let issued = issue(&*self.keys, &self.id, &self.members.borrow_and_update(), now);
            due = match issued {
                Ok((svids, record)) => {
                    info!(sagemesh.svid.id = %self.id, "rotated the SVID");
                    self.record = record;
                    self.svids.send_replace(Arc::new(svids));
                    next(now)
                }
                Err(Error::Refused(refusal)) => {
                    warn!(sagemesh.svid.id = %self.id, error.type = %refusal.reason, error = %refusal, "failed to rotate the SVID");
                    now.mono + RETRY
                }
                Err(err @ Error::Key) => {
                    warn!(sagemesh.svid.id = %self.id, error = %err, "failed to rotate the SVID");
                    now.mono + RETRY
                }
            };
        }
    }

    /// Whether new certificates would end no later than the current ones, with the record itself.
    fn ends_with_record(&self, now: Now) -> bool {
        let members = self.members.borrow();
        let member = self.id.domain().and_then(|domain| members.get(domain));
        member.is_some_and(|member| svid::not_after(member, now) == self.svids.borrow().not_after)
    }

    fn current_record(&self) -> Option<Digest> {
        let members = self.members.borrow();
        self.id.domain().and_then(|domain| members.record(domain)).map(|(_, signed)| signed.digest)
    }
}

/// Whether to replace certificates that end at `not_after`: at `due`, or when the wall clock says that they have a
/// quarter of their life left, or more than all of it since it was set back.
fn is_due(now: Now, due: Instant, not_after: Timestamp) -> bool {
    let left = not_after.since(now.wall);
    now.mono >= due || left < SVID_VALID / 4 || left > SVID_VALID + CLOCK_LEEWAY
}

fn next(now: Now) -> Instant {
    svid::rotate_at(now, SVID_VALID, u32::from_be_bytes(random::bytes()))
}

fn issue(keys: &dyn Keys, id: &SpiffeId, members: &Members, now: Now) -> Result<(Svids, Digest), Error> {
    let record = SignedRecord::of(members, id)?;
    Ok((Svids::issue(keys, &record, id, now)?, record.envelope().digest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_replaces_its_certificates_when_it_wakes() {
        let now = Now::read();
        let due = now.mono + SVID_VALID / 2;
        let ends = now.wall + SVID_VALID;
        assert!(!is_due(now, due, ends));
        assert!(is_due(now.after(SVID_VALID / 2), due, ends));
        let woken = Now { mono: now.mono, wall: now.wall + 2 * SVID_VALID };
        assert!(is_due(woken, due, ends));
        let set_back = Now { mono: now.mono, wall: now.wall - SVID_VALID };
        assert!(is_due(set_back, due, ends));
    }
}
