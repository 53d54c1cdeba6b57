//! Sends parcels, in name only.

use tonic::{Request, Response, Status};

use proto::shop::v1::shipping_service_server::ShippingService;
use proto::shop::v1::{ShipRequest, ShipResponse};

use super::Site;
use super::call::{number, work};

/// The shipping.
pub(super) struct Shipping(pub(super) Site);

#[tonic::async_trait]
impl ShippingService for Shipping {
    async fn ship(&self, request: Request<ShipRequest>) -> Result<Response<ShipResponse>, Status> {
        work().await;
        if request.into_inner().items.is_empty() {
            return Err(Status::invalid_argument("nothing to send: put something into the cart"));
        }
        Ok(Response::new(ShipResponse { parcel: number("parcel"), stop: Some(self.0.stop()) }))
    }
}
