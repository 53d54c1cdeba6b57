//! Certificates and keys in the form that stock programs read (RFC 7468).

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use identity::soft_keys::Secret;

/// A certificate.
pub fn certificate(der: &CertificateDer<'_>) -> String {
    wrap("CERTIFICATE", der)
}

/// A P-256 private key in PKCS #8; `None` if the secret is no scalar.
pub fn private_key(secret: &Secret) -> Option<Zeroizing<String>> {
    let point = PrivateKey::from_private_key(&ECDH_P256, secret.expose()).ok()?.compute_public_key().ok()?;
    let alg = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = EcdsaKeyPair::from_private_key_and_public_key(alg, secret.expose(), point.as_ref()).ok()?;
    let der = pair.to_pkcs8v1().ok()?;
    Some(Zeroizing::new(wrap("PRIVATE KEY", der.as_ref())))
}

fn wrap(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(BASE64.encode(der));
    // Sized at once: a string that grows leaves secrets behind.
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for start in (0..text.len()).step_by(64) {
        out.push_str(&text[start..text.len().min(start + 64)]);
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
