//! Invitations as an inviter keeps them, what its replies name, and refusals as calls of the API tell them: what
//! is read is kept the same, and a refusal cannot steer a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tonic::{Code, Status};

use identity::AuthorityId;
use identity::join::{self, Invitation};
use identity::soft_keys::Secret;
use sagemesh_fuzz::mesh;
use types::{Digest, Reason, Timestamp};

fuzz_target!(init: sagemesh_fuzz::seed::write(seeds()), |bytes: &[u8]| {
    if let Ok(invitation) = Invitation::from_bytes(bytes, &mesh::name()) {
        let again = Invitation::from_bytes(&invitation.to_bytes(), &mesh::name()).expect("our own bytes");
        assert_eq!(again.to_bytes(), invitation.to_bytes());
        assert_eq!(again.id(), invitation.id());
    }
    assert_ne!(join::mesh_port(bytes), Some(0));
    let (detail, message) = bytes.split_at(bytes.len() / 2);
    for (detail, message) in [(bytes, "x".into()), (detail, String::from_utf8_lossy(message))] {
        let status = Status::with_details(Code::Unknown, message, detail.to_vec().into());
        let Some(refusal) = api::refusal::read(&status) else { continue };
        assert!(!refusal.to_string().contains(char::is_control), "{refusal:?}");
        let again = api::refusal::read(&api::refusal::status(&refusal)).expect("our own");
        assert_eq!(again.reason, refusal.reason);
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let mut invitation = Invitation {
        secret: Secret::new([51; 32]),
        domain: mesh::domain("web"),
        scope: "svc/api".parse().expect("a scope"),
        not_after: Timestamp::from_secs(mesh::DAWN_S),
        redeemed_by: None,
    };
    let open = invitation.to_bytes();
    invitation.redeemed_by = Some(AuthorityId(Digest([7; 32])));
    let status = api::refusal::status(&Reason::NameBound.because("taken"));
    vec![open, invitation.to_bytes(), status.details().to_vec()]
}
