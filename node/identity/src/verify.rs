//! Who is at the other end: from a certificate chain to a caller.
//!
//! Leaf → SPIFFE ID → trust domain → live record → its authority → path in scope, in that order. The chain's
//! own authority certificates are never believed and bundles of trust domains are never merged: the record
//! alone says by which keys a trust domain vouches. An operator's certificate is self-signed; the operator
//! record says which key it must have.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use types::key::Algorithm;
use types::{Envelope, Now, Reason, Refusal, ServiceName, SpiffeId, Timestamp};

use crate::authority;
use crate::keyset::AuthorityId;
use crate::members::{Members, Merged};
use crate::statement::{CLOCK_LEEWAY, MEMBER_LEN_MAX, Member, Role, Statement};
use crate::svid::{self, RECORD_OID};

/// Longest leaf that is looked at, in bytes: a record, an ML-DSA key and signature, and room.
pub const LEAF_LEN_MAX: usize = MEMBER_LEN_MAX + 8_000;

/// Who is at the other end, as far as a certificate can say.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whom the certificate names.
    pub id: SpiffeId,
    /// What is known of it.
    pub who: Who,
    /// The algorithm of the authority's signature.
    pub algorithm: Algorithm,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// The record that the chain carried, if it is news: to be merged and gossiped.
    pub carried: Option<Envelope>,
}

/// What is known of a caller.
#[derive(Clone, Debug)]
pub enum Who {
    /// A node, or a service on it.
    Member(Arc<Member>),
    /// An operator with this role.
    Operator(Role),
}

impl Caller {
    /// The member, unless it is an operator.
    pub fn member(&self) -> Option<&Arc<Member>> {
        match &self.who {
            Who::Member(member) => Some(member),
            Who::Operator(_) => None,
        }
    }

    /// Whether someone let in before would be let in still: for open connections, at every change of the
    /// map. The certificate's own end is not asked; connections outlive it.
    ///
    /// # Errors
    /// Why not.
    pub fn still_holds(&self, now: Now, members: &Members) -> Result<(), Refusal> {
        match (&self.who, &self.id) {
            (Who::Member(was), id) => {
                let check = |members: &Members| {
                    if let Some(refusal) = members.refusal(&was.domain, &was.authority) {
                        return Err(refusal);
                    }
                    let member = members.get(&was.domain).ok_or_else(|| members.why_not(&was.domain))?;
                    check_times(member, now)?;
                    svid::check_scope(member, id)
                };
                // The map may lack the record still that let the caller in.
                check(members).or_else(|refusal| match with_record(members, self.carried.as_ref()) {
                    Ok((after, Some(_))) => check(&after),
                    _ => Err(refusal),
                })
            }
            (Who::Operator(role), SpiffeId::Operator { name, .. }) => {
                let operator = members.operators().find(|operator| operator.name == *name);
                match operator.filter(|it| it.not_after >= now.wall).and_then(|it| it.role) {
                    Some(held) if held >= *role => Ok(()),
                    _ => Err(Reason::OperatorUnknown.because(format!("`{name}` has lost a role"))),
                }
            }
            (Who::Operator(_), SpiffeId::Workload { .. }) => Err(malformed("a workload has no role")),
        }
    }
}

fn check_times(member: &Member, now: Now) -> Result<(), Refusal> {
    let (node, wall) = (member.node(), now.wall);
    if member.issued_at > wall + CLOCK_LEEWAY {
        let detail =
            format!("the record of `{node}` was issued at {}, and it is {wall} here", member.issued_at);
        return Err(Reason::ClockSkew.because(detail));
    }
    if member.not_after < wall {
        let detail = format!("the record of `{node}` ended at {}, and it is {wall} here", member.not_after);
        return Err(Reason::MemberExpired.because(detail));
    }
    Ok(())
}

/// Says who presented `chain`, its leaf first.
///
/// # Errors
/// Every way in which it is not a caller of this mesh, by its reason.
pub fn verify(chain: &[CertificateDer<'_>], now: Now, members: &Members) -> Result<Caller, Refusal> {
    let leaf = chain.first().ok_or_else(|| Reason::SvidMissing.because("no certificate was presented"))?;
    let read = Leaf::read(leaf)?;
    if read.id.mesh() != members.mesh() {
        let detail = format!("{} is of another mesh than `{}`", read.id, members.mesh());
        return Err(Reason::MeshMismatch.because(detail));
    }
    if let SpiffeId::Operator { name, .. } = &read.id {
        return verify_operator(name, &read, now, members);
    }

    let carried = carried_member(&read)?;
    let (known, news) = with_record(members, carried.as_ref().map(|(_, envelope)| envelope))?;
    let member = live_member(&known, &read, carried.as_ref(), now)?;
    check_leaf(leaf, &read, &member, now)?;
    Ok(Caller {
        id: read.id,
        who: Who::Member(member),
        algorithm: read.algorithm,
        not_after: read.not_after,
        carried: news,
    })
}

/// Checks that the authority of `member` signed the leaf, for a name in its scope.
fn check_leaf(der: &CertificateDer<'_>, leaf: &Leaf, member: &Member, now: Now) -> Result<(), Refusal> {
    let key = match leaf.algorithm {
        Algorithm::MlDsa65 => &member.authority.post_quantum,
        _ => &member.authority.classical,
    };
    let anchors = [authority::trust_anchor(member, key)];
    let parsed = EndEntityCert::try_from(der).map_err(|err| malformed(format!("{err:?}")))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.wall.as_secs()));
    let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256, webpki::aws_lc_rs::ML_DSA_65];
    parsed
        .verify_for_usage(&algorithms, &anchors, &[], at, KeyUsage::client_auth(), None, None)
        .map_err(|err| untrusted(&err, leaf, now))?;
    svid::check_scope(member, &leaf.id)?;
    check_names(leaf)
}

/// The authority of the record that a chain carries, once it is seen to have signed the chain's leaf. Whether
/// the record counts is not asked: for a newcomer, who cannot know yet.
pub(crate) fn self_described(chain: &[CertificateDer<'_>], now: Now) -> Result<AuthorityId, Refusal> {
    let leaf = chain.first().ok_or_else(|| Reason::SvidMissing.because("no certificate was presented"))?;
    let read = Leaf::read(leaf)?;
    let (member, _) =
        carried_member(&read)?.ok_or_else(|| malformed("the certificate carries no member record"))?;
    check_leaf(leaf, &read, &member, now)?;
    Ok(member.authority.authority())
}

/// The record that a leaf carries, unverified.
fn carried_member(leaf: &Leaf) -> Result<Option<(Arc<Member>, Envelope)>, Refusal> {
    let Some(bytes) = &leaf.record else { return Ok(None) };
    let envelope = Envelope::from_bytes(bytes)?;
    match Statement::read(&envelope)? {
        Statement::Member(member) if Some(&member.domain) == leaf.id.domain() => Ok(Some((member, envelope))),
        _ => Err(malformed("the record that the certificate carries is not its node's")),
    }
}

/// The map as it would be had the carried record been gossiped, and the record if that makes a difference.
fn with_record<'a>(
    members: &'a Members,
    carried: Option<&Envelope>,
) -> Result<(Cow<'a, Members>, Option<Envelope>), Refusal> {
    let Some(envelope) = carried else { return Ok((Cow::Borrowed(members), None)) };
    if members.item(&envelope.digest()).is_some() {
        return Ok((Cow::Borrowed(members), None));
    }
    let mut after = members.clone();
    match after.merge(envelope.clone())? {
        Merged::Added => Ok((Cow::Owned(after), Some(envelope.clone()))),
        Merged::Known | Merged::Superseded => Ok((Cow::Borrowed(members), None)),
    }
}

/// The leaf's member, if its record counts now.
fn live_member(
    members: &Members,
    leaf: &Leaf,
    carried: Option<&(Arc<Member>, Envelope)>,
    now: Now,
) -> Result<Arc<Member>, Refusal> {
    let domain = leaf.id.domain().expect("operators were told apart by the caller");
    let node = domain.node();
    if let Some(refusal) = carried.and_then(|(it, _)| members.refusal(domain, &it.authority)) {
        return Err(refusal);
    }
    let member = members.get(domain).ok_or_else(|| members.why_not(domain))?;
    check_times(member, now)?;
    if members.is_stale(now) && !members.is_verified(member.authority.authority()) {
        let detail = format!("no beacon for {BEACON_HOURS} h, and `{node}` was never verified here");
        return Err(Reason::BeaconStale.because(detail));
    }
    Ok(Arc::clone(member))
}

const BEACON_HOURS: u64 = crate::members::BEACON_AGE_MAX.as_secs() / 3600;

fn verify_operator(name: &ServiceName, leaf: &Leaf, now: Now, members: &Members) -> Result<Caller, Refusal> {
    let unknown = |detail: String| Reason::OperatorUnknown.because(detail);
    let operator = members
        .operators()
        .find(|operator| operator.name == *name)
        .ok_or_else(|| unknown(format!("no operator `{name}` is known")))?;
    if leaf.key != operator.key.as_bytes() || leaf.key_algorithm != Some(Algorithm::EcdsaP256) {
        return Err(unknown(format!(
            "the certificate of `{name}` has another key than the operator's record"
        )));
    }
    if operator.not_after < now.wall || leaf.not_after < now.wall {
        let at = operator.not_after.min(leaf.not_after);
        return Err(Reason::SvidExpired.because(format!("the certificate of `{name}` ended at {at}")));
    }
    let role = operator.role.ok_or_else(|| unknown(format!("the operator `{name}` has no role any more")))?;
    Ok(Caller {
        id: leaf.id.clone(),
        who: Who::Operator(role),
        algorithm: Algorithm::EcdsaP256,
        not_after: operator.not_after.min(leaf.not_after),
        carried: None,
    })
}

/// A leaf may claim the DNS names that follow from its SPIFFE ID and no other.
fn check_names(leaf: &Leaf) -> Result<(), Refusal> {
    let allowed = leaf.id.dns_names();
    match leaf.dns_names.iter().find(|name| !allowed.contains(name)) {
        Some(name) => {
            let name: String = name.chars().take(80).collect();
            Err(Reason::SvidOutOfScope.because(format!("{} also claims the name `{name}`", leaf.id)))
        }
        None => Ok(()),
    }
}

/// What is read of a leaf before anything is believed.
struct Leaf {
    id: SpiffeId,
    dns_names: Vec<String>,
    key: Vec<u8>,
    key_algorithm: Option<Algorithm>,
    algorithm: Algorithm,
    not_before: Timestamp,
    not_after: Timestamp,
    record: Option<Vec<u8>>,
}

impl Leaf {
    fn read(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > LEAF_LEN_MAX {
            return Err(malformed(format!("the leaf has {} bytes of {LEAF_LEN_MAX}", der.len())));
        }
        let (rest, cert) =
            X509Certificate::from_der(der).map_err(|_| malformed("the leaf is no certificate"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the leaf"));
        }
        // Some verifiers believe a common name, so nobody of this mesh may have one.
        if cert.subject().iter().next().is_some() {
            return Err(malformed("an SVID has an empty subject"));
        }
        let (id, dns_names) = alt_names(&cert)?;
        let key = cert.public_key();
        Ok(Self {
            id,
            dns_names,
            key: key.subject_public_key.data.to_vec(),
            key_algorithm: algorithm(&key.algorithm.algorithm.to_id_string()),
            algorithm: algorithm(&cert.signature_algorithm.algorithm.to_id_string())
                .ok_or_else(|| malformed("the leaf is signed with an algorithm that no authority uses"))?,
            not_before: timestamp(cert.validity().not_before.timestamp()),
            not_after: timestamp(cert.validity().not_after.timestamp()),
            record: carried_record(&cert)?,
        })
    }
}

fn alt_names(cert: &X509Certificate<'_>) -> Result<(SpiffeId, Vec<String>), Refusal> {
    let extension =
        cert.subject_alternative_name().map_err(|_| malformed("the leaf's names cannot be read"))?;
    let names = extension.ok_or_else(|| malformed("the leaf has no SPIFFE ID"))?;
    let (mut ids, mut dns_names) = (Vec::new(), Vec::new());
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => ids.push(*uri),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            _ => return Err(malformed("an SVID has only a URI and DNS names")),
        }
    }
    let [id] = ids.as_slice() else {
        return Err(malformed(format!("an SVID has one URI, not {}", ids.len())));
    };
    Ok((id.parse().map_err(|err: types::spiffe::Error| malformed(err.to_string()))?, dns_names))
}

fn carried_record(cert: &X509Certificate<'_>) -> Result<Option<Vec<u8>>, Refusal> {
    let oid: Vec<String> = RECORD_OID.iter().map(u64::to_string).collect();
    let oid = oid.join(".");
    let mut found = cert.extensions().iter().filter(|extension| extension.oid.to_id_string() == oid);
    let record = found.next().map(|extension| extension.value.to_vec());
    if found.next().is_some() {
        return Err(malformed("the leaf carries two records"));
    }
    Ok(record)
}

/// The algorithm of a key or signature by its object identifier (RFC 5480, RFC 5758, RFC 9881).
fn algorithm(oid: &str) -> Option<Algorithm> {
    match oid {
        "1.2.840.10045.2.1" | "1.2.840.10045.4.3.2" => Some(Algorithm::EcdsaP256),
        "2.16.840.1.101.3.4.3.18" => Some(Algorithm::MlDsa65),
        _ => None,
    }
}

fn timestamp(secs: i64) -> Timestamp {
    Timestamp::from_secs(u64::try_from(secs).unwrap_or(0))
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Reason::SvidMalformed.because(detail)
}

fn untrusted(err: &webpki::Error, leaf: &Leaf, now: Now) -> Refusal {
    let id = &leaf.id;
    match err {
        webpki::Error::CertNotValidYet { .. } => {
            let detail =
                format!("the certificate of {id} begins at {}, and it is {} here", leaf.not_before, now.wall);
            Reason::ClockSkew.because(detail)
        }
        webpki::Error::CertExpired { .. } => {
            let detail =
                format!("the certificate of {id} ended at {}, and it is {} here", leaf.not_after, now.wall);
            Reason::SvidExpired.because(detail)
        }
        webpki::Error::NameConstraintViolation => {
            Reason::SvidOutOfScope.because(format!("{id} claims names that its node may not"))
        }
        other => Reason::SvidUntrusted.because(format!("the authority of {id} did not sign it: {other:?}")),
    }
}
