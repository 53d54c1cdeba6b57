//! ServiceService: what is offered, by whom, and why it fails.

use tonic::{Extensions, Request, Response, Status};

use proto::service::v1 as wire;
use types::Refusal;

use crate::convert;
use crate::mesh_service::{Api, asker, refuse};
use crate::node::{Registrant, Service};
use crate::origin::Origin;
use crate::watching::{Lists, latest};

/// How long a registration holds if its ttl is not given, and the bounds of one that is, in seconds.
const LEASE_S: u64 = 30;
const LEASE_BOUNDS_S: std::ops::RangeInclusive<u64> = 5..=3600;

#[tonic::async_trait]
impl wire::service_service_server::ServiceService for Api {
    type WatchServicesStream = Lists<wire::WatchServicesResponse>;

    async fn list_services(
        &self,
        _: Request<wire::ListServicesRequest>,
    ) -> Result<Response<wire::ListServicesResponse>, Status> {
        let services = services(&self.node.services().borrow());
        Ok(Response::new(wire::ListServicesResponse { services }))
    }

    async fn watch_services(
        &self,
        _: Request<wire::WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let convert = |list: &Vec<Service>| wire::WatchServicesResponse { services: services(list) };
        Ok(Response::new(latest(self.node.services(), self.stop.clone(), convert)))
    }

    async fn add_service(
        &self,
        request: Request<wire::AddServiceRequest>,
    ) -> Result<Response<wire::AddServiceResponse>, Status> {
        let by = asker(&request)?;
        let declaration = convert::declaration(request.into_inner().service).map_err(refuse)?;
        self.node.add_service(by, declaration).await.map_err(refuse)?;
        Ok(Response::new(wire::AddServiceResponse {}))
    }

    async fn remove_service(
        &self,
        request: Request<wire::RemoveServiceRequest>,
    ) -> Result<Response<wire::RemoveServiceResponse>, Status> {
        let by = asker(&request)?;
        let name = convert::parse("name", &request.into_inner().name).map_err(refuse)?;
        self.node.remove_service(by, name).await.map_err(refuse)?;
        Ok(Response::new(wire::RemoveServiceResponse {}))
    }

    async fn register_service(
        &self,
        request: Request<wire::RegisterServiceRequest>,
    ) -> Result<Response<wire::RegisterServiceResponse>, Status> {
        let caller = registrant(request.extensions()).map_err(refuse)?;
        let request = request.into_inner();
        let registration = convert::registration(request.service).map_err(refuse)?;
        let ttl = convert::ttl(request.ttl_s, LEASE_S, LEASE_BOUNDS_S).map_err(refuse)?;
        let lease = self.node.register(caller, registration, ttl).await.map_err(refuse)?;
        let (lease, ttl_s) = (lease.id.to_string(), lease.ttl.as_secs());
        Ok(Response::new(wire::RegisterServiceResponse { lease, ttl_s }))
    }

    async fn renew_lease(
        &self,
        request: Request<wire::RenewLeaseRequest>,
    ) -> Result<Response<wire::RenewLeaseResponse>, Status> {
        let caller = registrant(request.extensions()).map_err(refuse)?;
        let lease = request.into_inner().lease.parse().map_err(refuse)?;
        let lease = self.node.renew(caller, lease).await.map_err(refuse)?;
        Ok(Response::new(wire::RenewLeaseResponse { ttl_s: lease.ttl.as_secs() }))
    }

    async fn deregister(
        &self,
        request: Request<wire::DeregisterRequest>,
    ) -> Result<Response<wire::DeregisterResponse>, Status> {
        let caller = registrant(request.extensions()).map_err(refuse)?;
        let lease = request.into_inner().lease.parse().map_err(refuse)?;
        self.node.deregister(caller, lease).await.map_err(refuse)?;
        Ok(Response::new(wire::DeregisterResponse {}))
    }

    async fn explain_service(
        &self,
        request: Request<wire::ExplainServiceRequest>,
    ) -> Result<Response<wire::ExplainServiceResponse>, Status> {
        let name = convert::parse("name", &request.into_inner().name).map_err(refuse)?;
        let layers = self.node.explain(name).await.map_err(refuse)?;
        let layers = layers.into_iter().map(convert::layer).collect();
        Ok(Response::new(wire::ExplainServiceResponse { layers }))
    }
}

fn services(list: &[Service]) -> Vec<wire::Service> {
    list.iter().map(convert::service).collect()
}

/// Who calls, as the gate noted it.
fn registrant(extensions: &Extensions) -> Result<Registrant, Refusal> {
    Origin::of(extensions)?.registrant()
}
