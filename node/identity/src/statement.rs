//! The signed statements, as checked values.
//!
//! Reading turns an envelope's payload into a value whose parts are all in range; it does not check who
//! signed. [`Members`](crate::Members) does that, since it knows by whose keys.

mod member;
mod root;
mod signer;

use std::sync::Arc;
use std::time::Duration;

use proto::Message;
use types::{Digest, Envelope, MeshName, Reason, Refusal, Timestamp};

pub use member::{Handover, JWT_KEYS_MAX, JwtKey, MEMBER_LEN_MAX, Member, Tombstone};
pub use root::{Company, CutOff, Grant, KEEP_MAX, Right, Root};
pub use signer::{Beacon, Operator, Role};

use crate::keyset::SignerId;

/// How far a clock may be off before what it wrote is refused.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(300);

/// One statement of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Who the mesh is.
    Root(Root),
    /// Who may sign.
    Grant(Grant),
    /// Who may sign no longer.
    CutOff(CutOff),
    /// Who is a member.
    Member(Arc<Member>),
    /// Who is a member no longer.
    Tombstone(Tombstone),
    /// To which keys a name passes.
    Handover(Handover),
    /// Who operates.
    Operator(Operator),
    /// What a signer stands by.
    Beacon(Beacon),
}

/// A kind of statement: how it is named and written.
pub trait Kind {
    /// The envelope's domain: the full name of the protobuf message.
    const DOMAIN: &'static str;
    /// Its encoding. Done once, by the author.
    fn encode(&self) -> Vec<u8>;
}

impl Statement {
    /// Reads the statement in an envelope; says nothing about its signatures.
    ///
    /// # Errors
    /// [`Reason::EnvelopeMalformed`] for bytes or a domain that are none of ours, [`Reason::RecordInvalid`]
    /// for a value out of range.
    pub fn read(envelope: &Envelope) -> Result<Self, Refusal> {
        fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Refusal> {
            M::decode(payload).map_err(|err| Reason::EnvelopeMalformed.because(err.to_string()))
        }
        let payload = envelope.payload.as_slice();
        match envelope.domain.as_str() {
            Root::DOMAIN => Root::read(&decode(payload)?).map(Self::Root),
            Grant::DOMAIN => Grant::read(&decode(payload)?).map(Self::Grant),
            CutOff::DOMAIN => CutOff::read(&decode(payload)?).map(Self::CutOff),
            Member::DOMAIN => {
                let member = Member::read(&decode(payload)?)?;
                member.fits(envelope)?;
                Ok(Self::Member(Arc::new(member)))
            }
            Tombstone::DOMAIN => Tombstone::read(&decode(payload)?).map(Self::Tombstone),
            Handover::DOMAIN => Handover::read(&decode(payload)?).map(Self::Handover),
            Operator::DOMAIN => Operator::read(&decode(payload)?).map(Self::Operator),
            Beacon::DOMAIN => Beacon::read(&decode(payload)?).map(Self::Beacon),
            other => {
                let domain: String = other.chars().take(60).collect();
                Err(Reason::EnvelopeMalformed.because(format!("`{domain}` is no statement of identity")))
            }
        }
    }

    /// The mesh it is about.
    pub fn mesh(&self) -> &MeshName {
        match self {
            Self::Root(it) => &it.mesh,
            Self::Grant(it) => &it.mesh,
            Self::CutOff(it) => &it.mesh,
            Self::Member(it) => it.domain.mesh(),
            Self::Tombstone(it) => &it.mesh,
            Self::Handover(it) => it.domain.mesh(),
            Self::Operator(it) => &it.mesh,
            Self::Beacon(it) => &it.mesh,
        }
    }

    /// The signer whose signature it needs; `None` for what the root or an old authority signs.
    pub fn signer(&self) -> Option<SignerId> {
        match self {
            Self::Member(it) => Some(it.signer),
            Self::Tombstone(it) => Some(it.signer),
            Self::Operator(it) => Some(it.signer),
            Self::Beacon(it) => Some(it.signer),
            Self::Root(_) | Self::Grant(_) | Self::CutOff(_) | Self::Handover(_) => None,
        }
    }

    /// The signer's count when it signed this; zero where none counts.
    pub fn serial(&self) -> u64 {
        match self {
            Self::Member(it) => it.serial,
            Self::Tombstone(it) => it.serial,
            Self::Operator(it) => it.serial,
            Self::Beacon(it) => it.serial,
            Self::Root(_) | Self::Grant(_) | Self::CutOff(_) | Self::Handover(_) => 0,
        }
    }
}

/// A statement with the envelope it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub statement: Statement,
    /// As it was signed.
    pub envelope: Envelope,
    /// The envelope's digest.
    pub digest: Digest,
}

impl Signed {
    /// Reads an envelope; says nothing about its signatures.
    ///
    /// # Errors
    /// As [`Statement::read`].
    pub fn read(envelope: Envelope) -> Result<Self, Refusal> {
        Ok(Self { statement: Statement::read(&envelope)?, digest: envelope.digest(), envelope })
    }
}

/// A member record with the envelope it came in.
#[derive(Clone, Debug)]
pub struct SignedRecord {
    member: Arc<Member>,
    signed: Arc<Signed>,
}

impl SignedRecord {
    /// The record that counts for the node that vouches for `id`.
    ///
    /// # Errors
    /// Why none does.
    pub fn of(members: &crate::Members, id: &types::SpiffeId) -> Result<Self, Refusal> {
        let domain = id.domain().ok_or_else(|| {
            Reason::SvidOutOfScope.because(format!("{id} is an operator's, and no node vouches for it"))
        })?;
        let (member, signed) = members.record(domain).ok_or_else(|| members.why_not(domain))?;
        Ok(Self { member: Arc::clone(member), signed: Arc::clone(signed) })
    }

    /// What it says.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// As it was signed.
    pub fn envelope(&self) -> &Envelope {
        &self.signed.envelope
    }
}

/// What every reader below needs: text, digests and times out of the wire's forms.
mod field {
    use std::fmt::Display;
    use std::str::FromStr;

    use super::{Digest, Reason, Refusal, SignerId, Timestamp};

    pub(super) fn invalid(detail: impl Into<String>) -> Refusal {
        Reason::RecordInvalid.because(detail)
    }

    pub(super) fn name<T: FromStr<Err: Display>>(text: &str) -> Result<T, Refusal> {
        text.parse().map_err(|err: T::Err| invalid(err.to_string()))
    }

    pub(super) fn digest(bytes: &[u8], what: &str) -> Result<Digest, Refusal> {
        Digest::from_slice(bytes).ok_or_else(|| invalid(format!("{what} has {} bytes, not 32", bytes.len())))
    }

    pub(super) fn signer(bytes: &[u8]) -> Result<SignerId, Refusal> {
        digest(bytes, "the signer").map(SignerId)
    }

    /// Beyond the year 9999 certificates end (RFC 5280 §4.1.2.5), and seconds do not fit milliseconds for ever.
    pub(super) fn at(secs: u64) -> Result<Timestamp, Refusal> {
        const YEAR_9999_S: u64 = 253_402_300_799;
        if secs > YEAR_9999_S {
            return Err(invalid("a time lies beyond the year 9999"));
        }
        Ok(Timestamp::from_secs(secs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Name;
    use proto::identity::v1;

    use super::*;
    use crate::testing::{ToyKeys, World, sealed};

    fn one_of_each() -> Vec<Envelope> {
        let mut world = World::new();
        let root = world.members.root().clone();
        let all = vec![
            sealed(&root, &ToyKeys::root(1), &types::KeySlot::ROOT),
            world.grants("s3", &[Right::Members], "svc/a,svc/b"),
            world.joins("s1", "pi"),
            world.hands_over("pi", "pi", "new"),
            world.signs_operator("s1", "ada", Some(Role::View)),
            world.signs_beacon("s1"),
            world.revokes("s1", "pi"),
        ];
        let cut = world.cuts_off("s2", &[&all[2], &all[4]]);
        all.into_iter().chain([cut]).collect()
    }

    fn written(statement: &Statement) -> Vec<u8> {
        match statement {
            Statement::Root(it) => it.encode(),
            Statement::Grant(it) => it.encode(),
            Statement::CutOff(it) => it.encode(),
            Statement::Member(it) => it.encode(),
            Statement::Tombstone(it) => it.encode(),
            Statement::Handover(it) => it.encode(),
            Statement::Operator(it) => it.encode(),
            Statement::Beacon(it) => it.encode(),
        }
    }

    #[test]
    fn domains_are_the_messages_full_names() {
        assert_eq!(Root::DOMAIN, v1::Root::full_name());
        assert_eq!(Grant::DOMAIN, v1::Grant::full_name());
        assert_eq!(CutOff::DOMAIN, v1::CutOff::full_name());
        assert_eq!(Member::DOMAIN, v1::MemberRecord::full_name());
        assert_eq!(Tombstone::DOMAIN, v1::Tombstone::full_name());
        assert_eq!(Handover::DOMAIN, v1::Handover::full_name());
        assert_eq!(Operator::DOMAIN, v1::OperatorRecord::full_name());
        assert_eq!(Beacon::DOMAIN, v1::Beacon::full_name());
    }

    /// Found by fuzzing: such a time was read as another.
    #[test]
    fn a_time_beyond_the_year_9999_is_refused() {
        let key = [0; 32].to_vec();
        let mut wire = v1::Tombstone {
            mesh: "home.mesh".to_owned(),
            keys: vec![key.clone(), key.clone()],
            node: "pi".to_owned(),
            signer: key,
            issued_at_s: 253_402_300_799,
            ..v1::Tombstone::default()
        };
        assert!(Tombstone::read(&wire).is_ok());
        wire.issued_at_s += 1;
        assert!(Tombstone::read(&wire).is_err());
    }

    proptest! {
        #[test]
        fn reading_hostile_payloads_never_panics(
            kind in 0usize..8,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let domain = [
                Root::DOMAIN, Grant::DOMAIN, CutOff::DOMAIN, Member::DOMAIN,
                Tombstone::DOMAIN, Handover::DOMAIN, Operator::DOMAIN, Beacon::DOMAIN,
            ][kind];
            let envelope = Envelope { domain: domain.to_owned(), payload, signatures: Vec::new() };
            let _ = Statement::read(&envelope);
        }

        #[test]
        fn an_altered_statement_is_refused_or_says_the_same_when_written_again(
            kind in 0usize..8,
            altered in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut envelope = one_of_each().swap_remove(kind);
            for (at, byte) in altered {
                let at = at.index(envelope.payload.len());
                envelope.payload[at] = byte;
            }
            if let Ok(read) = Statement::read(&envelope) {
                envelope.payload = written(&read);
                prop_assert_eq!(Statement::read(&envelope), Ok(read));
            }
        }
    }
}
