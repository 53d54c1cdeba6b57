//! A hostile authority: it signs whatever certificate it likes, and is only itself. Records that its leaves
//! carry are changed too, and count as signed.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;

use identity::statement::SignedRecord;
use identity::svid::RECORD_OID;
use identity::{SoftKeys, Who, verify};
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::{Mesh, mesh};
use types::key::{Algorithm, KeySlot, Keys, PublicKey};
use types::{Envelope, SpiffeId};

/// What an authority may write. Each number picks from what is below, and none of it too.
#[derive(Arbitrary, Debug)]
struct Input {
    is_ml_dsa: bool,
    names: Vec<Name>,
    subject: Option<u8>,
    issuer: Option<u8>,
    is_ca: bool,
    uses: u8,
    begins: i16,
    ends: i16,
    record: Option<(u8, Vec<Edit>)>,
    is_record_twice: bool,
    /// Changes to what is signed, made before it is.
    edits: Vec<Edit>,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Uri(u8),
    Dns(u8),
    Text(String),
    Address([u8; 4]),
}

const URIS: [&str; 10] = [
    "spiffe://pi.home.mesh/node",
    "spiffe://pi.home.mesh/svc/api",
    "spiffe://pi.home.mesh/svc/web",
    "spiffe://db.home.mesh/node",
    "spiffe://db.home.mesh/svc/api",
    "spiffe://home.mesh/operator/ada",
    "spiffe://pi.other.mesh/node",
    "spiffe://svc.home.mesh/node",
    "spiffe://web.home.mesh/node",
    "https://pi.home.mesh/node",
];
const HOSTS: [&str; 9] = [
    "pi.home.mesh",
    "api.pi.home.mesh",
    "api.svc.home.mesh",
    "web.svc.home.mesh",
    "db.home.mesh",
    "home.mesh",
    "*.svc.home.mesh",
    "PI.home.mesh",
    ".",
];
const COMMON_NAMES: [&str; 3] = ["", "pi.home.mesh", "db.home.mesh"];

static MESH: OnceLock<Mesh> = OnceLock::new();

fuzz_target!(|input: Input| {
    let mesh = MESH.get_or_init(Mesh::found);
    let Some(leaf) = input.leaf(mesh) else { return };
    let chain = [CertificateDer::from(leaf)];
    let Ok(caller) = verify(&chain, mesh::dawn(), &mesh.members) else { return };
    mesh::check_caller(&caller, &mesh.members);
    // The operator's own key is elsewhere, so nothing that pi signs makes anybody an operator.
    let Who::Member(member) = &caller.who else { panic!("{} has a role", caller.id) };
    let SpiffeId::Workload { domain, .. } = &caller.id else { panic!("{} is no workload", caller.id) };
    // A record that counts as signed may bind these keys to another name; without one they have theirs.
    let own = mesh.nodes[0].public(slot(&input)).expect("the slot");
    assert!(member.authority.both().contains(&own), "{} by the keys of pi", caller.id);
    assert!(input.record.is_some() || *domain == mesh::domain("pi"), "{} by the keys of pi", caller.id);
});

const fn slot(input: &Input) -> KeySlot {
    if input.is_ml_dsa { KeySlot::AuthorityMlDsa } else { KeySlot::AuthorityP256 }
}

impl Input {
    /// The certificate, signed by the authority of `pi`.
    fn leaf(&self, mesh: &Mesh) -> Option<Vec<u8>> {
        let authority = Key::new(&mesh.nodes[0], slot(self));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(subject) = self.subject {
            let name = COMMON_NAMES[usize::from(subject) % COMMON_NAMES.len()];
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = self.names.iter().filter_map(Name::san).collect();
        params.is_ca = match self.is_ca {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let uses = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        // Most often both: it is the rest that is of interest.
        params.extended_key_usages = uses
            .into_iter()
            .enumerate()
            .filter(|(n, _)| self.uses & (1 << n) == 0)
            .map(|(_, it)| it)
            .collect();
        let moment = |minutes: i16| {
            let at = i64::try_from(mesh::DAWN_S).ok()? + i64::from(minutes) * 60;
            time::OffsetDateTime::from_unix_timestamp(at).ok()
        };
        params.not_before = moment(self.begins)?;
        params.not_after = moment(self.ends)?;
        params.serial_number = Some(SerialNumber::from_slice(&[7; 16]));
        if let Some((which, edits)) = &self.record {
            let record = CustomExtension::from_oid_content(RECORD_OID, record(mesh, *which, edits));
            params.custom_extensions.push(record.clone());
            if self.is_record_twice {
                params.custom_extensions.push(record);
            }
        }
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = DistinguishedName::new();
        let name = match self.issuer {
            // As the mesh names authorities.
            None => format!("sagemesh authority {}", &authority.public.digest().to_string()[..32]),
            Some(which) => COMMON_NAMES[usize::from(which) % COMMON_NAMES.len()].to_owned(),
        };
        issuer.distinguished_name.push(DnType::CommonName, name);
        let issuer = Issuer::from_params(&issuer, &authority);
        let leaf = params.signed_by(&Key::new(&mesh.nodes[1], slot(self)), &issuer).ok()?;
        if self.edits.is_empty() {
            Some(leaf.der().to_vec())
        } else {
            resigned(leaf.der(), &self.edits, &authority)
        }
    }
}

impl Name {
    fn san(&self) -> Option<SanType> {
        match self {
            Self::Uri(which) => Some(SanType::URI(URIS[usize::from(*which) % URIS.len()].try_into().ok()?)),
            Self::Dns(which) => {
                Some(SanType::DnsName(HOSTS[usize::from(*which) % HOSTS.len()].try_into().ok()?))
            }
            Self::Text(text) => Some(SanType::URI(format!("spiffe://{text}").try_into().ok()?)),
            Self::Address(address) => Some(SanType::IpAddress((*address).into())),
        }
    }
}

/// A statement of the mesh with another payload. Its signatures count whatever they are.
fn record(mesh: &Mesh, which: u8, edits: &[Edit]) -> Vec<u8> {
    let id = |node: &str| SpiffeId::node(mesh::domain(node));
    let of = |node: &str| SignedRecord::of(&mesh.members, &id(node)).expect("it is a member");
    let record = match which % 4 {
        0 | 1 => of("pi"),
        2 => of("db"),
        _ => return edited(&of("pi").envelope().to_bytes(), edits),
    };
    let payload = edited(&record.envelope().payload, edits);
    Envelope { payload, ..record.envelope().clone() }.to_bytes()
}

/// Changes the signed part of a certificate and signs it again.
fn resigned(der: &[u8], edits: &[Edit], authority: &Key<'_>) -> Option<Vec<u8>> {
    let (body, _) = split(der)?;
    let (contents, rest) = split(body)?;
    let algorithm = &rest[..rest.len() - split(rest)?.1.len()];
    let signed = sequence(&edited(contents, edits));
    let signature = authority.sign(&signed).ok()?;
    let signature = value(0x03, &[&[0], signature.as_slice()].concat());
    Some(sequence(&[&signed, algorithm, &signature].concat()))
}

/// The contents of the first value in DER, and what follows it.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.get(1..)?.split_first()?;
    let (len, rest) = match first {
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        short => (usize::from(*short), rest),
    };
    rest.split_at_checked(len)
}

fn sequence(contents: &[u8]) -> Vec<u8> {
    value(0x30, contents)
}

/// One value; what is longer than 65,535 bytes gets a wrong length.
fn value(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = u16::try_from(contents.len()).unwrap_or(u16::MAX).to_be_bytes();
    match contents.len() {
        len @ 0..128 => [&[tag, u8::try_from(len).expect("below 128")], contents].concat(),
        128..256 => [&[tag, 0x81, len[1]], contents].concat(),
        _ => [&[tag, 0x82, len[0], len[1]], contents].concat(),
    }
}

/// A key as rcgen asks for one.
struct Key<'a> {
    keys: &'a SoftKeys,
    slot: KeySlot,
    public: &'a PublicKey,
}

impl<'a> Key<'a> {
    fn new(keys: &'a SoftKeys, slot: KeySlot) -> Self {
        Self { keys, slot, public: keys.public(slot).expect("the slot") }
    }
}

impl PublicKeyData for Key<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.public.algorithm() {
            Algorithm::MlDsa65 => &rcgen::PKCS_ML_DSA_65,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for Key<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.keys.sign(self.slot, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
