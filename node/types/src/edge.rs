//! Who calls whom: the key under which traffic is counted.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::spiffe::SpiffeId;

/// One end of an edge: never an address with a port, which would leak labels into what is learned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// A node or service of the mesh.
    Member(SpiffeId),
    /// A host outside of it.
    Host(IpAddr),
}

/// An edge of the traffic graph, from who opened the connection to who accepted it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EdgeKey {
    /// Who opens connections and sends requests.
    pub caller: Party,
    /// Who accepts and answers them.
    pub callee: Party,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(id) => id.fmt(f),
            Self::Host(addr) => addr.fmt(f),
        }
    }
}

impl fmt::Display for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.caller, self.callee)
    }
}
