//! What is said of members: that they are, that they are no longer, and to which keys a name passes.

use proto::Message;
use proto::identity::v1;
use types::key::{Algorithm, PublicKey};
use types::{Digest, Envelope, MeshName, NodeName, PeerId, Refusal, Timestamp, TrustDomain};

use super::{Kind, field};
use crate::keyset::{AuthorityId, KeySet, SignerId, pair_digest};
use crate::scope::Scope;

/// Longest encoded member record with its signatures, in bytes. gRPC-core breaks on leaves of about 8,000 B.
pub const MEMBER_LEN_MAX: usize = 7_500;
/// Most JWT keys in one record.
pub const JWT_KEYS_MAX: usize = 4;
/// Longest note on a tombstone, in bytes.
const NOTE_LEN_MAX: usize = 200;
const KID_LEN_MAX: usize = 64;

/// A key that verifies JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwtKey {
    /// Its id in a JSON Web Key set.
    pub kid: String,
    /// The P-256 key.
    pub key: PublicKey,
}

/// One member of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `NODE.MESH`.
    pub domain: TrustDomain,
    /// The node's Ed25519 key.
    pub peer: PeerId,
    /// The keys that vouch for what runs on the node: P-256 and ML-DSA-65.
    pub authority: KeySet,
    /// Keys that verify its JWT-SVIDs.
    pub jwt: Vec<JwtKey>,
    /// The services it may speak for.
    pub scope: Scope,
    /// One more for each record of this name and these keys.
    pub epoch: u64,
    /// When the name was first bound to these keys.
    pub bound_at: Timestamp,
    /// When this record was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Who signed it.
    pub signer: SignerId,
    /// The signer's count.
    pub serial: u64,
}

impl Member {
    pub(super) fn read(wire: &v1::MemberRecord) -> Result<Self, Refusal> {
        if wire.jwt.len() > JWT_KEYS_MAX {
            return Err(field::invalid(format!("a record has at most {JWT_KEYS_MAX} JWT keys")));
        }
        let jwt = wire.jwt.iter().map(|jwt| {
            if jwt.kid.is_empty() || jwt.kid.len() > KID_LEN_MAX {
                return Err(field::invalid(format!("a key id has 1 to {KID_LEN_MAX} bytes")));
            }
            let key = PublicKey::new(Algorithm::EcdsaP256, &jwt.p256);
            Ok(JwtKey { kid: jwt.kid.clone(), key: key.map_err(|err| field::invalid(err.to_string()))? })
        });
        let peer = wire.peer.as_slice().try_into().map(PeerId);
        let scope = Scope::read(wire.scope.iter().map(String::as_str));
        let member = Self {
            domain: TrustDomain::new(field::name(&wire.node)?, field::name(&wire.mesh)?),
            peer: peer.map_err(|_| field::invalid("the node's key has other than 32 bytes"))?,
            authority: KeySet::read(Algorithm::EcdsaP256, &wire.authority_p256, &wire.authority_ml_dsa_65)?,
            jwt: jwt.collect::<Result<_, _>>()?,
            scope: scope.map_err(|err| field::invalid(err.to_string()))?,
            epoch: wire.epoch,
            bound_at: field::at(wire.bound_at_s)?,
            issued_at: field::at(wire.issued_at_s)?,
            not_after: field::at(wire.not_after_s)?,
            signer: field::signer(&wire.signer)?,
            serial: wire.serial,
        };
        if member.not_after <= member.issued_at || member.issued_at < member.bound_at {
            return Err(field::invalid("a record's times are out of order"));
        }
        Ok(member)
    }

    pub(super) fn fits(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let len = Message::encoded_len(envelope);
        if len > MEMBER_LEN_MAX {
            let name = self.domain.node();
            return Err(field::invalid(format!(
                "the record of `{name}` has {len} bytes of {MEMBER_LEN_MAX}"
            )));
        }
        Ok(())
    }

    /// The node's name.
    pub fn node(&self) -> &NodeName {
        self.domain.node()
    }

    /// The node's Ed25519 key as one to verify with.
    pub fn node_key(&self) -> PublicKey {
        PublicKey::new(Algorithm::Ed25519, &self.peer.0).expect("a peer id has the 32 bytes of the key")
    }
}

impl Kind for Member {
    const DOMAIN: &'static str = "sagemesh.identity.v1.MemberRecord";

    fn encode(&self) -> Vec<u8> {
        let jwt = |jwt: &JwtKey| v1::JwtKey { kid: jwt.kid.clone(), p256: jwt.key.as_bytes().to_vec() };
        v1::MemberRecord {
            mesh: self.domain.mesh().to_string(),
            node: self.domain.node().to_string(),
            peer: self.peer.0.to_vec(),
            authority_p256: self.authority.classical.as_bytes().to_vec(),
            authority_ml_dsa_65: self.authority.post_quantum.as_bytes().to_vec(),
            jwt: self.jwt.iter().map(jwt).collect(),
            scope: self.scope.items(),
            epoch: self.epoch,
            bound_at_s: self.bound_at.as_secs(),
            issued_at_s: self.issued_at.as_secs(),
            not_after_s: self.not_after.as_secs(),
            signer: self.signer.0.0.to_vec(),
            serial: self.serial,
        }
        .encode_to_vec()
    }
}

/// Ends the membership of authority keys for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The mesh.
    pub mesh: MeshName,
    /// Digests of the authority keys; a record with either is dead.
    pub keys: [Digest; 2],
    /// The name they had, for people.
    pub node: NodeName,
    /// Why, for people.
    pub note: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Who signed it.
    pub signer: SignerId,
    /// The signer's count.
    pub serial: u64,
}

impl Tombstone {
    pub(super) fn read(wire: &v1::Tombstone) -> Result<Self, Refusal> {
        let [classical, post_quantum] = wire.keys.as_slice() else {
            return Err(field::invalid("a tombstone names two keys"));
        };
        if wire.note.len() > NOTE_LEN_MAX {
            return Err(field::invalid(format!("a tombstone's note has at most {NOTE_LEN_MAX} bytes")));
        }
        Ok(Self {
            mesh: field::name(&wire.mesh)?,
            keys: [field::digest(classical, "a key")?, field::digest(post_quantum, "a key")?],
            node: field::name(&wire.node)?,
            note: wire.note.clone(),
            issued_at: field::at(wire.issued_at_s)?,
            signer: field::signer(&wire.signer)?,
            serial: wire.serial,
        })
    }

    /// The authority it ends.
    pub fn authority(&self) -> AuthorityId {
        AuthorityId(pair_digest(&self.keys))
    }
}

impl Kind for Tombstone {
    const DOMAIN: &'static str = "sagemesh.identity.v1.Tombstone";

    fn encode(&self) -> Vec<u8> {
        v1::Tombstone {
            mesh: self.mesh.to_string(),
            keys: self.keys.iter().map(|digest| digest.0.to_vec()).collect(),
            node: self.node.to_string(),
            note: self.note.clone(),
            issued_at_s: self.issued_at.as_secs(),
            signer: self.signer.0.0.to_vec(),
            serial: self.serial,
        }
        .encode_to_vec()
    }
}

/// Lets a name pass from one node's authority keys to another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The name that passes.
    pub domain: TrustDomain,
    /// The keys that held it, and sign this.
    pub old: KeySet,
    /// The keys that get it.
    pub new: AuthorityId,
    /// When it was made; the latest counts.
    pub issued_at: Timestamp,
}

impl Handover {
    pub(super) fn read(wire: &v1::Handover) -> Result<Self, Refusal> {
        Ok(Self {
            domain: TrustDomain::new(field::name(&wire.node)?, field::name(&wire.mesh)?),
            old: KeySet::read(Algorithm::EcdsaP256, &wire.old_p256, &wire.old_ml_dsa_65)?,
            new: AuthorityId(field::digest(&wire.authority, "the new authority")?),
            issued_at: field::at(wire.issued_at_s)?,
        })
    }
}

impl Kind for Handover {
    const DOMAIN: &'static str = "sagemesh.identity.v1.Handover";

    fn encode(&self) -> Vec<u8> {
        v1::Handover {
            mesh: self.domain.mesh().to_string(),
            node: self.domain.node().to_string(),
            old_p256: self.old.classical.as_bytes().to_vec(),
            old_ml_dsa_65: self.old.post_quantum.as_bytes().to_vec(),
            authority: self.new.0.0.to_vec(),
            issued_at_s: self.issued_at.as_secs(),
        }
        .encode_to_vec()
    }
}
