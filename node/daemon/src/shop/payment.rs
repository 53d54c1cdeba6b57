//! Takes money, in name only.

use tonic::{Request, Response, Status};

use proto::shop::v1::payment_service_server::PaymentService;
use proto::shop::v1::{ChargeRequest, ChargeResponse};

use super::Site;
use super::call::{number, work};

/// The payment.
pub(super) struct Payment(pub(super) Site);

#[tonic::async_trait]
impl PaymentService for Payment {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        work().await;
        if request.into_inner().amount == 0 {
            return Err(Status::invalid_argument("nothing to pay: put something into the cart"));
        }
        Ok(Response::new(ChargeResponse { receipt: number("receipt"), stop: Some(self.0.stop()) }))
    }
}
