//! Turns a cart into an order.

use tonic::{Request, Response, Status};

use proto::shop::v1::checkout_service_server::CheckoutService;
use proto::shop::v1::payment_service_client::PaymentServiceClient;
use proto::shop::v1::shipping_service_client::ShippingServiceClient;
use proto::shop::v1::{ChargeRequest, OrderRequest, OrderResponse, ShipRequest};

use super::call::{Call, failed_by, number, work};
use super::cart::fill;
use super::{Role, Site};

/// The checkout.
pub(super) struct Checkout(pub(super) Site);

#[tonic::async_trait]
impl CheckoutService for Checkout {
    async fn order(&self, request: Request<OrderRequest>) -> Result<Response<OrderResponse>, Status> {
        let (call, site) = (Call::of(&request), &self.0);
        let OrderRequest { customer, items } = request.into_inner();
        work().await;
        let (total, mut stops) = fill(site, &call, items.clone()).await?;

        let mut payment = PaymentServiceClient::new(site.channel(Role::Payment));
        let charge = ChargeRequest { customer: customer.clone(), amount: total };
        let charged = payment.charge(call.request(charge)?).await.map_err(failed_by(Role::Payment))?;
        stops.extend(charged.into_inner().stop);

        let mut shipping = ShippingServiceClient::new(site.channel(Role::Shipping));
        let ship = call.request(ShipRequest { customer, items })?;
        let shipped = shipping.ship(ship).await.map_err(failed_by(Role::Shipping))?.into_inner();
        stops.extend(shipped.stop);

        stops.push(site.stop());
        Ok(Response::new(OrderResponse { order: number("order"), total, parcel: shipped.parcel, stops }))
    }
}
