//! Which services run where, who may call whom, and how each is started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config::RawService;
use crate::shop::Role;

use super::fleet::{Node, Plan};

/// What serves, in the order in which it is shown.
pub(super) const SERVING: [Role; 6] =
    [Role::Frontend, Role::Catalog, Role::Cart, Role::Checkout, Role::Payment, Role::Shipping];
/// Nodes on which each runs.
pub(super) const REPLICAS: usize = 2;
/// The node whose customers buy: the first, which lives on.
pub(super) const CUSTOMERS: usize = 0;

/// Whom a part of the shop calls. All else is refused.
const fn calls(role: Role) -> &'static [Role] {
    match role {
        Role::Load => &[Role::Frontend],
        Role::Frontend => &[Role::Catalog, Role::Cart, Role::Checkout],
        Role::Checkout => &[Role::Cart, Role::Payment, Role::Shipping],
        Role::Catalog | Role::Cart | Role::Payment | Role::Shipping => &[],
    }
}

/// Nodes on which a part runs: two that differ, so that the loss of one loses no service.
pub(super) fn nodes_of(role: Role, n_nodes: usize) -> [usize; REPLICAS] {
    match SERVING.iter().position(|it| *it == role) {
        Some(idx) => [(REPLICAS * idx) % n_nodes, (REPLICAS * idx + 1) % n_nodes],
        None => [CUSTOMERS, n_nodes - 1],
    }
}

/// The node to be killed: it serves customers at the front, is not the first, and has no customers in use.
pub(super) fn victim(n_nodes: usize) -> usize {
    nodes_of(Role::Frontend, n_nodes).into_iter().find(|idx| *idx != CUSTOMERS).unwrap_or(n_nodes - 1)
}

/// What the nodes are given. `programs` is the folder with a file for each part.
pub(super) fn plans(n_nodes: usize, programs: &Path) -> Vec<Plan> {
    let plan = |node: usize| {
        let roles = SERVING.into_iter().chain([Role::Load]);
        let here: Vec<_> = roles.filter(|role| nodes_of(*role, n_nodes).contains(&node)).collect();
        Plan {
            services: here.iter().map(|role| service(*role, programs)).collect(),
            scope: here.iter().map(|role| format!("svc/{}", role.name())).collect(),
        }
    };
    (0..n_nodes).map(plan).collect()
}

fn service(role: Role, programs: &Path) -> RawService {
    let callers = SERVING.into_iter().chain([Role::Load]).filter(|it| calls(*it).contains(&role));
    // Port 0: a free one is chosen.
    let listen = (role != Role::Load).then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    RawService {
        name: role.name().to_owned(),
        listen,
        selectors: vec![format!("exe:{}", program(role, programs).display())],
        allow: callers.map(|it| format!("svc/{}", it.name())).collect(),
        ..RawService::default()
    }
}

/// The file that a part runs from, by which its node knows it.
pub(super) fn program(role: Role, programs: &Path) -> PathBuf {
    programs.join(role.name())
}

/// The arguments of a part on a node.
pub(super) fn arguments(role: Role, node: &Node) -> Vec<String> {
    let mut arguments = vec!["shop".to_owned(), role.name().to_owned()];
    arguments.extend(["--mesh".to_owned(), format!("http://{}", node.outbound)]);
    arguments.extend(["--node".to_owned(), node.name.clone()]);
    let listen = node.services.iter().find(|it| it.name == role.name()).and_then(|it| it.listen);
    arguments.extend(listen.into_iter().flat_map(|listen| ["--listen".to_owned(), listen.to_string()]));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_is_needed_by_any_service() {
        for n_nodes in 3..=20 {
            let victim = victim(n_nodes);
            assert!(victim != CUSTOMERS && victim < n_nodes);
            for role in SERVING {
                let [one, other] = nodes_of(role, n_nodes);
                assert!(one != other && one < n_nodes && other < n_nodes, "{role:?} of {n_nodes}");
            }
            let plans = plans(n_nodes, Path::new("/bin"));
            let n_services: usize = plans.iter().map(|plan| plan.services.len()).sum();
            assert_eq!(n_services, (SERVING.len() + 1) * REPLICAS);
        }
    }

    #[test]
    fn only_who_calls_may_call() {
        let allow = |role| service(role, Path::new("/bin")).allow;
        assert_eq!(allow(Role::Frontend), ["svc/load"]);
        assert_eq!(allow(Role::Cart), ["svc/frontend", "svc/checkout"]);
        assert_eq!(allow(Role::Payment), ["svc/checkout"]);
        assert!(allow(Role::Load).is_empty());
    }
}
