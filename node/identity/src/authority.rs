//! A node's authority as certificate verifiers see it. Everything follows from the member record: the common
//! name from the key's digest, the constraints from the scope.
//!
//! Two forms exist, since no single one is safe for all verifiers (shared findings; RFC 5280 §4.2.1.10):
//! rustls refuses every URI constraint, while gRPC-core and OpenSSL fall back to a leaf's common name when no
//! constraint covers the names it has. Put the two into separate files: a verifier that has both takes the
//! laxer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{CertificateDer, Der, TrustAnchor};
use time::OffsetDateTime;

use types::key::{KeySlot, Keys, PublicKey};
use types::name::RESERVED_NODE;
use types::{Reason, Refusal, Timestamp};

use crate::der;
use crate::scope::Scope;
use crate::statement::{CLOCK_LEEWAY, Member};
use crate::svid::{self, Remote};

/// For whom an authority's certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// rustls: critical constraints on DNS names and addresses.
    Rustls,
    /// Everyone else: non-critical constraints that also permit the trust domain's URIs and exclude every
    /// directory name, so that no common name is ever believed.
    Stock,
}

/// The common name of the authority whose key this is.
pub(crate) fn common_name(key: &PublicKey) -> String {
    format!("sagemesh authority {}", &key.digest().to_string()[..32])
}

/// The trust anchor of a member for certificates signed with `key`, in rustls' form.
pub fn trust_anchor(member: &Member, key: &PublicKey) -> TrustAnchor<'static> {
    let attribute = der::value(
        der::SEQUENCE,
        &[der::COMMON_NAME, &der::value(der::UTF8_STRING, &[common_name(key).as_bytes()])],
    );
    let spki = key.spki();
    // INVARIANT: webpki wants the contents of the outer SEQUENCE, whose header is 2 or 4 bytes here.
    let skip = if spki[1] < 0x80 { 2 } else { 4 };
    TrustAnchor {
        subject: Der::from(der::value(der::SET, &[&attribute])),
        subject_public_key_info: Der::from(spki[skip..].to_vec()),
        name_constraints: Some(Der::from(subtrees(member, Form::Rustls))),
    }
}

/// The self-signed certificate of the authority whose keys are at hand, for one algorithm and form.
///
/// # Errors
/// [`Reason::PossessionUnproven`] if the key at hand is not the record's.
pub fn certificate(
    keys: &dyn Keys,
    slot: KeySlot,
    member: &Member,
    form: Form,
) -> Result<CertificateDer<'static>, Refusal> {
    let fail = |detail: String| Reason::PossessionUnproven.because(detail);
    let key = Remote::new(keys, slot).map_err(|err| fail(err.to_string()))?;
    if !member.authority.both().contains(&key.public()) {
        return Err(fail(format!("the record of `{}` names other keys", member.node())));
    }
    assemble(&key, key.public(), member, form).map_err(|err| fail(err.to_string()))
}

/// The signature of [`certificate`]. All else of it follows from the record, so this is what nodes tell each
/// other of their certificates.
///
/// # Errors
/// As [`certificate`].
pub fn sign(keys: &dyn Keys, slot: KeySlot, member: &Member, form: Form) -> Result<Vec<u8>, Refusal> {
    let fail = |detail: String| Reason::PossessionUnproven.because(detail);
    let key = Remote::new(keys, slot).map_err(|err| fail(err.to_string()))?;
    let tap = Tap { public: key.public(), sign: |message: &[u8]| key.sign(message), seen: OnceLock::new() };
    assemble(&tap, key.public(), member, form).map_err(|err| fail(err.to_string()))?;
    let seen = tap.seen.into_inner().ok_or_else(|| fail("nothing was signed".to_owned()))?;
    Ok(seen.1)
}

/// The certificate that a member signed, made again from its record. What the member says in it is thus nothing
/// but what a signer signed.
///
/// # Errors
/// [`Reason::SignatureInvalid`] if the signature is of another record or key, as for a moment after a renewal.
pub fn restore(
    verifier: &dyn Keys,
    member: &Member,
    key: &PublicKey,
    form: Form,
    signature: &[u8],
) -> Result<CertificateDer<'static>, Refusal> {
    let invalid = |what: &str| {
        let node = member.node();
        Reason::SignatureInvalid
            .because(format!("a certificate of `{node}` does not follow from its record: {what}"))
    };
    let tap = Tap { public: key, sign: |_: &[u8]| Ok(signature.to_vec()), seen: OnceLock::new() };
    let certificate = assemble(&tap, key, member, form).map_err(|err| invalid(&err.to_string()))?;
    let seen = tap.seen.into_inner().ok_or_else(|| invalid("nothing was signed"))?;
    if !verifier.verify(key, &seen.0, signature) {
        return Err(invalid("the signature is of something else"));
    }
    Ok(certificate)
}

/// A key whose use is noted: what was signed, and the signature.
struct Tap<'a, F> {
    public: &'a PublicKey,
    sign: F,
    seen: OnceLock<(Vec<u8>, Vec<u8>)>,
}

impl<F> PublicKeyData for Tap<'_, F> {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        svid::algorithm(self.public)
    }
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>, rcgen::Error>> SigningKey for Tap<'_, F> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = (self.sign)(message)?;
        Ok(self.seen.get_or_init(|| (message.to_vec(), signature)).1.clone())
    }
}

fn assemble(
    key: &impl SigningKey,
    public: &PublicKey,
    member: &Member,
    form: Form,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(public));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = moment(member.bound_at - CLOCK_LEEWAY);
    params.not_after = moment(member.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&public.digest().0[..16]));
    let content = der::value(der::SEQUENCE, &[&subtrees(member, form)]);
    let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    constraints.set_criticality(form == Form::Rustls);
    params.custom_extensions = vec![constraints];
    Ok(params.self_signed(key)?.der().clone())
}

/// The contents of NameConstraints: what is permitted, then what is excluded.
fn subtrees(member: &Member, form: Form) -> Vec<u8> {
    let mesh = member.domain.mesh();
    let mut permitted = vec![name(2, member.domain.to_string().as_bytes())];
    match &member.scope {
        Scope::All => permitted.push(name(2, format!("{RESERVED_NODE}.{mesh}").as_bytes())),
        Scope::Only(services) => {
            let hosts = services.iter().map(|service| types::spiffe::service_host(service, mesh));
            permitted.extend(hosts.map(|host| name(2, host.as_bytes())));
        }
    }
    let mut excluded = vec![
        every_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        every_address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ];
    if form == Form::Stock {
        permitted.push(name(6, member.domain.to_string().as_bytes()));
        let empty = der::value(der::SEQUENCE, &[]);
        excluded.push(der::value(der::SEQUENCE, &[&der::value(der::context(4, true), &[&empty])]));
    }
    let list = |tag, items: &[Vec<u8>]| {
        der::value(der::context(tag, true), &items.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    [list(0, &permitted), list(1, &excluded)].concat()
}

/// A GeneralSubtree over a name of the given GeneralName choice.
fn name(choice: u8, bytes: &[u8]) -> Vec<u8> {
    der::value(der::SEQUENCE, &[&der::value(der::context(choice, false), &[bytes])])
}

/// The subtree of all addresses of a family: address and mask are all zero.
fn every_address(family: IpAddr) -> Vec<u8> {
    match family {
        IpAddr::V4(_) => name(7, &[0; 8]),
        IpAddr::V6(_) => name(7, &[0; 32]),
    }
}

/// A moment as certificates hold it; beyond the year 9999 it is the last second of that year.
pub(crate) fn moment(at: Timestamp) -> OffsetDateTime {
    const YEAR_9999: i64 = 253_402_300_799;
    let secs = i64::try_from(at.as_secs()).unwrap_or(YEAR_9999).min(YEAR_9999);
    OffsetDateTime::from_unix_timestamp(secs).expect("clamped to the years that certificates hold")
}
