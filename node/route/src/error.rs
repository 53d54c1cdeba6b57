//! What can be wrong with what an operator wrote.

/// A setting cannot be used. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of the configuration.
    #[error("`{field}` is out of bounds: set it to {bounds}")]
    Bounds {
        /// The field.
        field: &'static str,
        /// What it may be.
        bounds: &'static str,
    },
    /// A line of `allow`.
    #[error(
        "`{0}` is no rule: use *, svc/NAME, node/NAME, operator/NAME or a SPIFFE ID such as spiffe://pi.home.mesh/svc/api"
    )]
    Rule(String),
}
