//! Issuing X.509-SVIDs (SPIFFE X509-SVID §2 to §5): short-lived leaves signed by the node's own authority.
//!
//! A leaf has an empty subject, one URI, and DNS names for verifiers that know no SPIFFE. It may carry the
//! node's member record, so that a peer that has not heard of the node yet can verify it at once.

use std::time::{Duration, Instant};

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_ML_DSA_65, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;

use types::key::{Algorithm, KeySlot, Keys, PublicKey, Unavailable};
use types::{Envelope, MeshName, Now, Reason, Refusal, ServiceName, SpiffeId, Timestamp, Workload};

use crate::author::OPERATOR_VALID;
use crate::authority;
use crate::statement::{CLOCK_LEEWAY, Member};

/// How long an SVID is valid, unless its record ends before.
pub const SVID_VALID: Duration = Duration::from_secs(3600);

/// The extension that carries the member record: 2.25 (ITU-T X.667: any UUID) and the letters `Sage` and `Mesh`
/// as numbers. Go refuses certificates with numbers of more than 31 bits.
pub const RECORD_OID: &[u64] = &[2, 25, 0x5361_6765, 0x4d65_7368];

/// What an SVID is to say.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whom it names.
    pub id: &'a SpiffeId,
    /// The leaf's key, P-256 or ML-DSA-65: the authority's key of the same algorithm signs.
    pub key: &'a PublicKey,
    /// Random bytes that number it; the first bit is cleared (RFC 5280 §4.1.2.2).
    pub serial: [u8; 16],
    /// The member record to carry.
    pub record: Option<&'a Envelope>,
}

/// Issues an SVID with the authority's key at hand.
///
/// # Errors
/// [`Reason::SvidOutOfScope`] for an identity that `member` may not vouch for, [`Reason::MemberExpired`] once
/// its record has ended, [`Reason::PossessionUnproven`] if the authority's key is not at hand.
pub fn issue(
    keys: &dyn Keys,
    member: &Member,
    request: Request<'_>,
    now: Now,
) -> Result<CertificateDer<'static>, Refusal> {
    check_scope(member, request.id)?;
    if member.not_after <= now.wall {
        let detail = format!("the record of `{}` ended at {}", member.node(), member.not_after);
        return Err(Reason::MemberExpired.because(detail));
    }
    let fail = |detail: String| Reason::PossessionUnproven.because(detail);
    let slot = match request.key.algorithm() {
        Algorithm::EcdsaP256 => KeySlot::AuthorityP256,
        Algorithm::MlDsa65 => KeySlot::AuthorityMlDsa,
        Algorithm::Ed25519 => return Err(fail("no authority signs leaves with Ed25519 keys".to_owned())),
    };
    let authority_key = Remote::new(keys, slot).map_err(|err| fail(err.to_string()))?;
    if !member.authority.both().contains(&authority_key.public()) {
        return Err(fail(format!("the record of `{}` names other keys", member.node())));
    }

    let valid = (now.wall - CLOCK_LEEWAY, not_after(member, now));
    let mut params = leaf_params(request.id, request.serial, valid).map_err(|err| fail(err.to_string()))?;
    if let Some(record) = request.record {
        params.custom_extensions = vec![CustomExtension::from_oid_content(RECORD_OID, record.to_bytes())];
    }

    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    authority.distinguished_name.push(DnType::CommonName, authority::common_name(authority_key.public()));
    let issuer = Issuer::from_params(&authority, &authority_key);
    let leaf = params.signed_by(&Public(request.key), &issuer).map_err(|err| fail(err.to_string()))?;
    Ok(leaf.der().clone())
}

/// The self-signed certificate of the operator whose key is at hand. What it may do is in the operator's
/// record, so it can be long-lived: taking the role away ends it.
///
/// # Errors
/// [`Reason::PossessionUnproven`] if the key is not at hand.
pub fn operator_certificate(
    keys: &dyn Keys,
    mesh: &MeshName,
    name: &ServiceName,
    serial: [u8; 16],
    now: Now,
) -> Result<CertificateDer<'static>, Refusal> {
    let fail = |detail: String| Reason::PossessionUnproven.because(detail);
    let key = Remote::new(keys, KeySlot::Operator).map_err(|err| fail(err.to_string()))?;
    let id = SpiffeId::Operator { mesh: mesh.clone(), name: name.clone() };
    let valid = (now.wall - CLOCK_LEEWAY, now.wall + OPERATOR_VALID);
    let params = leaf_params(&id, serial, valid).map_err(|err| fail(err.to_string()))?;
    let certificate = params.self_signed(&key).map_err(|err| fail(err.to_string()))?;
    Ok(certificate.der().clone())
}

/// What every leaf has in common: an empty subject, the names that follow from its SPIFFE ID, and its uses.
fn leaf_params(
    id: &SpiffeId,
    mut serial: [u8; 16],
    (not_before, not_after): (Timestamp, Timestamp),
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = alt_names(id)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = authority::moment(not_before);
    params.not_after = authority::moment(not_after);
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// When an SVID ends that is issued now.
pub fn not_after(member: &Member, now: Now) -> Timestamp {
    (now.wall + SVID_VALID).min(member.not_after)
}

/// Whether `member` may vouch for `id`.
///
/// # Errors
/// [`Reason::SvidOutOfScope`] if it may not.
pub fn check_scope(member: &Member, id: &SpiffeId) -> Result<(), Refusal> {
    let is_in_scope = match id {
        SpiffeId::Workload { domain, workload } => {
            *domain == member.domain
                && match workload {
                    Workload::Node => true,
                    Workload::Service(service) => member.scope.holds(service),
                }
        }
        SpiffeId::Operator { .. } => false,
    };
    if is_in_scope {
        return Ok(());
    }
    let detail = format!("`{}` may vouch for {}, not for {id}", member.node(), member.scope);
    Err(Reason::SvidOutOfScope.because(detail))
}

/// When to replace an SVID issued now: at half of its life, give or take a tenth of it by `jitter`, a random
/// number, so that a fleet that started together does not rotate together.
pub fn rotate_at(now: Now, valid: Duration, jitter: u32) -> Instant {
    let spread = f64::from(jitter) / f64::from(u32::MAX);
    now.mono + valid.mul_f64(0.4 + 0.2 * spread)
}

fn alt_names(id: &SpiffeId) -> Result<Vec<SanType>, rcgen::Error> {
    let dns = id.dns_names().into_iter().map(|name| Ok(SanType::DnsName(name.try_into()?)));
    std::iter::once(id.to_string().try_into().map(SanType::URI)).chain(dns).collect()
}

/// A key that someone else uses for us, in the form that rcgen asks for.
pub(crate) struct Remote<'a> {
    keys: &'a dyn Keys,
    slot: KeySlot,
    public: &'a PublicKey,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(keys: &'a dyn Keys, slot: KeySlot) -> Result<Self, Unavailable> {
        Ok(Self { keys, slot, public: keys.public(slot)? })
    }

    pub(crate) const fn public(&self) -> &'a PublicKey {
        self.public
    }
}

impl PublicKeyData for Remote<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        algorithm(self.public)
    }
}

impl SigningKey for Remote<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.keys.sign(self.slot, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

struct Public<'a>(&'a PublicKey);

impl PublicKeyData for Public<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        algorithm(self.0)
    }
}

pub(crate) fn algorithm(key: &PublicKey) -> &'static SignatureAlgorithm {
    match key.algorithm() {
        Algorithm::Ed25519 => &PKCS_ED25519,
        Algorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
        Algorithm::MlDsa65 => &PKCS_ML_DSA_65,
    }
}
