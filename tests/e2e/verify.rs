//! Who is believed on the strength of a certificate: `identity::verify` with the real cryptography.

use std::time::Duration;

use identity::authority::{self, Form};
use identity::svid::{self, Request};
use identity::verify::{Who, verify};
use identity::{Member, Members, Role};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, PublicKeyData, SanType, SigningKey};
use rustls::pki_types::CertificateDer;
use types::key::{Algorithm, KeySlot, Keys, PublicKey};
use types::{Envelope, Now, Reason, Refusal, SpiffeId};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::world::{Mesh, Node, fresh_keys};

const DAY: Duration = Duration::from_secs(86_400);

/// A leaf of `node` for `id`, signed with the authority's key of that algorithm.
pub fn leaf(
    mesh: &Mesh,
    node: &Node,
    id: &SpiffeId,
    algorithm: Algorithm,
    record: Option<&Envelope>,
) -> CertificateDer<'static> {
    let slot = if algorithm == Algorithm::MlDsa65 { KeySlot::AuthorityMlDsa } else { KeySlot::Jwt };
    let keys = fresh_keys(&[slot]);
    let request = Request { id, key: keys.public(slot).unwrap(), serial: [7; 16], record };
    svid::issue(&*node.keys, mesh.record(node).member(), request, mesh.now).unwrap()
}

#[track_caller]
fn refused(chain: &[CertificateDer<'_>], now: Now, members: &Members, reason: Reason) -> String {
    let refusal = verify(chain, now, members).expect_err("a refusal");
    assert_eq!(refusal.reason, reason, "{refusal}");
    refusal.to_string()
}

#[test]
fn nodes_and_services_are_believed_with_either_algorithm() {
    let mut mesh = Mesh::found("home.mesh");
    let pi = mesh.admit("pi", "svc/api");
    for algorithm in [Algorithm::EcdsaP256, Algorithm::MlDsa65] {
        for id in [pi.id(), pi.service("api")] {
            let chain = [leaf(&mesh, &pi, &id, algorithm, None)];
            let caller = verify(&chain, mesh.now, &mesh.members).unwrap();
            assert_eq!((caller.id, caller.algorithm), (id, algorithm));
            assert!(matches!(caller.who, Who::Member(member) if member.domain == pi.domain));
            assert!(caller.carried.is_none());
        }
    }
}

#[test]
fn a_record_in_the_chain_counts_as_if_it_had_been_gossiped() {
    let mut mesh = Mesh::found("home.mesh");
    let before = mesh.members.clone();
    let pi = mesh.admit("pi", "svc/api");
    let record = mesh.record(&pi);
    let chain = [leaf(&mesh, &pi, &pi.id(), Algorithm::MlDsa65, Some(record.envelope()))];

    let caller = verify(&chain, mesh.now, &before).unwrap();
    assert_eq!(caller.carried.as_ref(), Some(record.envelope()), "the record is news");
    let mut after = before.clone();
    after.merge(caller.carried.unwrap()).unwrap();
    assert!(verify(&chain, mesh.now, &after).unwrap().carried.is_none(), "the record is known");
    let bare = [leaf(&mesh, &pi, &pi.id(), Algorithm::MlDsa65, None)];
    refused(&bare, mesh.now, &before, Reason::MemberUnknown);
}

#[test]
fn a_record_that_another_mesh_or_nobody_signed_does_not_help() {
    let mut mesh = Mesh::found("home.mesh");
    let mut twin = Mesh::found("home.mesh");
    let pi = twin.admit("pi", "");
    let record = twin.record(&pi);
    let chain = [leaf(&twin, &pi, &pi.id(), Algorithm::EcdsaP256, Some(record.envelope()))];
    refused(&chain, mesh.now, &mesh.members, Reason::SignerUnknown);

    let before = mesh.members.clone();
    let real = mesh.admit("pi", "");
    let record = mesh.record(&real);
    for idx in [0, 1] {
        let mut forged = record.envelope().clone();
        forged.signatures[idx].value[0] ^= 1;
        let chain = [leaf(&mesh, &real, &real.id(), Algorithm::EcdsaP256, Some(&forged))];
        refused(&chain, mesh.now, &before, Reason::SignatureInvalid);
    }
    let other = mesh.admit("other", "");
    let foreign = mesh.record(&other);
    let chain = [leaf(&mesh, &real, &real.id(), Algorithm::EcdsaP256, Some(foreign.envelope()))];
    refused(&chain, mesh.now, &mesh.members, Reason::SvidMalformed);
    let mut torn = record.envelope().clone();
    torn.signatures.pop();
    let chain = [leaf(&mesh, &real, &real.id(), Algorithm::EcdsaP256, Some(&torn))];
    refused(&chain, mesh.now, &before, Reason::SignatureInvalid);
}

#[test]
fn a_connection_of_one_who_brought_its_record_survives_other_changes_of_the_map() {
    let mut mesh = Mesh::found("home.mesh");
    let before = mesh.members.clone();
    let pi = mesh.admit("pi", "");
    let record = mesh.record(&pi);
    let chain = [leaf(&mesh, &pi, &pi.id(), Algorithm::MlDsa65, Some(record.envelope()))];
    let caller = verify(&chain, mesh.now, &before).unwrap();
    caller.still_holds(mesh.now, &before).unwrap();
    mesh.revoke(&pi);
    let gone = caller.still_holds(mesh.now, &mesh.members).expect_err("revoked");
    assert_eq!(gone.reason, Reason::MemberRevoked);
}

#[test]
fn every_way_not_to_be_a_caller_has_its_reason() {
    let mut mesh = Mesh::found("home.mesh");
    let mut other = Mesh::found("other.mesh");
    let pi = mesh.admit("pi", "svc/api");
    let stranger = other.admit("pi", "");
    let good = leaf(&mesh, &pi, &pi.id(), Algorithm::EcdsaP256, None);

    refused(&[], mesh.now, &mesh.members, Reason::SvidMissing);
    refused(&[CertificateDer::from(vec![0x30, 0x03, 1])], mesh.now, &mesh.members, Reason::SvidMalformed);
    refused(&[CertificateDer::from(vec![0x30; 20_000])], mesh.now, &mesh.members, Reason::SvidMalformed);
    let foreign = leaf(&other, &stranger, &stranger.id(), Algorithm::EcdsaP256, None);
    refused(&[foreign], mesh.now, &mesh.members, Reason::MeshMismatch);

    let mut later = mesh.now.after(Duration::from_secs(3700));
    let told = refused(std::slice::from_ref(&good), later, &mesh.members, Reason::SvidExpired);
    assert!(told.contains("ended at") && told.contains("clocks"), "{told}");
    later.wall = mesh.now.wall - DAY;
    let told = refused(std::slice::from_ref(&good), later, &mesh.members, Reason::ClockSkew);
    assert!(told.contains("it is ") && told.contains("NTP"), "{told}");

    // The same trust domain with other keys: nobody but the recorded authority vouches.
    let impostor = Node { domain: pi.domain.clone(), keys: std::sync::Arc::new(fresh_keys(&KeySlot::NODE)) };
    let forged = forge(&impostor, &pi.id().to_string(), &[], &[]);
    refused(&[forged], mesh.now, &mesh.members, Reason::SvidUntrusted);
    let neighbour = mesh.admit("neighbour", "svc/*");
    refused(
        &[forge(&neighbour, &pi.id().to_string(), &[], &[])],
        mesh.now,
        &mesh.members,
        Reason::SvidUntrusted,
    );

    mesh.revoke(&pi);
    let told = refused(&[good], mesh.now, &mesh.members, Reason::MemberRevoked);
    assert!(told.contains("pi"), "{told}");
}

#[test]
fn a_clock_five_minutes_off_still_works() {
    let mut mesh = Mesh::found("home.mesh");
    let pi = mesh.admit("pi", "");
    let chain = [leaf(&mesh, &pi, &pi.id(), Algorithm::MlDsa65, None)];
    for secs in [-290i64, 290] {
        let mut there = mesh.now;
        let by = Duration::from_secs(secs.unsigned_abs());
        there.wall = if secs < 0 { there.wall - by } else { there.wall + by };
        verify(&chain, there, &mesh.members).unwrap();
    }
}

#[test]
fn a_leaf_claims_nothing_beyond_its_scope() {
    let mut mesh = Mesh::found("home.mesh");
    let pi = mesh.admit("pi", "svc/api");
    let id = pi.service("api").to_string();
    let check = |leaf: CertificateDer<'static>, reason| {
        refused(&[leaf], mesh.now, &mesh.members, reason);
    };
    check(forge(&pi, &pi.service("web").to_string(), &[], &[]), Reason::SvidOutOfScope);
    check(forge(&pi, &id, &["web.svc.home.mesh"], &[]), Reason::SvidOutOfScope);
    check(forge(&pi, &id, &["pi.home.mesh"], &[]), Reason::SvidOutOfScope);
    check(forge(&pi, "spiffe://pi.home.mesh/svc/api/x", &[], &[]), Reason::SvidMalformed);
    check(forge(&pi, "spiffe://pi.home.mesh/admin", &[], &[]), Reason::SvidMalformed);
    check(forge(&pi, "https://pi.home.mesh/node", &[], &[]), Reason::SvidMalformed);
    check(forge(&pi, &id, &[], &["admin.svc.home.mesh"]), Reason::SvidMalformed);
    check(forge(&pi, &id, &[], &["*.svc.home.mesh"]), Reason::SvidMalformed);
    check(forge(&pi, "spiffe://home.mesh/operator/ada", &[], &[]), Reason::OperatorUnknown);

    let refusal = svid::issue(
        &*pi.keys,
        mesh.record(&pi).member(),
        Request {
            id: &pi.service("web"),
            key: fresh_keys(&[KeySlot::Jwt]).public(KeySlot::Jwt).unwrap(),
            serial: [0; 16],
            record: None,
        },
        mesh.now,
    )
    .expect_err("out of scope");
    assert_eq!(refusal.reason, Reason::SvidOutOfScope);
}

#[test]
fn a_scope_taken_away_ends_the_service_but_not_the_node() {
    let mut mesh = Mesh::found("home.mesh");
    let pi = mesh.admit("pi", "svc/api");
    let service = [leaf(&mesh, &pi, &pi.service("api"), Algorithm::MlDsa65, None)];
    let caller = verify(&service, mesh.now, &mesh.members).unwrap();
    let node =
        verify(&[leaf(&mesh, &pi, &pi.id(), Algorithm::MlDsa65, None)], mesh.now, &mesh.members).unwrap();
    mesh.sign(&pi, "svc/web").unwrap();
    refused(&service, mesh.now, &mesh.members, Reason::SvidOutOfScope);
    let gone = caller.still_holds(mesh.now, &mesh.members).expect_err("out of scope");
    assert_eq!(gone.reason, Reason::SvidOutOfScope);
    node.still_holds(mesh.now, &mesh.members).unwrap();
}

#[test]
fn without_beacons_newcomers_are_refused_and_known_peers_work_until_their_records_end() {
    let mut mesh = Mesh::found("home.mesh");
    let (old, new) = (mesh.admit("old", ""), mesh.admit("new", ""));
    let authority = mesh.record(&old).member().authority.authority();
    mesh.members.mark_verified(authority);
    mesh.wait(3 * DAY + Duration::from_secs(3600));
    let of = |node: &Node, mesh: &Mesh| [leaf(mesh, node, &node.id(), Algorithm::MlDsa65, None)];
    verify(&of(&old, &mesh), mesh.now, &mesh.members).unwrap();
    refused(&of(&new, &mesh), mesh.now, &mesh.members, Reason::BeaconStale);
    mesh.shine();
    verify(&of(&new, &mesh), mesh.now, &mesh.members).unwrap();

    mesh.wait(86 * DAY);
    let last = of(&old, &mesh);
    mesh.wait(2 * DAY);
    refused(&last, mesh.now, &mesh.members, Reason::MemberExpired);
}

#[test]
fn an_operator_has_the_role_of_its_record_and_no_other() {
    let mut mesh = Mesh::found("home.mesh");
    let keys = fresh_keys(&[KeySlot::Operator]);
    let name = "ada".parse().unwrap();
    let leaf = svid::operator_certificate(&keys, mesh.members.mesh(), &name, [1; 16], mesh.now).unwrap();
    let chain = [leaf];
    refused(&chain, mesh.now, &mesh.members, Reason::OperatorUnknown);

    let give = |mesh: &mut Mesh, role, keys: &dyn Keys| {
        let key = keys.public(KeySlot::Operator).unwrap().clone();
        let record = mesh.members.sign_operator(&mesh.signer, name.clone(), role, key, mesh.now).unwrap();
        mesh.members.merge(record).unwrap();
    };
    give(&mut mesh, Some(Role::Operate), &keys);
    let caller = verify(&chain, mesh.now, &mesh.members).unwrap();
    assert!(matches!(caller.who, Who::Operator { role: Role::Operate, .. }));
    give(&mut mesh, Some(Role::View), &keys);
    let gone = caller.still_holds(mesh.now, &mesh.members).expect_err("a role was taken away");
    assert_eq!(gone.reason, Reason::OperatorUnknown);
    give(&mut mesh, None, &keys);
    refused(&chain, mesh.now, &mesh.members, Reason::OperatorUnknown);

    give(&mut mesh, Some(Role::Operate), &keys);
    let open = verify(&chain, mesh.now, &mesh.members).unwrap();
    give(&mut mesh, Some(Role::Admin), &fresh_keys(&[KeySlot::Operator]));
    let gone = open.still_holds(mesh.now, &mesh.members).expect_err("the old key was stolen");
    assert_eq!(gone.reason, Reason::OperatorUnknown);
    let told = refused(&chain, mesh.now, &mesh.members, Reason::OperatorUnknown);
    assert!(told.contains("another key"), "{told}");
}

/// A P-256 leaf that the node's authority signs without asking anybody: what a stolen node can make.
pub fn forge(node: &Node, uri: &str, dns: &[&str], common_names: &[&str]) -> CertificateDer<'static> {
    forge_with(node, uri, dns, common_names, &fresh_keys(&[KeySlot::Jwt]), |_| {})
}

/// As [`forge`], for the key at hand (P-256 in the JWT slot, or ML-DSA in the authority's), with a last change to the parameters.
pub fn forge_with(
    node: &Node,
    uri: &str,
    dns: &[&str],
    common_names: &[&str],
    leaf_keys: &dyn Keys,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in common_names {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.subject_alt_names.extend(dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = time_of(-60);
    params.not_after = time_of(3600);
    change(&mut params);
    let authority = Borrowed { keys: &*node.keys, slot: KeySlot::AuthorityP256 };
    let key = authority.keys.public(authority.slot).unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    let name = format!("sagemesh authority {}", &key.digest().to_string()[..32]);
    issuer.distinguished_name.push(DnType::CommonName, name);
    let issuer = Issuer::from_params(&issuer, &authority);
    let slot =
        [KeySlot::Jwt, KeySlot::AuthorityMlDsa].into_iter().find(|slot| leaf_keys.public(*slot).is_ok());
    let leaf = Borrowed { keys: leaf_keys, slot: slot.unwrap() };
    params.signed_by(&leaf, &issuer).unwrap().der().clone()
}

fn time_of(secs: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc() + time::Duration::seconds(secs)
}

struct Borrowed<'a> {
    keys: &'a dyn Keys,
    slot: KeySlot,
}

impl PublicKeyData for Borrowed<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.keys.public(self.slot).map(PublicKey::as_bytes).unwrap()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.slot.algorithm() {
            Algorithm::MlDsa65 => &rcgen::PKCS_ML_DSA_65,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for Borrowed<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.keys.sign(self.slot, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[test]
fn an_authority_is_known_by_its_record_and_a_signature_alone() {
    let mut mesh = Mesh::found("home.mesh");
    let (pi, tv) = (mesh.admit("pi", "svc/api"), mesh.admit("tv", ""));
    let record = mesh.record(&pi);
    let member = record.member();
    for form in [Form::Rustls, Form::Stock] {
        let signature = authority::sign(&*pi.keys, KeySlot::AuthorityP256, member, form).unwrap();
        let restore = |member: &Member, key: &PublicKey, form, signature: &[u8]| {
            authority::restore(mesh.members.keys(), member, key, form, signature)
        };
        let key = &member.authority.classical;
        let restored = restore(member, key, form, &signature).unwrap();
        let own = authority::certificate(&*pi.keys, KeySlot::AuthorityP256, member, form).unwrap();
        let parsed = |der: &CertificateDer<'static>| {
            let (_, it) = X509Certificate::from_der(der).unwrap();
            it.tbs_certificate.as_ref().to_vec()
        };
        assert_eq!(parsed(&restored), parsed(&own));
        let wider = Member { scope: "svc/*".parse().unwrap(), ..member.clone() };
        let refused = |result: Result<_, Refusal>| result.map_err(|refusal| refusal.reason).err();
        let invalid = Some(Reason::SignatureInvalid);
        assert_eq!(refused(restore(&wider, key, form, &signature)), invalid);
        let other = &mesh.record(&tv).member().authority.classical.clone();
        assert_eq!(refused(restore(member, other, form, &signature)), invalid);
        assert_eq!(refused(restore(member, key, form, b"")), invalid);
    }
}
