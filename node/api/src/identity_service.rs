//! IdentityService: who belongs, and who may change that.

use tonic::{Request, Response, Status};

use identity::Members;
use identity::join::TTL_MAX;
use proto::identity::v1 as wire;
use types::{Algorithm, NodeName, PublicKey, Reason, Refusal, ServiceName};

use crate::convert;
use crate::mesh_service::{Api, asker, refuse};
use crate::node::Authority;
use crate::watching::{Lists, latest};

/// How long an invitation holds if that is not said, in seconds.
const INVITATION_S: u64 = 900;
/// Most bytes of both files of certificates together: stock clients take messages of 4 MiB.
const ANCHORS_LEN_MAX: usize = 3 << 20;

#[tonic::async_trait]
impl wire::identity_service_server::IdentityService for Api {
    type WatchMembersStream = Lists<wire::WatchMembersResponse>;

    async fn list_members(
        &self,
        _: Request<wire::ListMembersRequest>,
    ) -> Result<Response<wire::ListMembersResponse>, Status> {
        let members = convert::members(&self.node.members().borrow());
        Ok(Response::new(wire::ListMembersResponse { members }))
    }

    async fn watch_members(
        &self,
        _: Request<wire::WatchMembersRequest>,
    ) -> Result<Response<Self::WatchMembersStream>, Status> {
        let convert = |map: &Members| wire::WatchMembersResponse { members: convert::members(map) };
        Ok(Response::new(latest(self.node.members(), self.stop.clone(), convert)))
    }

    async fn create_invitation(
        &self,
        request: Request<wire::CreateInvitationRequest>,
    ) -> Result<Response<wire::CreateInvitationResponse>, Status> {
        let by = asker(&request)?;
        let request = request.into_inner();
        let node = convert::parse("node", &request.node).map_err(refuse)?;
        let scope = convert::scope("scope", &request.scope).map_err(refuse)?;
        let ttl = convert::ttl(request.ttl_s, INVITATION_S, 1..=TTL_MAX.as_secs()).map_err(refuse)?;
        let token = self.node.invite(by, node, scope, ttl).await.map_err(refuse)?;
        Ok(Response::new(wire::CreateInvitationResponse { token }))
    }

    async fn update_scope(
        &self,
        request: Request<wire::UpdateScopeRequest>,
    ) -> Result<Response<wire::UpdateScopeResponse>, Status> {
        let by = asker(&request)?;
        let request = request.into_inner();
        let node = convert::parse("node", &request.node).map_err(refuse)?;
        let add = convert::scope("add", &request.add).map_err(refuse)?;
        let remove = convert::scope("remove", &request.remove).map_err(refuse)?;
        let scope = self.node.change_scope(by, node, add, remove).await.map_err(refuse)?;
        Ok(Response::new(wire::UpdateScopeResponse { scope: scope.items() }))
    }

    async fn revoke_member(
        &self,
        request: Request<wire::RevokeMemberRequest>,
    ) -> Result<Response<wire::RevokeMemberResponse>, Status> {
        let by = asker(&request)?;
        let request = request.into_inner();
        let node = convert::parse("node", &request.node).map_err(refuse)?;
        let note = convert::note(request.note).map_err(refuse)?;
        self.node.revoke(by, node, note).await.map_err(refuse)?;
        Ok(Response::new(wire::RevokeMemberResponse {}))
    }

    async fn set_operator(
        &self,
        request: Request<wire::SetOperatorRequest>,
    ) -> Result<Response<wire::SetOperatorResponse>, Status> {
        let by = asker(&request)?;
        let request = request.into_inner();
        let name: ServiceName = convert::parse("name", &request.name).map_err(refuse)?;
        let role = convert::role(request.role).map_err(refuse)?;
        let key = operator_key(&name, &request.p256, &self.node.members().borrow()).map_err(refuse)?;
        self.node.set_operator(by, name, role, key).await.map_err(refuse)?;
        Ok(Response::new(wire::SetOperatorResponse {}))
    }

    async fn list_operators(
        &self,
        _: Request<wire::ListOperatorsRequest>,
    ) -> Result<Response<wire::ListOperatorsResponse>, Status> {
        let operators = self.node.members().borrow().operators().map(convert::operator).collect();
        Ok(Response::new(wire::ListOperatorsResponse { operators }))
    }

    async fn get_trust_anchors(
        &self,
        request: Request<wire::GetTrustAnchorsRequest>,
    ) -> Result<Response<wire::GetTrustAnchorsResponse>, Status> {
        let wanted = request.into_inner().nodes;
        let wanted: Result<Vec<NodeName>, _> =
            wanted.iter().map(|name| convert::parse("nodes", name)).collect();
        let wanted = wanted.map_err(refuse)?;
        let known = self.node.authorities().await.map_err(refuse)?;
        let answer = anchors(&known, &wanted, &self.node.members().borrow()).map_err(refuse)?;
        Ok(Response::new(answer))
    }
}

/// The key that is given, or the one on record.
fn operator_key(name: &ServiceName, p256: &[u8], members: &Members) -> Result<PublicKey, Refusal> {
    if p256.is_empty() {
        let unknown = || Reason::OperatorUnknown.because(format!("no operator `{name}` is known"));
        let known = members.operators().find(|it| it.name == *name).ok_or_else(unknown)?;
        return Ok(known.key.clone());
    }
    PublicKey::new(Algorithm::EcdsaP256, p256)
        .map_err(|err| Reason::ArgumentInvalid.because(format!("`p256`: {err}")))
}

/// The files for those among `known` that are wanted and members still.
fn anchors(
    known: &[Authority],
    wanted: &[NodeName],
    members: &Members,
) -> Result<wire::GetTrustAnchorsResponse, Refusal> {
    let is_member = |it: &&Authority| members.iter().any(|member| *member.node() == it.node);
    let is_wanted = |it: &&Authority| wanted.is_empty() || wanted.contains(&it.node);
    let mut answer = wire::GetTrustAnchorsResponse::default();
    for it in known.iter().filter(is_wanted).filter(is_member) {
        answer.rustls_pem.extend(it.rustls.iter().map(tls::pem::certificate));
        answer.stock_pem.extend(it.stock.iter().map(tls::pem::certificate));
        answer.nodes.push(it.node.to_string());
        if answer.rustls_pem.len() + answer.stock_pem.len() > ANCHORS_LEN_MAX {
            let detail =
                format!("the certificates have more than {ANCHORS_LEN_MAX} bytes: name fewer `nodes`");
            return Err(Reason::Overloaded.because(detail));
        }
    }
    if let Some(missing) = wanted.iter().find(|name| !answer.nodes.iter().any(|it| it == name.as_str())) {
        return Err(Reason::MemberUnknown.because(format!("no certificates of `{missing}` are known here")));
    }
    Ok(answer)
}
