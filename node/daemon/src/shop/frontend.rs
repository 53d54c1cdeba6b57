//! What customers see: one visit asks for all of the shop.

use rand::seq::IndexedRandom;
use tonic::{Request, Response, Status};

use proto::shop::v1::catalog_service_client::CatalogServiceClient;
use proto::shop::v1::checkout_service_client::CheckoutServiceClient;
use proto::shop::v1::frontend_service_server::FrontendService;
use proto::shop::v1::{BuyRequest, BuyResponse, Item, ListRequest, OrderRequest, SearchRequest, Stop};

use super::call::{Call, failed_by, work};
use super::cart::fill;
use super::{Role, Site};

/// Products that a customer looks at; the rest of a shelf is left.
const LOOKED_AT_MAX: usize = 50;
/// Items that a customer takes at most.
const TAKEN_MAX: usize = 3;

/// The frontend.
pub(super) struct Frontend(pub(super) Site);

#[tonic::async_trait]
impl FrontendService for Frontend {
    async fn buy(&self, request: Request<BuyRequest>) -> Result<Response<BuyResponse>, Status> {
        let (call, site) = (Call::of(&request), &self.0);
        let customer = request.into_inner().customer;
        work().await;
        let (items, mut stops) = look_around(site, &call).await?;
        let (_, asked) = fill(site, &call, items.clone()).await?;
        stops.extend(asked);

        let mut checkout = CheckoutServiceClient::new(site.channel(Role::Checkout));
        let order = call.request(OrderRequest { customer, items })?;
        let ordered = checkout.order(order).await.map_err(failed_by(Role::Checkout))?.into_inner();
        stops.extend(ordered.stops);
        stops.push(site.stop());
        let (order, total, parcel) = (ordered.order, ordered.total, ordered.parcel);
        Ok(Response::new(BuyResponse { order, total, parcel, stops }))
    }
}

/// Picks a few products from one category, and says who showed them.
async fn look_around(site: &Site, call: &Call) -> Result<(Vec<Item>, Vec<Stop>), Status> {
    let failed = failed_by(Role::Catalog);
    let mut catalog = CatalogServiceClient::new(site.channel(Role::Catalog));
    let list = catalog.list(call.request(ListRequest {})?).await.map_err(&failed)?.into_inner();
    let mut stops: Vec<Stop> = list.stop.into_iter().collect();
    let category = list.categories.choose(&mut rand::rng()).cloned().unwrap_or_default();

    let search = call.request(SearchRequest { category })?;
    let mut found = catalog.search(search).await.map_err(&failed)?.into_inner();
    let (mut shown, mut shown_by) = (Vec::new(), None);
    while shown.len() < LOOKED_AT_MAX
        && let Some(product) = found.message().await.map_err(&failed)?
    {
        shown.extend(product.item);
        shown_by = product.stop;
    }
    stops.extend(shown_by);
    let taken = shown.sample(&mut rand::rng(), TAKEN_MAX).cloned().collect();
    Ok((taken, stops))
}
