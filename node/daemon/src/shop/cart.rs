//! What a cart comes to. The cart itself stays with its customer.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use proto::shop::v1::cart_service_client::CartServiceClient;
use proto::shop::v1::cart_service_server::CartService;
use proto::shop::v1::{FillRequest, FillResponse, Item, Stop};

use super::call::{Call, failed_by, work};
use super::{Role, Site};

/// Items that fit into one cart.
const ITEMS_MAX: u32 = 100;

/// The cart.
pub(super) struct Cart(pub(super) Site);

#[tonic::async_trait]
impl CartService for Cart {
    type FillStream = Pin<Box<dyn Stream<Item = Result<FillResponse, Status>> + Send>>;

    async fn fill(
        &self,
        request: Request<Streaming<FillRequest>>,
    ) -> Result<Response<Self::FillStream>, Status> {
        work().await;
        let stop = self.0.stop();
        let (mut n_items, mut total) = (0, 0_u32);
        let answers = request.into_inner().map(move |asked| {
            let item = asked?.item.ok_or_else(|| Status::invalid_argument("nothing to put into the cart"))?;
            n_items += 1;
            total = total.saturating_add(item.price);
            if n_items > ITEMS_MAX {
                return Err(Status::resource_exhausted("the cart is full: order what is in it first"));
            }
            Ok(FillResponse { n_items, total, stop: Some(stop.clone()) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Has a cart filled, and answers what it comes to and who said so.
pub(super) async fn fill(site: &Site, call: &Call, items: Vec<Item>) -> Result<(u32, Vec<Stop>), Status> {
    let failed = failed_by(Role::Cart);
    let asked = items.into_iter().map(|item| FillRequest { item: Some(item) });
    let mut cart = CartServiceClient::new(site.channel(Role::Cart));
    let filled = cart.fill(call.request(tokio_stream::iter(asked))?).await.map_err(&failed)?;
    let mut answers = filled.into_inner();
    let (mut total, mut stops) = (0, Vec::new());
    while let Some(answer) = answers.message().await.map_err(&failed)? {
        total = answer.total;
        stops = answer.stop.into_iter().collect();
    }
    Ok((total, stops))
}
