//! Serves one service of the shop, and its health.

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Server, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use proto::shop::v1::{
    cart_service_server, catalog_service_server, checkout_service_server, frontend_service_server,
    payment_service_server, shipping_service_server,
};

use super::cart::Cart;
use super::catalog::Catalog;
use super::checkout::Checkout;
use super::frontend::Frontend;
use super::payment::Payment;
use super::shipping::Shipping;
use super::{Role, Site};

/// Calls of one connection that are answered at a time; more wait.
const CALLS_MAX: u32 = 256;

/// Serves until `shutdown`, then finishes the calls that it has begun.
pub(super) async fn run(
    site: Site,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let role = site.role;
    let (reporter, health) = health_reporter();
    let router = Server::builder().max_concurrent_streams(CALLS_MAX).add_service(health);
    let (name, router) = match role {
        Role::Frontend => {
            let service = frontend_service_server::FrontendServiceServer::new(Frontend(site));
            (frontend_service_server::SERVICE_NAME, router.add_service(service))
        }
        Role::Catalog => {
            let service = catalog_service_server::CatalogServiceServer::new(Catalog(site));
            (catalog_service_server::SERVICE_NAME, router.add_service(service))
        }
        Role::Cart => {
            let service = cart_service_server::CartServiceServer::new(Cart(site));
            (cart_service_server::SERVICE_NAME, router.add_service(service))
        }
        Role::Checkout => {
            let service = checkout_service_server::CheckoutServiceServer::new(Checkout(site));
            (checkout_service_server::SERVICE_NAME, router.add_service(service))
        }
        Role::Payment => {
            let service = payment_service_server::PaymentServiceServer::new(Payment(site));
            (payment_service_server::SERVICE_NAME, router.add_service(service))
        }
        Role::Shipping => {
            let service = shipping_service_server::ShippingServiceServer::new(Shipping(site));
            (shipping_service_server::SERVICE_NAME, router.add_service(service))
        }
        Role::Load => bail!("customers serve nobody: start a service"),
    };
    reporter.set_service_status(name, ServingStatus::Serving).await;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await;
    served.with_context(|| format!("failed to serve the {}", role.name()))
}
