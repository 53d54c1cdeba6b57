//! What is on sale: three shelves, in the program itself.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use proto::shop::v1::catalog_service_server::CatalogService;
use proto::shop::v1::{Item, ListRequest, ListResponse, SearchRequest, SearchResponse};

use super::Site;
use super::call::work;

/// Categories, and what is in them, with prices in cents.
const SHELVES: [(&str, &[(&str, u32)]); 3] = [
    ("kitchen", &[("kettle", 3490), ("mug", 890), ("tea towel", 650), ("bread knife", 2150)]),
    ("garden", &[("trowel", 1290), ("watering can", 2400), ("seeds", 310)]),
    ("study", &[("notebook", 720), ("pencil", 120), ("desk lamp", 4580), ("globe", 8900)]),
];

/// The catalog.
pub(super) struct Catalog(pub(super) Site);

#[tonic::async_trait]
impl CatalogService for Catalog {
    type SearchStream = Pin<Box<dyn Stream<Item = Result<SearchResponse, Status>> + Send>>;

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        work().await;
        let categories = SHELVES.iter().map(|(category, _)| (*category).to_owned()).collect();
        Ok(Response::new(ListResponse { categories, stop: Some(self.0.stop()) }))
    }

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        work().await;
        let category = request.into_inner().category;
        let shelf = SHELVES.iter().find(|(name, _)| *name == category);
        let (_, products) = shelf.ok_or_else(|| Status::not_found("no such category: ask for the list"))?;
        let stop = self.0.stop();
        let found = products.iter().map(move |(product, price)| {
            let item = Item { product: (*product).to_owned(), price: *price };
            Ok(SearchResponse { item: Some(item), stop: Some(stop.clone()) })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(found))))
    }
}
