//! Who may call a service: a list of allowances; what is not allowed is refused.
//!
//! Callers are known by verified identity. A service is meant on every node of the mesh: which node may speak
//! for it is decided by that node's scope, not here.

use std::fmt;
use std::str::FromStr;

use types::{NodeName, Reason, Refusal, ServiceName, SpiffeId, Workload};

use crate::error::Error;

/// One line of `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `*`: every service and node of the mesh, but no operator.
    Anyone,
    /// `svc/NAME`: that service on any node.
    Service(ServiceName),
    /// `node/NAME`: that node itself.
    Node(NodeName),
    /// `operator/NAME`: that operator.
    Operator(ServiceName),
    /// `spiffe://…`: exactly this identity.
    Id(SpiffeId),
}

/// Who may call one service. The default allows nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The lines, in their order.
    pub allow: Vec<Rule>,
}

impl Policy {
    /// Whether `caller` may call `service`.
    ///
    /// # Errors
    /// [`types::Reason::PolicyDenied`], naming the line that would allow it.
    pub fn check(&self, service: &ServiceName, caller: &SpiffeId) -> Result<(), Refusal> {
        if self.allow.iter().any(|rule| rule.matches(caller)) {
            return Ok(());
        }
        let line = Rule::naming(caller);
        Err(Reason::PolicyDenied.because(format!(
            "{caller} may not call `{service}`; `allow = [\"{line}\"]` for service `{service}` would let it"
        )))
    }
}

impl Rule {
    /// The rule that a person would write to allow `caller`.
    fn naming(caller: &SpiffeId) -> Self {
        match caller {
            SpiffeId::Workload { domain, workload: Workload::Node } => Self::Node(domain.node().clone()),
            SpiffeId::Workload { workload: Workload::Service(name), .. } => Self::Service(name.clone()),
            SpiffeId::Operator { name, .. } => Self::Operator(name.clone()),
        }
    }

    fn matches(&self, caller: &SpiffeId) -> bool {
        match (self, caller) {
            (Self::Anyone, SpiffeId::Workload { .. }) => true,
            (Self::Service(name), SpiffeId::Workload { workload: Workload::Service(service), .. }) => {
                name == service
            }
            (Self::Node(name), SpiffeId::Workload { domain, workload: Workload::Node }) => {
                name == domain.node()
            }
            (Self::Operator(name), SpiffeId::Operator { name: operator, .. }) => name == operator,
            (Self::Id(id), caller) => id == caller,
            _ => false,
        }
    }
}

impl FromStr for Rule {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let rule = match text.split_once('/') {
            None if text == "*" => Some(Self::Anyone),
            Some(("svc", name)) => name.parse().ok().map(Self::Service),
            Some(("node", name)) => name.parse().ok().map(Self::Node),
            Some(("operator", name)) => name.parse().ok().map(Self::Operator),
            Some(("spiffe:", _)) => text.parse().ok().map(Self::Id),
            _ => None,
        };
        rule.ok_or_else(|| Error::Rule(text.chars().take(120).collect()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::Service(name) => write!(f, "svc/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRONTEND: &str = "spiffe://pi.home.mesh/svc/frontend";
    const NODE: &str = "spiffe://pi.home.mesh/node";
    const ADA: &str = "spiffe://home.mesh/operator/ada";

    fn check_call(allow: &[&str], caller: &str) -> Result<(), Refusal> {
        let allow = allow.iter().map(|line| line.parse().expect("a rule")).collect();
        Policy { allow }.check(&"orders".parse().expect("a name"), &caller.parse().expect("an identity"))
    }

    #[test]
    fn only_what_is_allowed_passes() {
        #[track_caller]
        fn check(line: &str, passing: &[&str]) {
            for caller in [FRONTEND, NODE, ADA] {
                assert_eq!(check_call(&[line], caller).is_ok(), passing.contains(&caller), "{caller}");
            }
        }
        check("*", &[FRONTEND, NODE]);
        check("svc/frontend", &[FRONTEND]);
        check("svc/orders", &[]);
        check("svc/ada", &[]);
        check("node/pi", &[NODE]);
        check("node/frontend", &[]);
        check("operator/ada", &[ADA]);
        check(FRONTEND, &[FRONTEND]);
        check("spiffe://nas.home.mesh/svc/frontend", &[]);
        assert!(check_call(&[], FRONTEND).is_err());
        assert!(check_call(&["node/nas", "svc/frontend"], FRONTEND).is_ok());
    }

    #[test]
    fn a_refusal_names_a_line_that_would_allow() {
        for (caller, line) in [(FRONTEND, "svc/frontend"), (NODE, "node/pi"), (ADA, "operator/ada")] {
            let refusal = check_call(&[], caller).expect_err("nobody is allowed");
            assert_eq!(refusal.reason, Reason::PolicyDenied);
            let expected = format!(
                "{caller} may not call `orders`; `allow = [\"{line}\"]` for service `orders` would let it"
            );
            assert_eq!(refusal.detail, expected);
            assert!(check_call(&[line], caller).is_ok());
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_forms() {
        for text in
            ["", "**", "svc", "svc/", "svc/A", "svc/a/b", "node/svc", "frontend", "spiffe://x", "user/a"]
        {
            let error = text.parse::<Rule>().expect_err("no rule");
            assert!(error.to_string().contains("use *, svc/NAME"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_prints_as_it_was(text in r"(\*|svc/|node/|operator/|spiffe://pi\.home\.mesh/(node|svc/))?[a-c/*-]{0,4}") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string(), text);
            }
        }
    }
}
