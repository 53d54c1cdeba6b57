//! What the root signs: itself, who may sign members, and who may no longer.

use std::collections::BTreeSet;

use proto::Message;
use proto::identity::v1;
use types::key::Algorithm;
use types::{Digest, MeshName, NodeName, Refusal, Timestamp};

use super::{Kind, field};
use crate::keyset::{KeySet, SignerId};
use crate::scope::Scope;

/// Most digests that one cut-off keeps, and most of a kind that come with a root.
pub const KEEP_MAX: usize = 16_384;

/// Who the mesh is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The mesh's name.
    pub mesh: MeshName,
    /// 1 for the first, one more for each rotation.
    pub generation: u32,
    /// Ed25519 and ML-DSA-65.
    pub keys: KeySet,
    /// Digest of the keys of the next generation.
    pub next_keys: Digest,
    /// When it was made.
    pub issued_at: Timestamp,
    /// What must come with it.
    pub company: Company,
}

/// The statements of the root before that a new root makes again, named by whom they are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Company {
    /// Signers that it grants.
    pub granted: BTreeSet<Digest>,
    /// Signers that it cuts off.
    pub cut_off: BTreeSet<Digest>,
    /// Authorities that it ends.
    pub buried: BTreeSet<Digest>,
}

impl Root {
    pub(super) fn read(wire: &v1::Root) -> Result<Self, Refusal> {
        if wire.generation == 0 {
            return Err(field::invalid("a root has a generation from 1"));
        }
        let set = |list: &[Vec<u8>]| {
            if list.len() > KEEP_MAX {
                return Err(field::invalid(format!("a root comes with at most {KEEP_MAX} of a kind")));
            }
            list.iter().map(|bytes| field::digest(bytes, "what comes with the root")).collect()
        };
        Ok(Self {
            mesh: field::name(&wire.mesh)?,
            generation: wire.generation,
            keys: KeySet::read(Algorithm::Ed25519, &wire.ed25519, &wire.ml_dsa_65)?,
            next_keys: field::digest(&wire.next_keys, "the digest of the next keys")?,
            issued_at: field::at(wire.issued_at_s)?,
            company: Company {
                granted: set(&wire.granted)?,
                cut_off: set(&wire.cut_off)?,
                buried: set(&wire.buried)?,
            },
        })
    }

    /// Its name where signers are named.
    pub fn id(&self) -> SignerId {
        self.keys.signer()
    }
}

impl Kind for Root {
    const DOMAIN: &'static str = "sagemesh.identity.v1.Root";

    fn encode(&self) -> Vec<u8> {
        let list = |set: &BTreeSet<Digest>| set.iter().map(|digest| digest.0.to_vec()).collect();
        v1::Root {
            mesh: self.mesh.to_string(),
            generation: self.generation,
            ed25519: self.keys.classical.as_bytes().to_vec(),
            ml_dsa_65: self.keys.post_quantum.as_bytes().to_vec(),
            next_keys: self.next_keys.0.to_vec(),
            issued_at_s: self.issued_at.as_secs(),
            granted: list(&self.company.granted),
            cut_off: list(&self.company.cut_off),
            buried: list(&self.company.buried),
        }
        .encode_to_vec()
    }
}

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Sign member records.
    Members,
    /// Sign operator records.
    Operators,
    /// Sign tombstones.
    Tombstones,
}

impl Right {
    /// All of them: what the first node gets.
    pub const ALL: [Self; 3] = [Self::Members, Self::Operators, Self::Tombstones];

    fn read(number: i32) -> Result<Self, Refusal> {
        match v1::Right::try_from(number) {
            Ok(v1::Right::Members) => Ok(Self::Members),
            Ok(v1::Right::Operators) => Ok(Self::Operators),
            Ok(v1::Right::Tombstones) => Ok(Self::Tombstones),
            Ok(v1::Right::Unspecified) | Err(_) => {
                Err(field::invalid(format!("no right has the number {number}")))
            }
        }
    }

    const fn wire(self) -> i32 {
        match self {
            Self::Members => v1::Right::Members as i32,
            Self::Operators => v1::Right::Operators as i32,
            Self::Tombstones => v1::Right::Tombstones as i32,
        }
    }
}

/// Makes a pair of keys a signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The mesh.
    pub mesh: MeshName,
    /// The node that holds the keys, for people.
    pub node: NodeName,
    /// Ed25519 and ML-DSA-65.
    pub keys: KeySet,
    /// What it allows.
    pub rights: BTreeSet<Right>,
    /// The widest scope it may give.
    pub scope: Scope,
    /// The highest counts.
    pub epoch: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// The root that made it.
    pub root: SignerId,
}

impl Grant {
    pub(super) fn read(wire: &v1::Grant) -> Result<Self, Refusal> {
        let scope = Scope::read(wire.scope.iter().map(String::as_str));
        Ok(Self {
            mesh: field::name(&wire.mesh)?,
            node: field::name(&wire.node)?,
            keys: KeySet::read(Algorithm::Ed25519, &wire.ed25519, &wire.ml_dsa_65)?,
            rights: wire.rights.iter().map(|number| Right::read(*number)).collect::<Result<_, _>>()?,
            scope: scope.map_err(|err| field::invalid(err.to_string()))?,
            epoch: wire.epoch,
            issued_at: field::at(wire.issued_at_s)?,
            root: field::signer(&wire.root)?,
        })
    }
}

impl Kind for Grant {
    const DOMAIN: &'static str = "sagemesh.identity.v1.Grant";

    fn encode(&self) -> Vec<u8> {
        v1::Grant {
            mesh: self.mesh.to_string(),
            node: self.node.to_string(),
            ed25519: self.keys.classical.as_bytes().to_vec(),
            ml_dsa_65: self.keys.post_quantum.as_bytes().to_vec(),
            rights: self.rights.iter().map(|right| right.wire()).collect(),
            scope: self.scope.items(),
            epoch: self.epoch,
            issued_at_s: self.issued_at.as_secs(),
            root: self.root.0.0.to_vec(),
        }
        .encode_to_vec()
    }
}

/// Ends a signer; nothing it signed holds but what is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// The mesh.
    pub mesh: MeshName,
    /// The signer.
    pub signer: SignerId,
    /// Digests of the envelopes that stay valid.
    pub keep: BTreeSet<Digest>,
    /// The highest counts.
    pub epoch: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// The root that made it.
    pub root: SignerId,
}

impl CutOff {
    pub(super) fn read(wire: &v1::CutOff) -> Result<Self, Refusal> {
        if wire.keep.len() > KEEP_MAX {
            return Err(field::invalid(format!("a cut-off keeps at most {KEEP_MAX} statements")));
        }
        let keep = wire.keep.iter().map(|bytes| field::digest(bytes, "a digest to keep"));
        Ok(Self {
            mesh: field::name(&wire.mesh)?,
            signer: field::signer(&wire.signer)?,
            keep: keep.collect::<Result<_, _>>()?,
            epoch: wire.epoch,
            issued_at: field::at(wire.issued_at_s)?,
            root: field::signer(&wire.root)?,
        })
    }
}

impl Kind for CutOff {
    const DOMAIN: &'static str = "sagemesh.identity.v1.CutOff";

    fn encode(&self) -> Vec<u8> {
        v1::CutOff {
            mesh: self.mesh.to_string(),
            signer: self.signer.0.0.to_vec(),
            keep: self.keep.iter().map(|digest| digest.0.to_vec()).collect(),
            epoch: self.epoch,
            issued_at_s: self.issued_at.as_secs(),
            root: self.root.0.0.to_vec(),
        }
        .encode_to_vec()
    }
}
