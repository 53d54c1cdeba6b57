//! Accusations: signed words of one node that another did not answer.
//!
//! Death takes several independent accusers, and news of it passes through third parties, so each accuser
//! signs. An accusation holds for one incarnation: it cannot be used again once its subject has answered.

use proto::membership::v1 as wire;
use proto::{Message, Name};
use types::key::Unavailable;
use types::{Keys, PeerId, Reason, Refusal};

use crate::member::ShortId;
use crate::record::Signed;

/// Longest encoded charge in bytes.
pub(crate) const CHARGE_LEN_MAX: usize = 32;

/// One accusation. Well-formed; to be believed once [`Accusation::verify`] said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accusation {
    pub(crate) accuser: ShortId,
    pub(crate) subject: ShortId,
    pub(crate) incarnation: u64,
    pub(crate) signed: Signed,
}

impl Accusation {
    /// Accuses `subject` in the name of this node.
    ///
    /// # Errors
    /// If the node's key is not at hand.
    pub(crate) fn sign(
        accuser: ShortId,
        subject: ShortId,
        incarnation: u64,
        keys: &dyn Keys,
    ) -> Result<Self, Unavailable> {
        let charge = wire::Charge { subject: subject.0, incarnation };
        let signed = Signed::seal(&wire::Charge::full_name(), charge.encode_to_vec(), keys)?;
        Ok(Self { accuser, subject, incarnation, signed })
    }

    /// Reads an accusation.
    ///
    /// # Errors
    /// [`Reason::PacketMalformed`].
    pub(crate) fn from_parts(accuser: ShortId, signed: Signed) -> Result<Self, Refusal> {
        let malformed = || Reason::PacketMalformed.because("an accusation cannot be read");
        if signed.payload.len() > CHARGE_LEN_MAX {
            return Err(malformed());
        }
        let charge = wire::Charge::decode(&signed.payload[..]).map_err(|_| malformed())?;
        let subject = ShortId(charge.subject);
        Ok(Self { accuser, subject, incarnation: charge.incarnation, signed })
    }

    /// Checks that its accuser, whose peer id is `accuser`, signed it.
    ///
    /// # Errors
    /// [`Reason::SignatureInvalid`].
    pub(crate) fn verify(&self, accuser: PeerId, keys: &dyn Keys) -> Result<(), Refusal> {
        self.signed.open(&wire::Charge::full_name(), accuser, keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn an_accusation_holds_for_its_accuser_only() {
        let (one, two) = (testing::peer(1), testing::peer(2));
        let said = Accusation::sign(ShortId::of(one), ShortId(9), 5, &testing::keys(1)).expect("a key");
        assert_eq!(said.verify(one, &testing::keys(3)), Ok(()));
        let read = Accusation::from_parts(ShortId::of(two), said.signed).expect("well-formed");
        assert_eq!((read.subject, read.incarnation), (ShortId(9), 5));
        assert_eq!(read.verify(two, &testing::keys(3)).map_err(|r| r.reason), Err(Reason::SignatureInvalid));
    }

    #[test]
    fn a_head_is_no_accusation() {
        // The domain is signed too, so what was signed as one kind is none of another.
        let stolen =
            Signed::seal("sagemesh.membership.v1.Head", vec![9; 9], &testing::keys(1)).expect("a key");
        assert!(stolen.open(&wire::Charge::full_name(), testing::peer(1), &testing::keys(1)).is_err());
    }
}
