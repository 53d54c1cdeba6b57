//! A hostile inviter: its welcome and its reply, changed in every part. Who is greeted has the token's root
//! and the token's inviter as a member; who settles is a member under its own keys.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use proto::Message;
use proto::identity::v1;
use rustls_pki_types::CertificateDer;

use identity::author::NodeKeys;
use identity::join::{self, Exporter, Newcomer};
use identity::keyset::AuthorityId;
use identity::soft_keys::Secret;
use identity::token::Token;
use identity::{KeySet, Scope};
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::{Lenient, Mesh, mesh};
use types::key::{KeySlot, Keys};
use types::{Digest, Envelope};

const EXPORTER: Exporter = [9; 32];

#[derive(Arbitrary, Debug)]
struct Input {
    is_invited: bool,
    leaf: u8,
    wall: i16,
    /// Statements in the welcome: which one, and changes to its payload, which count as signed.
    statements: Vec<(u8, Vec<Edit>)>,
    is_whole: bool,
    welcome: Vec<Edit>,
    record: Vec<Edit>,
    reason: Option<(u8, String)>,
    reply: Vec<Edit>,
}

struct World {
    leaves: Vec<CertificateDer<'static>>,
    statements: Vec<Envelope>,
    welcome: Vec<Vec<u8>>,
    root: Digest,
    inviter: AuthorityId,
    record: Envelope,
}

static WORLD: OnceLock<World> = OnceLock::new();

fn world() -> World {
    let mesh = Mesh::found();
    let (pi, own) = (mesh::domain("pi"), Lenient::new(14, &KeySlot::NODE));
    let welcome = join::welcome(&mesh.members, &pi, mesh::dawn()).expect("a short welcome");
    let keys = NodeKeys::of(&own).expect("every slot");
    let node = "web".parse().expect("a name");
    World {
        leaves: mesh.leaves(),
        statements: mesh.statements(),
        welcome: v1::JoinWelcome::decode(welcome.as_slice()).expect("our own").statements,
        root: mesh.members.fingerprint(),
        inviter: mesh.members.get(&pi).expect("a member").authority.authority(),
        record: mesh
            .members
            .sign_member(&mesh.signer, node, &keys, Scope::NONE, mesh::dawn())
            .expect("a record"),
    }
}

fuzz_target!(|input: Input| {
    let world = WORLD.get_or_init(world);
    let own = Lenient::new(14, &KeySlot::NODE);
    let token = Token {
        domain: mesh::domain("web"),
        root: world.root,
        inviter: world.inviter,
        secret: Secret::new([51; 32]),
        addresses: Vec::new(),
    };
    let newcomer = match input.is_invited {
        true => Newcomer::invited(&own, &token),
        false => Newcomer::renewing(&own, token.domain.clone(), token.root),
    };
    let verifier: Arc<dyn Keys> = Arc::new(Lenient::default());
    let chain = [world.leaves[usize::from(input.leaf) % world.leaves.len()].clone()];
    let greeted = newcomer.greet(verifier, &chain, &EXPORTER, &input.welcome(world), mesh::dawn());
    let Ok((mut members, request)) = greeted else { return };
    assert_eq!(members.fingerprint(), token.root);
    let is_inviter = members.iter().any(|it| it.authority.authority() == token.inviter);
    assert!(is_inviter || !input.is_invited, "the inviter is a member");
    assert!(v1::JoinRequest::decode(request.as_slice()).is_ok());

    match newcomer.settle(&mut members, &input.reply(world)) {
        Ok(member) => {
            assert_eq!(member.authority, KeySet::of(&own, KeySlot::AUTHORITY).expect("both slots"));
            assert_eq!((&member.domain, members.get(&token.domain)), (&token.domain, Some(&member)));
        }
        Err(refusal) => assert!(!refusal.detail.chars().any(char::is_control), "{:?}", refusal.detail),
    }
});

impl Input {
    fn welcome(&self, world: &World) -> Vec<u8> {
        let changed = self.statements.iter().map(|(which, edits)| {
            let statement = &world.statements[usize::from(*which) % world.statements.len()];
            Envelope { payload: edited(&statement.payload, edits), ..statement.clone() }.to_bytes()
        });
        let whole = world.welcome.iter().filter(|_| self.is_whole).cloned();
        let welcome = v1::JoinWelcome {
            statements: whole.chain(changed).collect(),
            wall_s: mesh::DAWN_S.saturating_add_signed(i64::from(self.wall)),
        };
        edited(&welcome.encode_to_vec(), &self.welcome)
    }

    fn reply(&self, world: &World) -> Vec<u8> {
        let payload = edited(&world.record.payload, &self.record);
        let reply = match &self.reason {
            None => v1::JoinReply {
                record: Envelope { payload, ..world.record.clone() }.to_bytes(),
                ..v1::JoinReply::default()
            },
            Some((which, detail)) => v1::JoinReply {
                record: Vec::new(),
                reason: types::Reason::ALL[usize::from(*which) % types::Reason::ALL.len()].code().to_owned(),
                detail: detail.clone(),
                ..v1::JoinReply::default()
            },
        };
        edited(&reply.encode_to_vec(), &self.reply)
    }
}
