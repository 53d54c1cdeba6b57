//! Real certificates and real messages of a join, altered at random: none is believed, and none breaks what
//! reads it. `make fuzz` looks deeper.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use identity::join::{Exporter, Invitation, Invitations, Newcomer, reply, welcome};
use identity::soft_keys::Secret;
use identity::{SoftKeys, verify};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use rustls::pki_types::CertificateDer;
use types::Envelope;
use types::key::{Algorithm, KeySlot};

use crate::verify::leaf;
use crate::world::{Mesh, fresh_keys};

const CONNECTION: Exporter = [9; 32];

/// What travels when `web` joins by way of `pi`.
struct Join {
    mesh: Mesh,
    invitation: Invitation,
    newcomer: SoftKeys,
    token: identity::token::Token,
    leaves: [CertificateDer<'static>; 2],
    welcome: Vec<u8>,
    request: Vec<u8>,
    reply: Vec<u8>,
}

static JOIN: LazyLock<Join> = LazyLock::new(|| {
    let mut mesh = Mesh::found("home.mesh");
    let pi = mesh.admit("pi", "svc/api");
    let invitation = Invitation {
        secret: Secret::new([51; 32]),
        domain: "web.home.mesh".parse().unwrap(),
        scope: identity::Scope::NONE,
        not_after: mesh.now.wall + Duration::from_secs(900),
        redeemed_by: None,
    };
    let mut invitations = Invitations::default();
    let token = invitations
        .invite(&mesh.members, &mesh.signer, &pi.domain, invitation.clone(), Vec::new(), mesh.now)
        .unwrap();
    let record = mesh.record(&pi);
    let leaves = [Algorithm::EcdsaP256, Algorithm::MlDsa65]
        .map(|algorithm| leaf(&mesh, &pi, &pi.id(), algorithm, Some(record.envelope())));
    let (newcomer, verifier) = (fresh_keys(&KeySlot::NODE), Arc::new(SoftKeys::default()));
    let welcome = welcome(&mesh.members, &pi.domain, mesh.now).unwrap();
    let (_, request) = Newcomer::invited(&newcomer, &token)
        .greet(verifier, &leaves[1..], &CONNECTION, &welcome, mesh.now)
        .unwrap();
    let record: Result<Envelope, _> =
        invitations.redeem(&mesh.members, &mesh.signer, &CONNECTION, &request, mesh.now);
    let reply = reply(&Ok(record.unwrap()), 7400);
    Join { mesh, invitation, newcomer, token, leaves, welcome, request, reply }
});

/// `bytes` with another byte in one place; `None` if it is the same.
fn altered(bytes: &[u8], at: prop::sample::Index, byte: u8) -> Option<Vec<u8>> {
    let mut altered = bytes.to_vec();
    let at = at.index(bytes.len());
    altered[at] = byte;
    (altered != bytes).then_some(altered)
}

proptest! {
    #[test]
    fn no_byte_of_a_leaf_can_be_altered(which in 0usize..2, at: prop::sample::Index, byte: u8) {
        let Some(der) = altered(&JOIN.leaves[which], at, byte) else { return Ok(()) };
        let chain = [CertificateDer::from(der)];
        prop_assert!(verify(&chain, JOIN.mesh.now, &JOIN.mesh.members).is_err());
    }

    #[test]
    fn an_altered_request_is_refused_and_opens_nothing(at: prop::sample::Index, byte: u8) {
        let Some(request) = altered(&JOIN.request, at, byte) else { return Ok(()) };
        let Join { mesh, invitation, .. } = &*JOIN;
        let mut invitations = Invitations::restore([invitation.clone()]);
        let result = invitations.redeem(&mesh.members, &mesh.signer, &CONNECTION, &request, mesh.now);
        prop_assert!(result.is_err());
        prop_assert!(invitations.iter().all(|it| it.redeemed_by.is_none()));
    }

    #[test]
    fn an_altered_welcome_or_reply_makes_nobody_a_member_of_another_mesh(
        at in any::<[prop::sample::Index; 2]>(),
        bytes: [u8; 2],
    ) {
        let Join { mesh, newcomer, token, leaves, .. } = &*JOIN;
        let newcomer = Newcomer::invited(newcomer, token);
        let greet = |welcome: &[u8]| {
            newcomer.greet(Arc::new(SoftKeys::default()), &leaves[1..], &CONNECTION, welcome, mesh.now)
        };
        if let Some(Ok((members, _))) = altered(&JOIN.welcome, at[0], bytes[0]).map(|it| greet(&it)) {
            prop_assert!(members.fingerprint() == token.root);
        }
        let settle = |reply: &[u8]| newcomer.settle(&mut greet(&JOIN.welcome)?.0, reply);
        // Only the port can be another: no signature is on it.
        if let Some(Ok(member)) = altered(&JOIN.reply, at[1], bytes[1]).map(|it| settle(&it)) {
            prop_assert_eq!(member, settle(&JOIN.reply).unwrap());
        }
    }
}
