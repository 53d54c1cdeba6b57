//! Names of meshes, nodes and services, checked once when they enter.
//!
//! A label follows RFC 1123 §2.1 in lower case. The mesh name is DNS-shaped so that stock TLS verifiers can
//! confine an authority by DNS name constraints; a node's trust domain is `NODE.MESH`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest label, RFC 1035 §2.3.4.
pub const LABEL_LEN_MAX: usize = 63;
/// Longest mesh name: `SERVICE.NODE.MESH` then still fits the 253 bytes of a DNS name.
pub const MESH_LEN_MAX: usize = 253 - 2 * (LABEL_LEN_MAX + 1);
/// The node name that stands for "whichever node": `SERVICE.svc.MESH` is the name of a service in the mesh.
pub const RESERVED_NODE: &str = "svc";

/// A text is not a name. Nothing was created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text breaks the rule for labels.
    #[error("`{0}` is not a valid label: use 1 to 63 of a-z, 0-9 and `-`, neither first nor last a `-`")]
    Label(String),
    /// The mesh name is too long or has one label only.
    #[error(
        "`{0}` is not a valid mesh name: use two to eight labels and at most {MESH_LEN_MAX} bytes, such as `home.mesh`"
    )]
    Mesh(String),
    /// The node name is `svc`.
    #[error("the node name `svc` is reserved for service names: choose another")]
    Reserved,
    /// The text is not `NODE.MESH`.
    #[error("`{0}` is not a trust domain: it has the form NODE.MESH, such as `pi.home.mesh`")]
    TrustDomain(String),
}

fn check_label(text: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = (1..=LABEL_LEN_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label { Ok(()) } else { Err(Error::Label(text.chars().take(80).collect())) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                let check: fn(&str) -> Result<(), Error> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a whole mesh, such as `home.mesh`.
    MeshName,
    |text| {
        let labels = text.split('.').count();
        if text.len() > MESH_LEN_MAX || !(2..=8).contains(&labels) {
            return Err(Error::Mesh(text.chars().take(80).collect()));
        }
        text.split('.').try_for_each(check_label)
    }
}

name! {
    /// The name of one machine in its mesh, such as `pi`.
    NodeName,
    |text| if text == RESERVED_NODE { Err(Error::Reserved) } else { check_label(text) }
}

name! {
    /// The name of a service, such as `orders`.
    ServiceName,
    check_label
}

/// A node's SPIFFE trust domain, `NODE.MESH`: each node is the authority of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain {
    node: NodeName,
    mesh: MeshName,
}

impl TrustDomain {
    /// The trust domain of `node` in `mesh`.
    pub const fn new(node: NodeName, mesh: MeshName) -> Self {
        Self { node, mesh }
    }

    /// The node's name.
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// The mesh the node belongs to.
    pub const fn mesh(&self) -> &MeshName {
        &self.mesh
    }
}

impl FromStr for TrustDomain {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (node, mesh) =
            text.split_once('.').ok_or_else(|| Error::TrustDomain(text.chars().take(80).collect()))?;
        Ok(Self { node: node.parse()?, mesh: mesh.parse()? })
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.to_string()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.mesh)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_what_dns_accepts_in_lower_case() {
        #[track_caller]
        fn check(text: &str, is_node: bool) {
            assert_eq!(text.parse::<NodeName>().is_ok(), is_node, "{text}");
        }
        check("pi", true);
        check("rack-7", true);
        check("0", true);
        check(&"a".repeat(63), true);
        check(&"a".repeat(64), false);
        check("", false);
        check("-a", false);
        check("a-", false);
        check("Pi", false);
        check("p.i", false);
        check("pí", false);
        check("*", false);
    }

    #[test]
    fn svc_is_no_node_but_may_be_a_service() {
        assert_eq!("svc".parse::<NodeName>(), Err(Error::Reserved));
        assert!("svc".parse::<ServiceName>().is_ok());
        assert_eq!("svc.home.mesh".parse::<TrustDomain>(), Err(Error::Reserved));
    }

    #[test]
    fn a_trust_domain_is_a_node_in_a_mesh() {
        let domain: TrustDomain = "pi.home.mesh".parse().expect("a valid name");
        assert_eq!((domain.node().as_str(), domain.mesh().as_str()), ("pi", "home.mesh"));
        assert_eq!(domain.to_string(), "pi.home.mesh");
        assert!("home.mesh".parse::<TrustDomain>().is_err());
        assert!("pi".parse::<TrustDomain>().is_err());
        assert!("pi..mesh".parse::<TrustDomain>().is_err());
    }

    #[test]
    fn the_longest_service_host_name_fits_dns() {
        let mesh = format!("{}.m", "a.".repeat(6) + &"b".repeat(63));
        assert!(mesh.parse::<MeshName>().is_ok(), "{mesh}");
        let long = format!("{}.{}", "a".repeat(63), "b".repeat(MESH_LEN_MAX - 63));
        assert!(long.parse::<MeshName>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_read_prints_as_it_was(text in "[a-c0.-]{0,12}|.{0,80}|[a-z0-9.-]{50,140}") {
            fn check<T: FromStr + fmt::Display>(text: &str) -> bool {
                text.parse::<T>().map_or(true, |name| name.to_string() == text)
            }
            prop_assert!(check::<MeshName>(&text) && check::<NodeName>(&text));
            prop_assert!(check::<ServiceName>(&text) && check::<TrustDomain>(&text));
        }
    }
}
