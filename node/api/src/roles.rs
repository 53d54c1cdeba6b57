//! Which role each call needs at least: one table, and nothing is callable that has no line.

use identity::Role;

/// What a caller must be at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// Whoever was let in.
    Anyone,
    /// One with this role or a greater one.
    Role(Role),
    /// A workload. Which one, the node attests.
    Workload,
}

const VIEW: Least = Least::Role(Role::View);
const ADMIN: Least = Least::Role(Role::Admin);

/// Every call by its path.
pub const TABLE: &[(&str, Least)] = &[
    ("/grpc.health.v1.Health/Check", Least::Anyone),
    ("/grpc.health.v1.Health/Watch", Least::Anyone),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Least::Anyone),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Least::Anyone),
    ("/sagemesh.identity.v1.IdentityService/CreateInvitation", ADMIN),
    ("/sagemesh.identity.v1.IdentityService/GetTrustAnchors", VIEW),
    ("/sagemesh.identity.v1.IdentityService/ListMembers", VIEW),
    ("/sagemesh.identity.v1.IdentityService/ListOperators", VIEW),
    ("/sagemesh.identity.v1.IdentityService/RevokeMember", ADMIN),
    ("/sagemesh.identity.v1.IdentityService/SetOperator", ADMIN),
    ("/sagemesh.identity.v1.IdentityService/UpdateScope", ADMIN),
    ("/sagemesh.identity.v1.IdentityService/WatchMembers", VIEW),
    ("/sagemesh.mesh.v1.MeshService/GetStatus", VIEW),
    ("/sagemesh.mesh.v1.MeshService/Leave", ADMIN),
    ("/sagemesh.mesh.v1.MeshService/ListPeers", VIEW),
    ("/sagemesh.mesh.v1.MeshService/Reload", ADMIN),
    ("/sagemesh.mesh.v1.MeshService/WatchPeers", VIEW),
    ("/sagemesh.service.v1.ServiceService/AddService", ADMIN),
    ("/sagemesh.service.v1.ServiceService/Deregister", Least::Workload),
    ("/sagemesh.service.v1.ServiceService/ExplainService", VIEW),
    ("/sagemesh.service.v1.ServiceService/ListServices", VIEW),
    ("/sagemesh.service.v1.ServiceService/RegisterService", Least::Workload),
    ("/sagemesh.service.v1.ServiceService/RemoveService", ADMIN),
    ("/sagemesh.service.v1.ServiceService/RenewLease", Least::Workload),
    ("/sagemesh.service.v1.ServiceService/WatchServices", VIEW),
];

/// What the call at `path` needs; `None` if there is no such call.
pub fn least(path: &str) -> Option<Least> {
    TABLE.iter().find(|(it, _)| *it == path).map(|(_, least)| *least)
}

/// The role's name, as people write it.
pub const fn name(role: Role) -> &'static str {
    match role {
        Role::View => "view",
        Role::Operate => "operate",
        Role::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn declared() -> BTreeSet<String> {
        let files = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("compiled with the program").file;
        let mut paths = BTreeSet::new();
        for file in &files {
            for service in &file.service {
                let methods = service.method.iter().map(|method| method.name());
                paths.extend(methods.map(|name| format!("/{}.{}/{name}", file.package(), service.name())));
            }
        }
        paths
    }

    #[test]
    fn every_call_of_ours_has_one_line_and_no_line_is_idle() {
        let declared = declared();
        // The demo's shop is no call of a node.
        let is_ours = |path: &&String| path.starts_with("/sagemesh.") && !path.starts_with("/sagemesh.shop.");
        let ours = declared.iter().filter(is_ours);
        for path in ours {
            assert!(least(path).is_some(), "{path} has no line");
        }
        for (path, _) in TABLE {
            assert!(declared.contains(*path) || path.starts_with("/grpc."), "{path} is declared nowhere");
        }
        let distinct: BTreeSet<_> = TABLE.iter().map(|(path, _)| *path).collect();
        assert_eq!(distinct.len(), TABLE.len());
    }

    #[test]
    fn what_changes_the_mesh_is_for_admins() {
        for (path, least) in TABLE.iter().filter(|(path, _)| path.starts_with("/sagemesh.")) {
            let call = path.rsplit('/').next().unwrap_or_default();
            let is_reading = ["List", "Watch", "Get", "Explain"].iter().any(|verb| call.starts_with(verb));
            assert_eq!(is_reading, *least == VIEW, "{path}");
        }
    }
}
