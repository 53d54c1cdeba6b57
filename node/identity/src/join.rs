//! Becoming a member: the inviter's side, the newcomer's side, and what each checks of the other.
//!
//! The TLS connection under it offers `sagemesh-join/1` and nothing else. The newcomer checks the inviter's
//! certificate against the token's key in the handshake ([`verify_inviter`]), then the root, then that the
//! root makes the inviter a member ([`Newcomer::greet`]). It proves the secret by HMAC over the connection's
//! exporter and its claim, and every key that it names by a signature over both; neither holds on another
//! connection. A node whose record ended proves its recorded keys in the same way and is renewed.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use proto::Message;
use proto::identity::v1;
use rustls_pki_types::CertificateDer;

use types::key::{Algorithm, KeySlot, Keys, PublicKey};
use types::{Digest, Envelope, MeshName, Now, PeerId, Reason, Refusal, Timestamp, TrustDomain};

use crate::author::{MEMBER_RENEW_AFTER, NodeKeys};
use crate::keyset::{AuthorityId, KeySet};
use crate::members::Members;
use crate::scope::Scope;
use crate::soft_keys::Secret;
use crate::statement::{CLOCK_LEEWAY, JwtKey, Member, Right, Statement};
use crate::token::{self, Token, invitation_id};
use crate::verify::{self, verify};

/// The application protocol (RFC 7301).
pub const ALPN: &[u8] = b"sagemesh-join/1";
/// The label under which both sides export 32 bytes from the connection (RFC 5705 §4), with no context.
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL sagemesh join v1";
/// Longest welcome in bytes; it holds every root, grant and cut-off.
pub const WELCOME_LEN_MAX: usize = 16 << 20;
/// Longest request and longest reply in bytes; a request is from a stranger.
pub const MESSAGE_LEN_MAX: usize = 16 << 10;
/// Most invitations open at one node.
pub const INVITATIONS_MAX: usize = 1024;
/// Longest life of an invitation.
pub const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How long an ended invitation is remembered, so that it is told from one that never was.
const REMEMBER: Duration = Duration::from_secs(86_400);
const CLAIM: &str = "sagemesh.identity.v1.JoinClaim";

/// 32 bytes that both ends of one TLS connection, and nobody else, can export.
pub type Exporter = [u8; 32];

/// One invitation, as the inviter remembers it.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// What the newcomer proves.
    pub secret: Secret,
    /// The name it gets.
    pub domain: TrustDomain,
    /// The services it may speak for.
    pub scope: Scope,
    /// When the invitation ends.
    pub not_after: Timestamp,
    /// The authority of the one who redeemed it.
    pub redeemed_by: Option<AuthorityId>,
}

impl Invitation {
    /// Names it without giving its secret away.
    pub fn id(&self) -> [u8; 16] {
        invitation_id(&self.secret)
    }

    /// As the inviter keeps it. Holds the secret: for a file that nobody else reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        v1::KeptInvitation {
            secret: self.secret.expose().to_vec(),
            node: self.domain.node().to_string(),
            scope: self.scope.items(),
            not_after_s: self.not_after.as_secs(),
            redeemed_by: self.redeemed_by.map(|by| by.0.0.to_vec()).unwrap_or_default(),
        }
        .encode_to_vec()
    }

    /// Reads what was kept by a node of `mesh`.
    ///
    /// # Errors
    /// [`Reason::TokenMalformed`].
    pub fn from_bytes(bytes: &[u8], mesh: &MeshName) -> Result<Self, Refusal> {
        let malformed = || Reason::TokenMalformed.because("an invitation that was kept cannot be read");
        let wire = v1::KeptInvitation::decode(bytes).map_err(|_| malformed())?;
        let redeemed_by = match &wire.redeemed_by[..] {
            [] => None,
            digest => Some(AuthorityId(Digest::from_slice(digest).ok_or_else(malformed)?)),
        };
        Ok(Self {
            secret: Secret::new(wire.secret.try_into().map_err(|_| malformed())?),
            domain: TrustDomain::new(wire.node.parse().map_err(|_| malformed())?, mesh.clone()),
            scope: Scope::read(wire.scope.iter().map(String::as_str)).map_err(|_| malformed())?,
            not_after: Timestamp::from_secs(wire.not_after_s),
            redeemed_by,
        })
    }
}

/// The invitations of one signer.
#[derive(Clone, Debug, Default)]
pub struct Invitations {
    open: BTreeMap<[u8; 16], Invitation>,
}

impl Invitations {
    /// Takes up what was kept.
    pub fn restore(kept: impl IntoIterator<Item = Invitation>) -> Self {
        let open = kept.into_iter().map(|it| (invitation_id(&it.secret), it)).take(INVITATIONS_MAX);
        Self { open: open.collect() }
    }

    /// What is to be kept.
    pub fn iter(&self) -> impl Iterator<Item = &Invitation> {
        self.open.values()
    }

    /// Makes an invitation. `keys` are the signer's, `own` is the inviter's trust domain.
    ///
    /// # Errors
    /// [`Reason::NotASigner`]; [`Reason::BeyondRights`] for a scope the signer may not give;
    /// [`Reason::TokenMalformed`] for a life of more than [`TTL_MAX`]; [`Reason::SignerQuota`] when
    /// [`INVITATIONS_MAX`] are open.
    pub fn invite(
        &mut self,
        members: &Members,
        keys: &dyn Keys,
        own: &TrustDomain,
        invitation: Invitation,
        addresses: Vec<String>,
        now: Now,
    ) -> Result<Token, Refusal> {
        self.forget(now);
        let (signer, _, _) = members.own_signer(keys)?;
        if let Some(standing) = members.signers().get(&signer) {
            let grant = standing.grant();
            if !grant.rights.contains(&Right::Members) || !grant.scope.covers(&invitation.scope) {
                let detail =
                    format!("this signer may admit for {}, not for {}", grant.scope, invitation.scope);
                return Err(Reason::BeyondRights.because(detail));
            }
        }
        let lives = invitation.not_after.since(now.wall);
        if lives.is_zero() || lives > TTL_MAX {
            let days = TTL_MAX.as_secs() / 86_400;
            return Err(Reason::TokenMalformed.because(format!("an invitation lives up to {days} d")));
        }
        if invitation.domain.mesh() != members.mesh() {
            return Err(Reason::MeshMismatch.because(format!("`{}` is not of this mesh", invitation.domain)));
        }
        token::check_addresses(&addresses)?;
        if self.open.len() >= INVITATIONS_MAX {
            return Err(Reason::SignerQuota.because(format!("{INVITATIONS_MAX} invitations are open")));
        }
        let inviter = members.get(own).ok_or_else(|| members.why_not(own))?;
        let token = Token {
            domain: invitation.domain.clone(),
            root: members.fingerprint(),
            inviter: inviter.authority.authority(),
            secret: invitation.secret.clone(),
            addresses,
        };
        self.open.insert(token.id(), invitation);
        Ok(token)
    }

    /// Answers a newcomer's request with its record, or a node's with its renewed one. On success the
    /// invitation is marked: merge the record and keep both before the reply is sent and before anything else
    /// is signed, or the signer's next statement has the same count.
    ///
    /// # Errors
    /// Why it is refused; nothing changed then.
    pub fn redeem(
        &mut self,
        members: &Members,
        keys: &dyn Keys,
        exporter: &Exporter,
        request: &[u8],
        now: Now,
    ) -> Result<Envelope, Refusal> {
        if request.len() > MESSAGE_LEN_MAX {
            return Err(malformed(format!("the request has {} bytes of {MESSAGE_LEN_MAX}", request.len())));
        }
        let request =
            v1::JoinRequest::decode(request).map_err(|_| malformed("the request cannot be read"))?;
        let envelope = Envelope::from_bytes(&request.claim)?;
        if request.invitation.is_empty() {
            let claim = Claim::read(&envelope, members, exporter, now)?;
            return renew(members, keys, &claim, now);
        }
        let unknown = || Reason::TokenUnknown.because("no invitation of this node fits the proof");
        let id: [u8; 16] = request.invitation.as_slice().try_into().map_err(|_| unknown())?;
        let invitation = self.open.get(&id).ok_or_else(unknown)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, invitation.secret.expose());
        hmac::verify(&key, &mac_message(exporter, &request.claim), &request.mac).map_err(|_| unknown())?;
        if invitation.not_after < now.wall {
            let detail =
                format!("the invitation of `{}` ended at {}", invitation.domain.node(), invitation.not_after);
            return Err(Reason::TokenExpired.because(detail));
        }
        let claim = Claim::read(&envelope, members, exporter, now)?;
        if claim.domain != invitation.domain {
            let detail = format!("the invitation is for `{}`, not `{}`", invitation.domain, claim.domain);
            return Err(Reason::TokenUnknown.because(detail));
        }
        let authority = claim.keys.authority.authority();
        let record = match invitation.redeemed_by {
            Some(by) if by != authority => {
                let detail =
                    format!("the invitation of `{}` was redeemed by other keys", claim.domain.node());
                return Err(Reason::TokenUsed.because(detail));
            }
            Some(_) => held_record(members, &claim)?,
            None => None,
        };
        let node = claim.domain.node().clone();
        let record = match record {
            Some(record) => record,
            None => members.sign_member(keys, node, &claim.keys, invitation.scope.clone(), now)?,
        };
        if let Some(invitation) = self.open.get_mut(&id) {
            invitation.redeemed_by = Some(authority);
        }
        Ok(record)
    }

    fn forget(&mut self, now: Now) {
        self.open.retain(|_, it| it.not_after + REMEMBER >= now.wall);
    }
}

/// The record that a claim's keys already have, if it counts.
fn held_record(members: &Members, claim: &Claim) -> Result<Option<Envelope>, Refusal> {
    match members.record(&claim.domain) {
        Some((member, signed)) if member.authority == claim.keys.authority => {
            Ok(Some(signed.envelope.clone()))
        }
        // Revoked since: the invitation does not bring it back.
        _ if members.is_revoked(&claim.keys.authority) => Err(members.why_not(&claim.domain)),
        _ => Ok(None),
    }
}

fn renew(members: &Members, keys: &dyn Keys, claim: &Claim, now: Now) -> Result<Envelope, Refusal> {
    if let Some(refusal) = members.refusal(&claim.domain, &claim.keys.authority) {
        return Err(refusal);
    }
    // So that a node cannot make a signer sign without end, and asking twice answers the same.
    if let Some((member, signed)) = members.record(&claim.domain)
        && now.wall.since(member.issued_at) < MEMBER_RENEW_AFTER
    {
        return Ok(signed.envelope.clone());
    }
    members.renew(keys, &claim.domain, None, now)
}

/// What the inviter sends first: all that shows who it is. `own` is its trust domain.
///
/// # Errors
/// [`Reason::SignerQuota`] if it is longer than [`WELCOME_LEN_MAX`].
pub fn welcome(members: &Members, own: &TrustDomain, now: Now) -> Result<Vec<u8>, Refusal> {
    let is_due = |statement: &Statement| match statement {
        Statement::Member(member) => member.domain == *own,
        // Tombstones can be many and come by gossip; those of the root belong to it.
        Statement::Tombstone(tombstone) => tombstone.signer == members.root().id(),
        Statement::Operator(_) | Statement::Handover(_) => false,
        Statement::Root(_) | Statement::Grant(_) | Statement::CutOff(_) | Statement::Beacon(_) => true,
    };
    let statements = members.items().filter(|signed| is_due(&signed.statement));
    let welcome = v1::JoinWelcome {
        statements: statements.map(|signed| signed.envelope.to_bytes()).collect(),
        wall_s: now.wall.as_secs(),
    }
    .encode_to_vec();
    if welcome.len() > WELCOME_LEN_MAX {
        let detail = format!("the welcome has {} bytes of {WELCOME_LEN_MAX}", welcome.len());
        return Err(Reason::SignerQuota.because(detail));
    }
    Ok(welcome)
}

/// The reply that carries a record or a refusal.
pub fn reply(result: &Result<Envelope, Refusal>, mesh_port: u16) -> Vec<u8> {
    match result {
        Ok(record) => v1::JoinReply {
            record: record.to_bytes(),
            mesh_port: mesh_port.into(),
            ..v1::JoinReply::default()
        },
        Err(refusal) => v1::JoinReply {
            reason: refusal.reason.code().to_owned(),
            detail: refusal.detail.clone(),
            ..v1::JoinReply::default()
        },
    }
    .encode_to_vec()
}

/// Where the inviter links up with nodes, as its [`reply`] says.
pub fn mesh_port(reply: &[u8]) -> Option<u16> {
    let port = v1::JoinReply::decode(reply).ok()?.mesh_port;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// What a newcomer claims, once every named key has signed it on this connection.
struct Claim {
    domain: TrustDomain,
    keys: NodeKeys,
}

impl Claim {
    fn read(envelope: &Envelope, members: &Members, exporter: &Exporter, now: Now) -> Result<Self, Refusal> {
        let unproven = |detail: &str| Reason::PossessionUnproven.because(detail);
        let wire = v1::JoinClaim::decode(envelope.payload.as_slice())
            .map_err(|_| malformed("the claim cannot be read"))?;
        let peer = wire.peer.as_slice().try_into().map(PeerId);
        let jwt = wire.jwt.ok_or_else(|| malformed("the claim names no JWT key"))?;
        let jwt_key = PublicKey::new(Algorithm::EcdsaP256, &jwt.p256);
        let jwt_key = jwt_key.map_err(|err| malformed(err.to_string()))?;
        let keys = NodeKeys {
            peer: peer.map_err(|_| malformed("the node's key has other than 32 bytes"))?,
            authority: KeySet::read(Algorithm::EcdsaP256, &wire.authority_p256, &wire.authority_ml_dsa_65)?,
            jwt: vec![JwtKey { kid: jwt.kid, key: jwt_key.clone() }],
        };
        let node_key =
            PublicKey::new(Algorithm::Ed25519, &keys.peer.0).map_err(|err| malformed(err.to_string()))?;
        let [classical, post_quantum] = keys.authority.both();
        envelope
            .open(CLAIM, &[&node_key, classical, post_quantum, &jwt_key], members.keys())
            .map_err(|refusal| unproven(&refusal.detail))?;
        if wire.exporter != exporter {
            return Err(unproven("the claim was made for another connection"));
        }
        if Digest::from_slice(&wire.root) != Some(members.fingerprint())
            || wire.mesh != members.mesh().as_str()
        {
            return Err(Reason::RootMismatch.because("the claim is for another mesh"));
        }
        check_clock(Timestamp::from_secs(wire.wall_s), now)?;
        let node = wire.node.parse().map_err(|err: types::name::Error| malformed(err.to_string()))?;
        Ok(Self { domain: TrustDomain::new(node, members.mesh().clone()), keys })
    }
}

/// A node that asks to become, or to remain, a member. `keys` are its own.
pub struct Newcomer<'a> {
    keys: &'a dyn Keys,
    domain: TrustDomain,
    root: Digest,
    inviter: Option<AuthorityId>,
    secret: Option<Secret>,
}

impl<'a> Newcomer<'a> {
    /// One that was invited.
    pub fn invited(keys: &'a dyn Keys, token: &Token) -> Self {
        Self {
            keys,
            domain: token.domain.clone(),
            root: token.root,
            inviter: Some(token.inviter),
            secret: Some(token.secret.clone()),
        }
    }

    /// One that is to be renewed by any signer of the mesh with that first root.
    pub const fn renewing(keys: &'a dyn Keys, domain: TrustDomain, root: Digest) -> Self {
        Self { keys, domain, root, inviter: None, secret: None }
    }

    /// Checks a welcome: the root first, then that it makes the peer with this certificate chain a member.
    /// Answers what is now known of the mesh, and the request to send.
    ///
    /// # Errors
    /// Why the inviter is not believed; nothing was given away then.
    pub fn greet(
        &self,
        verifier: std::sync::Arc<dyn Keys>,
        chain: &[CertificateDer<'_>],
        exporter: &Exporter,
        welcome: &[u8],
        now: Now,
    ) -> Result<(Members, Vec<u8>), Refusal> {
        let welcome =
            v1::JoinWelcome::decode(welcome).map_err(|_| malformed("the welcome cannot be read"))?;
        let mut statements: Vec<_> =
            welcome.statements.iter().map(|bytes| Envelope::from_bytes(bytes)).collect::<Result<_, _>>()?;
        let idx = statements
            .iter()
            .position(|envelope| envelope.digest() == self.root)
            .ok_or_else(|| Reason::RootMismatch.because("the inviter does not know the token's root"))?;
        let mut members = Members::new(verifier, self.root, statements.swap_remove(idx))?;
        check_clock(Timestamp::from_secs(welcome.wall_s), now)?;
        // Statements that do not hold are the inviter's loss: what counts is whether it is a member.
        members.merge_all(statements);
        let caller = verify(chain, now, &members)?;
        let authority = caller.member().map(|member| member.authority.authority());
        if self.inviter.is_some() && authority != self.inviter {
            return Err(Reason::PeerMismatch.because(format!("{} is not the inviter", caller.id)));
        }
        if let Some(record) = caller.carried {
            members.merge(record)?;
        }
        let request = self.request(exporter, now)?;
        Ok((members, request))
    }

    fn request(&self, exporter: &Exporter, now: Now) -> Result<Vec<u8>, Refusal> {
        let unproven = |err: types::key::Unavailable| Reason::PossessionUnproven.because(err.to_string());
        let own = NodeKeys::of(self.keys).map_err(unproven)?;
        let jwt = own.jwt.first().expect("a node's keys include one for JWTs");
        let claim = v1::JoinClaim {
            mesh: self.domain.mesh().to_string(),
            node: self.domain.node().to_string(),
            root: self.root.0.to_vec(),
            exporter: exporter.to_vec(),
            peer: own.peer.0.to_vec(),
            authority_p256: own.authority.classical.as_bytes().to_vec(),
            authority_ml_dsa_65: own.authority.post_quantum.as_bytes().to_vec(),
            jwt: Some(v1::JwtKey { kid: jwt.kid.clone(), p256: jwt.key.as_bytes().to_vec() }),
            wall_s: now.wall.as_secs(),
        };
        let sealed =
            Envelope::seal(CLAIM, claim.encode_to_vec(), self.keys, &KeySlot::NODE).map_err(unproven)?;
        let claim = sealed.to_bytes();
        let (invitation, mac) = match &self.secret {
            None => (Vec::new(), Vec::new()),
            Some(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
                let mac = hmac::sign(&key, &mac_message(exporter, &claim));
                (invitation_id(secret).to_vec(), mac.as_ref().to_vec())
            }
        };
        Ok(v1::JoinRequest { claim, invitation, mac }.encode_to_vec())
    }

    /// Takes the reply: the record, merged into what is known of the mesh.
    ///
    /// # Errors
    /// The inviter's refusal, or why its record is not believed.
    pub fn settle(&self, members: &mut Members, reply: &[u8]) -> Result<std::sync::Arc<Member>, Refusal> {
        let reply = v1::JoinReply::decode(reply).map_err(|_| malformed("the reply cannot be read"))?;
        if !reply.reason.is_empty() {
            let detail: String = reply.detail.chars().filter(|c| !c.is_control()).take(300).collect();
            let reason = Reason::from_code(&reply.reason).unwrap_or(Reason::TokenUnknown);
            return Err(reason.because(format!("the inviter says: {detail}")));
        }
        members.merge(Envelope::from_bytes(&reply.record)?)?;
        let own = KeySet::of(self.keys, KeySlot::AUTHORITY)
            .map_err(|err| Reason::PossessionUnproven.because(err.to_string()))?;
        if let Some(refusal) = members.refusal(&self.domain, &own) {
            return Err(refusal);
        }
        members.get(&self.domain).cloned().ok_or_else(|| members.why_not(&self.domain))
    }
}

/// Checks, in the handshake, that a chain is the inviter's: it carries a record with the token's authority
/// keys, and they signed the leaf. Whether the root makes that record count shows in [`Newcomer::greet`].
///
/// # Errors
/// [`Reason::PeerMismatch`], or why the certificate is not valid.
pub fn verify_inviter(chain: &[CertificateDer<'_>], now: Now, inviter: AuthorityId) -> Result<(), Refusal> {
    let authority = verify::self_described(chain, now)?;
    if authority != inviter {
        return Err(Reason::PeerMismatch.because("the certificate is not that of the inviter in the token"));
    }
    Ok(())
}

fn mac_message(exporter: &Exporter, claim: &[u8]) -> Vec<u8> {
    [b"sagemesh join v1".as_slice(), exporter, claim].concat()
}

fn check_clock(theirs: Timestamp, now: Now) -> Result<(), Refusal> {
    let skew = theirs.since(now.wall).max(now.wall.since(theirs));
    if skew > CLOCK_LEEWAY {
        let detail = format!("it is {theirs} there and {} here, {} s apart", now.wall, skew.as_secs());
        return Err(Reason::ClockSkew.because(detail));
    }
    Ok(())
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Reason::EnvelopeMalformed.because(detail)
}
