//! HPACK (RFC 7541): header blocks in, fields out, and back.
//!
//! Fields are slices of an arena that the caller owns and uses again; nothing is allocated for a block once the
//! arena and the tables have grown. Made for a relay: what is the same from call to call costs a comparison each
//! way, what differs is copied. It does not judge whether fields make a message; `message` does.

mod blocks;
mod decoder;
mod encoder;
mod fields;
mod huffman;
mod literal;
mod name;
mod recent;
mod table;

pub use self::decoder::{Decoder, Fit};
pub use self::encoder::Encoder;
pub use self::fields::{Field, Fields};
pub use self::huffman::{decode as huffman_decode, encode as huffman_encode};
pub use self::name::Name;

/// What an entry of a dynamic table costs beside its bytes, and a field in the size of a list (RFC 7541, section
/// 4.1; RFC 9113, section 6.5.2).
pub const FIELD_OVERHEAD: usize = 32;

/// A header block cannot be decoded. The decoder is of no use any more: the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The block ends within a field.
    #[error("a header block ends within a field")]
    Truncated,
    /// A number has more digits than any that is allowed.
    #[error("a number in a header block is too large")]
    Number,
    /// An index that neither table has.
    #[error("a header block names an entry that is in no table")]
    Index,
    /// A Huffman string with a wrong end, or with the symbol that ends it.
    #[error("a header block has a broken Huffman string")]
    Huffman,
    /// The table's size is set to more than was allowed, after the first field, or not at all though it must.
    #[error("a header block does not set the size of the dynamic table as it must")]
    SizeUpdate,
}

#[cfg(test)]
mod tests;
