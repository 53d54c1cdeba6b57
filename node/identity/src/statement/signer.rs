//! What signers say beside member records: who operates, and what they stand by.

use proto::Message;
use proto::identity::v1;
use types::key::{Algorithm, PublicKey};
use types::{Digest, MeshName, Refusal, ServiceName, Timestamp};

use super::{Kind, field};
use crate::keyset::SignerId;

/// What an operator may do. Each role may do what the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look.
    View,
    /// Also act on what runs.
    Operate,
    /// Also change who belongs.
    Admin,
}

impl Role {
    fn read(number: i32) -> Result<Option<Self>, Refusal> {
        match v1::Role::try_from(number) {
            Ok(v1::Role::View) => Ok(Some(Self::View)),
            Ok(v1::Role::Operate) => Ok(Some(Self::Operate)),
            Ok(v1::Role::Admin) => Ok(Some(Self::Admin)),
            Ok(v1::Role::Unspecified) => Ok(None),
            Err(_) => Err(field::invalid(format!("no role has the number {number}"))),
        }
    }

    const fn wire(role: Option<Self>) -> i32 {
        match role {
            None => v1::Role::Unspecified as i32,
            Some(Self::View) => v1::Role::View as i32,
            Some(Self::Operate) => v1::Role::Operate as i32,
            Some(Self::Admin) => v1::Role::Admin as i32,
        }
    }
}

/// A person, or a tool that acts for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The mesh.
    pub mesh: MeshName,
    /// The operator's name.
    pub name: ServiceName,
    /// What the operator may do; `None` takes every role away.
    pub role: Option<Role>,
    /// The P-256 key of the operator's certificate.
    pub key: PublicKey,
    /// The highest counts.
    pub epoch: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Who signed it.
    pub signer: SignerId,
    /// The signer's count.
    pub serial: u64,
}

impl Operator {
    pub(super) fn read(wire: &v1::OperatorRecord) -> Result<Self, Refusal> {
        let key = PublicKey::new(Algorithm::EcdsaP256, &wire.p256);
        Ok(Self {
            mesh: field::name(&wire.mesh)?,
            name: field::name(&wire.name)?,
            role: Role::read(wire.role)?,
            key: key.map_err(|err| field::invalid(err.to_string()))?,
            epoch: wire.epoch,
            issued_at: field::at(wire.issued_at_s)?,
            not_after: field::at(wire.not_after_s)?,
            signer: field::signer(&wire.signer)?,
            serial: wire.serial,
        })
    }
}

impl Kind for Operator {
    const DOMAIN: &'static str = "sagemesh.identity.v1.OperatorRecord";

    fn encode(&self) -> Vec<u8> {
        v1::OperatorRecord {
            mesh: self.mesh.to_string(),
            name: self.name.to_string(),
            role: Role::wire(self.role),
            p256: self.key.as_bytes().to_vec(),
            epoch: self.epoch,
            issued_at_s: self.issued_at.as_secs(),
            not_after_s: self.not_after.as_secs(),
            signer: self.signer.0.0.to_vec(),
            serial: self.serial,
        }
        .encode_to_vec()
    }
}

/// What a signer has signed so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// The mesh.
    pub mesh: MeshName,
    /// The signer.
    pub signer: SignerId,
    /// The signer's count when it made this.
    pub serial: u64,
    /// Merkle root over the digests of what it stands by.
    pub merkle_root: Digest,
    /// How many digests those are.
    pub n_leaves: u64,
    /// When it was made.
    pub issued_at: Timestamp,
}

impl Beacon {
    pub(super) fn read(wire: &v1::Beacon) -> Result<Self, Refusal> {
        Ok(Self {
            mesh: field::name(&wire.mesh)?,
            signer: field::signer(&wire.signer)?,
            serial: wire.serial,
            merkle_root: field::digest(&wire.merkle_root, "the Merkle root")?,
            n_leaves: wire.n_leaves,
            issued_at: field::at(wire.issued_at_s)?,
        })
    }
}

impl Kind for Beacon {
    const DOMAIN: &'static str = "sagemesh.identity.v1.Beacon";

    fn encode(&self) -> Vec<u8> {
        v1::Beacon {
            mesh: self.mesh.to_string(),
            signer: self.signer.0.0.to_vec(),
            serial: self.serial,
            merkle_root: self.merkle_root.0.to_vec(),
            n_leaves: self.n_leaves,
            issued_at_s: self.issued_at.as_secs(),
        }
        .encode_to_vec()
    }
}
