//! SPIFFE IDs of this mesh (SPIFFE-ID specification, §2): who a certificate speaks for.
//!
//! Three forms exist: `spiffe://NODE.MESH/node`, `spiffe://NODE.MESH/svc/SERVICE` and, for people,
//! `spiffe://MESH/operator/NAME`. Everything else is refused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{self, MeshName, NodeName, ServiceName, TrustDomain};

/// Longest SPIFFE ID in bytes, SPIFFE-ID §2.3.
pub const ID_LEN_MAX: usize = 2048;

/// What a node's authority may vouch for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// The node itself.
    Node,
    /// A service that runs on it.
    Service(ServiceName),
}

/// Whom a certificate names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SpiffeId {
    /// A node or a service on it.
    Workload {
        /// The node whose authority vouches.
        domain: TrustDomain,
        /// The node itself or one of its services.
        workload: Workload,
    },
    /// A person or a tool that acts for one. The name follows the rule for labels.
    Operator {
        /// The mesh that knows the operator.
        mesh: MeshName,
        /// The operator's name.
        name: ServiceName,
    },
}

/// A text is not a SPIFFE ID of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text has none of the three forms.
    #[error(
        "`{0}` is not an identity of a mesh: use spiffe://NODE.MESH/node, spiffe://NODE.MESH/svc/SERVICE or spiffe://MESH/operator/NAME"
    )]
    Form(String),
    /// A part of it is not a name.
    #[error("failed to read the SPIFFE ID")]
    Name(#[from] name::Error),
}

impl SpiffeId {
    /// The node of `domain` itself.
    pub const fn node(domain: TrustDomain) -> Self {
        Self::Workload { domain, workload: Workload::Node }
    }

    /// `service` as it runs on the node of `domain`.
    pub const fn service(domain: TrustDomain, service: ServiceName) -> Self {
        Self::Workload { domain, workload: Workload::Service(service) }
    }

    /// The mesh it belongs to.
    pub const fn mesh(&self) -> &MeshName {
        match self {
            Self::Workload { domain, .. } => domain.mesh(),
            Self::Operator { mesh, .. } => mesh,
        }
    }

    /// The trust domain whose authority must have signed; `None` for an operator.
    pub const fn domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Workload { domain, .. } => Some(domain),
            Self::Operator { .. } => None,
        }
    }

    /// DNS names that stock verifiers may know it by: `NODE.MESH`, or `SERVICE.NODE.MESH` and
    /// `SERVICE.svc.MESH`; none for an operator.
    pub fn dns_names(&self) -> Vec<String> {
        match self {
            Self::Workload { domain, workload: Workload::Node } => vec![domain.to_string()],
            Self::Workload { domain, workload: Workload::Service(service) } => {
                vec![format!("{service}.{domain}"), service_host(service, domain.mesh())]
            }
            Self::Operator { .. } => Vec::new(),
        }
    }
}

/// The DNS name of a service wherever it runs, `SERVICE.svc.MESH`.
pub fn service_host(service: &ServiceName, mesh: &MeshName) -> String {
    format!("{service}.{}.{mesh}", name::RESERVED_NODE)
}

impl FromStr for SpiffeId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let form = || Error::Form(text.chars().take(120).collect());
        if text.len() > ID_LEN_MAX {
            return Err(form());
        }
        let (host, path) =
            text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(form)?;
        match path.split_once('/') {
            None if path == "node" => Ok(Self::node(host.parse()?)),
            Some(("svc", service)) => Ok(Self::service(host.parse()?, service.parse()?)),
            Some(("operator", name)) => Ok(Self::Operator { mesh: host.parse()?, name: name.parse()? }),
            _ => Err(form()),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload { domain, workload: Workload::Node } => write!(f, "spiffe://{domain}/node"),
            Self::Workload { domain, workload: Workload::Service(name) } => {
                write!(f, "spiffe://{domain}/svc/{name}")
            }
            Self::Operator { mesh, name } => write!(f, "spiffe://{mesh}/operator/{name}"),
        }
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SpiffeId {
    /// The node that vouches, if any.
    pub fn node_name(&self) -> Option<&NodeName> {
        self.domain().map(TrustDomain::node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_back_what_it_prints_and_nothing_else() {
        #[track_caller]
        fn check(text: &str, is_id: bool) {
            match text.parse::<SpiffeId>() {
                Ok(id) => assert!(is_id && id.to_string() == text, "{text} read as {id}"),
                Err(err) => assert!(!is_id, "{text}: {err}"),
            }
        }
        check("spiffe://pi.home.mesh/node", true);
        check("spiffe://pi.home.mesh/svc/api", true);
        check("spiffe://home.mesh/operator/ada", true);
        check("spiffe://pi.home.mesh/", false);
        check("spiffe://pi.home.mesh", false);
        check("spiffe://pi.home.mesh/node/", false);
        check("spiffe://pi.home.mesh/svc/a/b", false);
        check("spiffe://pi.home.mesh/svc/..", false);
        check("spiffe://pi.home.mesh:443/node", false);
        check("spiffe://user@pi.home.mesh/node", false);
        check("SPIFFE://pi.home.mesh/node", false);
        check("https://pi.home.mesh/node", false);
    }

    #[test]
    fn a_service_answers_to_its_name_on_the_node_and_in_the_mesh() {
        let id: SpiffeId = "spiffe://pi.home.mesh/svc/api".parse().expect("a valid id");
        assert_eq!(id.dns_names(), ["api.pi.home.mesh", "api.svc.home.mesh"]);
    }

    proptest! {
        #[test]
        fn whatever_is_read_prints_as_it_was(
            text in "spiffe://[a-c.-]{0,12}/(node|svc/|operator/)[a-c./-]{0,4}|.{0,60}",
            at in 0usize..60,
            other: char,
        ) {
            let changed = text.chars().enumerate().map(|(n, c)| if n == at { other } else { c });
            for text in [changed.collect(), text.clone()] {
                if let Ok(id) = text.parse::<SpiffeId>() {
                    prop_assert_eq!(id.to_string(), text);
                }
            }
        }
    }
}
