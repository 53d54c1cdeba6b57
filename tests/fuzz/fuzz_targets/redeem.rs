//! Requests to join: a claim changed in every field, with and without the secret. What is refused changes
//! nothing, and what is granted is a record of the claim's keys that others take, the same at the second try.
#![no_main]

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use proto::Message;
use proto::identity::v1;

use identity::Members;
use identity::author::NodeKeys;
use identity::join::{Exporter, Invitation, Invitations};
use identity::soft_keys::Secret;
use identity::statement::Statement;
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::{Lenient, Mesh, mesh};
use types::key::KeySlot;
use types::{Envelope, Refusal, Timestamp};

const EXPORTER: Exporter = [9; 32];
/// Invitations by their secrets: for `web`, for `pi`, who has the name already, and one that is over.
const INVITATIONS: [(u8, &str, &str, u64); 3] = [
    (51, "web", "svc/api", mesh::DAWN_S + 900),
    (52, "pi", "", mesh::DAWN_S + 900),
    (53, "nas", "", mesh::DAWN_S - 1),
];

#[derive(Arbitrary, Debug)]
enum Input {
    Bytes(Vec<u8>),
    Claim {
        /// Which invitation is named; none asks to be renewed.
        invitation: Option<u8>,
        node: u8,
        keys: u8,
        wall: i16,
        kid: Option<String>,
        is_proven: bool,
        payload: Vec<Edit>,
        request: Vec<Edit>,
    },
}

static MESH: OnceLock<Mesh> = OnceLock::new();

fuzz_target!(|input: Input| {
    let mesh = MESH.get_or_init(Mesh::found);
    let mut invitations =
        Invitations::restore(INVITATIONS.iter().map(|(secret, node, scope, end)| Invitation {
            secret: Secret::new([*secret; 32]),
            domain: mesh::domain(node),
            scope: scope.parse().expect("a scope"),
            not_after: Timestamp::from_secs(*end),
            redeemed_by: None,
        }));
    let request = input.request(&mesh.members);
    let redeem = |members: &Members, invitations: &mut Invitations| {
        invitations.redeem(members, &mesh.signer, &EXPORTER, &request, mesh::dawn())
    };
    let before = redeemed(&invitations);
    let record = match redeem(&mesh.members, &mut invitations) {
        Ok(record) => record,
        Err(_) => return assert_eq!(redeemed(&invitations), before, "a refusal changes nothing"),
    };
    let mut members = mesh.members.clone();
    members.merge(record.clone()).expect("what was granted, others take");
    let Ok(Statement::Member(member)) = Statement::read(&record) else { panic!("a record was asked for") };
    assert_eq!(members.get(&member.domain).map(|it| &it.authority), Some(&member.authority));
    for held in mesh.members.iter() {
        assert_eq!(
            members.get(&held.domain).map(|it| &it.authority),
            Some(&held.authority),
            "none is robbed"
        );
    }
    let by: Vec<_> =
        invitations.iter().filter(|it| it.redeemed_by == Some(member.authority.authority())).collect();
    assert!(by.len() <= 1);
    if let Some(invitation) = by.first() {
        assert_eq!((&invitation.domain, &invitation.scope), (&member.domain, &member.scope));
        let again: Result<Envelope, Refusal> = redeem(&members, &mut invitations);
        assert_eq!(again.map(|it| it.digest()), Ok(record.digest()), "redeeming twice is redeeming once");
    } else {
        let held = mesh.members.get(&member.domain).expect("only members are renewed");
        assert_eq!((&held.authority, &held.scope), (&member.authority, &member.scope));
    }
});

fn redeemed(invitations: &Invitations) -> Vec<bool> {
    invitations.iter().map(|it| it.redeemed_by.is_some()).collect()
}

impl Input {
    fn request(&self, members: &Members) -> Vec<u8> {
        let Self::Claim { invitation, node, keys, wall, kid, is_proven, payload, request } = self else {
            let Self::Bytes(bytes) = self else { unreachable!("there are two") };
            return bytes.clone();
        };
        let own = own_keys(*keys, members);
        let jwt = own.jwt.first().expect("there is one");
        let node = ["web", "pi", "db", "nas"][usize::from(*node) % 4];
        let claim = v1::JoinClaim {
            mesh: mesh::name().to_string(),
            node: node.to_owned(),
            root: members.fingerprint().0.to_vec(),
            exporter: EXPORTER.to_vec(),
            peer: own.peer.0.to_vec(),
            authority_p256: own.authority.classical.as_bytes().to_vec(),
            authority_ml_dsa_65: own.authority.post_quantum.as_bytes().to_vec(),
            jwt: Some(v1::JwtKey {
                kid: kid.clone().unwrap_or_else(|| jwt.kid.clone()),
                p256: jwt.key.as_bytes().to_vec(),
            }),
            wall_s: mesh::DAWN_S.saturating_add_signed(i64::from(*wall)),
        };
        let payload = edited(&claim.encode_to_vec(), payload);
        let signer = Lenient::new(*keys, &KeySlot::NODE);
        let sealed = Envelope::seal("sagemesh.identity.v1.JoinClaim", payload, &signer, &KeySlot::NODE);
        let claim = sealed.expect("every slot").to_bytes();
        let (invitation, mac) = match invitation {
            None => (Vec::new(), Vec::new()),
            Some(which) => prove(INVITATIONS[usize::from(*which) % 3].0, &claim, *is_proven),
        };
        edited(&v1::JoinRequest { claim, invitation, mac }.encode_to_vec(), request)
    }
}

/// Keys of a newcomer, or those of a member: who believes every signature cannot tell.
fn own_keys(which: u8, members: &Members) -> NodeKeys {
    let held = members.iter().nth(usize::from(which));
    match held {
        Some(held) => NodeKeys { peer: held.peer, authority: held.authority.clone(), jwt: held.jwt.clone() },
        None => NodeKeys::of(&Lenient::new(which, &KeySlot::NODE)).expect("every slot"),
    }
}

/// The name of the invitation with that secret, and the proof that the secret is known.
fn prove(secret: u8, claim: &[u8], is_proven: bool) -> (Vec<u8>, Vec<u8>) {
    let digest = types::Digest::of(&[b"sagemesh invitation v1", &[secret; 32]]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[secret + u8::from(!is_proven); 32]);
    let mac = hmac::sign(&key, &[b"sagemesh join v1".as_slice(), &EXPORTER, claim].concat());
    (digest.0[..16].to_vec(), mac.as_ref().to_vec())
}
