//! Joining: what an invitation gives, to whom, and once.

use std::time::Duration;

use identity::join::{Exporter, Invitation, Invitations, Newcomer, reply, welcome};
use identity::token::Token;
use identity::{Members, SoftKeys};
use proto::Message;
use proto::identity::v1;
use rustls::pki_types::CertificateDer;
use types::key::{Algorithm, KeySlot};
use types::{Envelope, Reason, Refusal};

use crate::verify::leaf;
use crate::world::{Mesh, Node, fresh_keys};

const MINUTE: Duration = Duration::from_secs(60);
const CONNECTION: Exporter = [9; 32];

/// An inviter with its open invitations.
struct Inviter {
    mesh: Mesh,
    own: Node,
    invitations: Invitations,
}

impl Inviter {
    fn new() -> Self {
        let mut mesh = Mesh::found("home.mesh");
        let own = mesh.admit("one", "svc/*");
        Self { mesh, own, invitations: Invitations::default() }
    }

    fn invite(&mut self, name: &str) -> Token {
        self.try_invite(name, "svc/api", 15 * MINUTE).unwrap()
    }

    fn try_invite(&mut self, name: &str, scope: &str, ttl: Duration) -> Result<Token, Refusal> {
        let invitation = Invitation {
            secret: tls::random::secret(KeySlot::Node),
            domain: format!("{name}.home.mesh").parse().unwrap(),
            scope: scope.parse().unwrap(),
            not_after: self.mesh.now.wall + ttl,
            redeemed_by: None,
        };
        let Self { mesh, own, invitations } = self;
        let at = vec!["192.0.2.1:7443".to_owned()];
        invitations.invite(&mesh.members, &mesh.signer, &own.domain, invitation, at, mesh.now)
    }

    fn chain(&self) -> [CertificateDer<'static>; 1] {
        let record = self.mesh.record(&self.own);
        [leaf(&self.mesh, &self.own, &self.own.id(), Algorithm::MlDsa65, Some(record.envelope()))]
    }

    fn welcome(&self) -> Vec<u8> {
        welcome(&self.mesh.members, &self.own.domain, self.mesh.now).unwrap()
    }

    fn answer(&mut self, request: &[u8]) -> Result<Envelope, Refusal> {
        self.answer_on(&CONNECTION, request)
    }

    fn answer_on(&mut self, exporter: &Exporter, request: &[u8]) -> Result<Envelope, Refusal> {
        let Self { mesh, invitations, .. } = self;
        let record = invitations.redeem(&mesh.members, &mesh.signer, exporter, request, mesh.now)?;
        mesh.members.merge(record.clone())?;
        Ok(record)
    }
}

fn greet(newcomer: &Newcomer<'_>, inviter: &Inviter) -> Result<(Members, Vec<u8>), Refusal> {
    let verifier = std::sync::Arc::new(SoftKeys::default());
    newcomer.greet(verifier, &inviter.chain(), &CONNECTION, &inviter.welcome(), inviter.mesh.now)
}

#[track_caller]
fn refused<T>(result: Result<T, Refusal>, reason: Reason) {
    match result {
        Ok(_) => panic!("accepted what {reason} should refuse"),
        Err(refusal) => assert_eq!(refusal.reason, reason, "{refusal}"),
    }
}

#[test]
fn an_invited_machine_becomes_a_member_that_everybody_believes() {
    let mut one = Inviter::new();
    let token: Token = one.invite("pi").to_string().parse().unwrap();
    let keys = fresh_keys(&KeySlot::NODE);
    let newcomer = Newcomer::invited(&keys, &token);
    let (mut members, request) = greet(&newcomer, &one).unwrap();
    let record = one.answer(&request).unwrap();
    let member = newcomer.settle(&mut members, &reply(&Ok(record), 7400)).unwrap();
    assert_eq!((member.node().as_str(), member.scope.to_string().as_str()), ("pi", "svc/api"));
    let pi = Node { domain: token.domain.clone(), keys: std::sync::Arc::new(keys) };
    let chain = [leaf(&one.mesh, &pi, &pi.service("api"), Algorithm::MlDsa65, None)];
    identity::verify(&chain, one.mesh.now, &one.mesh.members).unwrap();
    identity::verify(&one.chain(), one.mesh.now, &members).unwrap();
}

#[test]
fn a_mesh_whose_root_was_replaced_admits_by_its_first_one() {
    let mut one = Inviter::new();
    one.mesh.rotate();
    one.mesh.rotate();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let newcomer = Newcomer::invited(&keys, &token);
    let (mut members, request) = greet(&newcomer, &one).unwrap();
    let record = one.answer(&request).unwrap();
    newcomer.settle(&mut members, &reply(&Ok(record), 7400)).unwrap();
    assert_eq!(members.root().generation, 3);
}

#[test]
fn redeeming_again_gives_one_machine_the_same_and_another_nothing() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let (_, request) = greet(&Newcomer::invited(&keys, &token), &one).unwrap();
    let first = one.answer(&request).unwrap();
    // The reply was lost, and the inviter restarted.
    one.invitations = Invitations::restore(one.invitations.iter().cloned().collect::<Vec<_>>());
    assert_eq!(one.answer(&request).unwrap().digest(), first.digest());

    let thief = fresh_keys(&KeySlot::NODE);
    let (_, request) = greet(&Newcomer::invited(&thief, &token), &one).unwrap();
    refused(one.answer(&request), Reason::TokenUsed);
}

#[test]
fn an_invitation_ends() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    one.mesh.wait(16 * MINUTE);
    let (_, request) = greet(&Newcomer::invited(&keys, &token), &one).unwrap();
    refused(one.answer(&request), Reason::TokenExpired);
    refused(one.try_invite("tv", "svc/api", Duration::from_secs(8 * 86_400)), Reason::TokenMalformed);
}

#[test]
fn a_request_holds_on_its_own_connection_only() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let (_, request) = greet(&Newcomer::invited(&keys, &token), &one).unwrap();
    refused(one.answer_on(&[8; 32], &request), Reason::TokenUnknown);
    // One who knows the secret, but relays another's claim.
    let mut relayed = v1::JoinRequest::decode(request.as_slice()).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, token.secret.expose());
    let message = [b"sagemesh join v1".as_slice(), &[8; 32], &relayed.claim].concat();
    relayed.mac = aws_lc_rs::hmac::sign(&key, &message).as_ref().to_vec();
    refused(one.answer_on(&[8; 32], &relayed.encode_to_vec()), Reason::PossessionUnproven);
}

#[test]
fn a_secret_that_is_not_proven_and_a_name_that_was_not_invited_are_refused() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let guess = Token { secret: tls::random::secret(KeySlot::Node), ..token.clone() };
    let (_, request) = greet(&Newcomer::invited(&keys, &guess), &one).unwrap();
    refused(one.answer(&request), Reason::TokenUnknown);
    let (_, request) = greet(&Newcomer::invited(&keys, &token), &one).unwrap();
    let mut wrong = v1::JoinRequest::decode(request.as_slice()).unwrap();
    wrong.mac[0] ^= 1;
    refused(one.answer(&wrong.encode_to_vec()), Reason::TokenUnknown);
    let renamed = Token { domain: "tv.home.mesh".parse().unwrap(), ..token };
    let (_, request) = greet(&Newcomer::invited(&keys, &renamed), &one).unwrap();
    refused(one.answer(&request), Reason::TokenUnknown);
    for len in [0, 1, request.len() / 2, request.len() - 1] {
        assert!(one.answer(&request[..len]).is_err());
    }
}

#[test]
fn a_joiner_that_names_keys_it_does_not_hold_is_refused() {
    let mut one = Inviter::new();
    let victim = fresh_keys(&KeySlot::NODE);
    let own = fresh_keys(&KeySlot::NODE);
    let token = one.invite("pi");
    // The victim's claim with one key swapped: whichever it is, its signature is missing.
    let claim_of = |keys: &SoftKeys, one: &Inviter| {
        let (_, request) = greet(&Newcomer::invited(keys, &token), one).unwrap();
        v1::JoinRequest::decode(request.as_slice()).unwrap()
    };
    let mine = claim_of(&own, &one);
    let theirs = claim_of(&victim, &one);
    let read = |request: &v1::JoinRequest| {
        let envelope = Envelope::from_bytes(&request.claim).unwrap();
        (v1::JoinClaim::decode(envelope.payload.as_slice()).unwrap(), envelope)
    };
    let ((my_claim, my_envelope), (their_claim, _)) = (read(&mine), read(&theirs));
    let swaps: [fn(&mut v1::JoinClaim, &v1::JoinClaim); 4] = [
        |mine, theirs| mine.peer.clone_from(&theirs.peer),
        |mine, theirs| mine.authority_p256.clone_from(&theirs.authority_p256),
        |mine, theirs| mine.authority_ml_dsa_65.clone_from(&theirs.authority_ml_dsa_65),
        |mine, theirs| mine.jwt.clone_from(&theirs.jwt),
    ];
    for swap in swaps {
        let mut claim = my_claim.clone();
        swap(&mut claim, &their_claim);
        let mut envelope = my_envelope.clone();
        envelope.payload = claim.encode_to_vec();
        let resealed =
            Envelope::seal(&envelope.domain, envelope.payload.clone(), &own, &KeySlot::NODE).unwrap();
        let claim = resealed.to_bytes();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, token.secret.expose());
        let message = [b"sagemesh join v1".as_slice(), &CONNECTION, &claim].concat();
        let mac = aws_lc_rs::hmac::sign(&key, &message).as_ref().to_vec();
        let request = v1::JoinRequest { claim, mac, ..mine.clone() };
        refused(one.answer(&request.encode_to_vec()), Reason::PossessionUnproven);
    }
}

#[test]
fn a_name_in_use_stays_with_the_machine_that_has_it() {
    let mut one = Inviter::new();
    let pi = one.mesh.admit("pi", "svc/api");
    let token = one.invite("pi");
    let new = fresh_keys(&KeySlot::NODE);
    let (_, request) = greet(&Newcomer::invited(&new, &token), &one).unwrap();
    refused(one.answer(&request), Reason::NameBound);
    one.mesh.revoke(&pi);
    one.answer(&request).unwrap();
    let (_, request) = greet(&Newcomer::invited(&*pi.keys, &one.invite("tv")), &one).unwrap();
    refused(one.answer(&request), Reason::MemberRevoked);
}

#[test]
fn a_false_inviter_learns_nothing() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let newcomer = Newcomer::invited(&keys, &token);
    let other = Inviter::new();
    refused(greet(&newcomer, &other), Reason::RootMismatch);
    // A member of the right mesh, but not the inviter.
    let member = one.mesh.admit("tv", "");
    let record = one.mesh.record(&member);
    let chain = [leaf(&one.mesh, &member, &member.id(), Algorithm::MlDsa65, Some(record.envelope()))];
    let verifier = std::sync::Arc::new(SoftKeys::default());
    let met = newcomer.greet(verifier, &chain, &CONNECTION, &one.welcome(), one.mesh.now);
    refused(met, Reason::PeerMismatch);
    let pinned = identity::join::verify_inviter(&chain, one.mesh.now, token.inviter);
    refused(pinned, Reason::PeerMismatch);
    identity::join::verify_inviter(&one.chain(), one.mesh.now, token.inviter).unwrap();
}

#[test]
fn an_inviter_whose_record_comes_only_with_its_certificate_is_known_once_it_is_greeted() {
    let mut inviter = Inviter::new();
    let token = inviter.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let record = inviter.mesh.record(&inviter.own).envelope().to_bytes();
    let mut welcome = v1::JoinWelcome::decode(inviter.welcome().as_slice()).unwrap();
    welcome.statements.retain(|statement| *statement != record);
    let verifier = std::sync::Arc::new(SoftKeys::default());
    let (members, _) = Newcomer::invited(&keys, &token)
        .greet(verifier, &inviter.chain(), &CONNECTION, &welcome.encode_to_vec(), inviter.mesh.now)
        .unwrap();
    assert!(members.get(&inviter.own.domain).is_some());
}

#[test]
fn clocks_a_day_apart_are_named() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let newcomer = Newcomer::invited(&keys, &token);
    let verifier = std::sync::Arc::new(SoftKeys::default());
    let mut there = one.mesh.now;
    there.wall = there.wall + Duration::from_secs(86_400);
    let met = newcomer.greet(verifier, &one.chain(), &CONNECTION, &one.welcome(), there);
    let refusal = met.map(drop).expect_err("a skewed clock");
    assert_eq!(refusal.reason, Reason::ClockSkew);
    assert!(refusal.detail.contains("86400 s apart"), "{refusal}");
}

#[test]
fn a_node_back_from_a_long_sleep_is_renewed_unless_it_was_revoked() {
    let mut one = Inviter::new();
    let pi = one.mesh.admit("pi", "svc/api");
    one.mesh.wait(Duration::from_secs(200 * 86_400));
    one.mesh.sign(&Node { domain: one.own.domain.clone(), keys: one.own.keys.clone() }, "svc/*").unwrap();
    one.mesh.shine();
    let root = one.mesh.members.fingerprint();
    let newcomer = Newcomer::renewing(&*pi.keys, pi.domain.clone(), root);
    let (mut members, request) = greet(&newcomer, &one).unwrap();
    let record = one.answer(&request).unwrap();
    let member = newcomer.settle(&mut members, &reply(&Ok(record), 7400)).unwrap();
    assert!(member.not_after > one.mesh.now.wall && member.scope.to_string() == "svc/api");

    let stranger = fresh_keys(&KeySlot::NODE);
    let newcomer = Newcomer::renewing(&stranger, pi.domain.clone(), root);
    let (_, request) = greet(&newcomer, &one).unwrap();
    refused(one.answer(&request), Reason::NameBound);

    one.mesh.revoke(&pi);
    let newcomer = Newcomer::renewing(&*pi.keys, pi.domain.clone(), root);
    let (_, request) = greet(&newcomer, &one).unwrap();
    refused(one.answer(&request), Reason::MemberRevoked);
}

#[test]
fn a_node_without_a_signers_keys_cannot_invite() {
    let mut one = Inviter::new();
    one.mesh.signer = fresh_keys(&KeySlot::SIGNER);
    refused(one.try_invite("pi", "", MINUTE), Reason::NotASigner);
}

#[test]
fn a_refusal_reaches_the_newcomer_as_it_was_given() {
    let mut one = Inviter::new();
    let token = one.invite("pi");
    let keys = fresh_keys(&KeySlot::NODE);
    let newcomer = Newcomer::invited(&keys, &token);
    let (mut members, _) = greet(&newcomer, &one).unwrap();
    let told = reply(&Err(Reason::TokenExpired.because("the invitation of `pi` ended")), 7400);
    refused(newcomer.settle(&mut members, &told), Reason::TokenExpired);
    refused(newcomer.settle(&mut members, &[0xff; 9]), Reason::EnvelopeMalformed);
}
