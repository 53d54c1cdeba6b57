//! The whole shop in one process, without a mesh between its parts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::util::MapRequestLayer;

use proto::shop::v1::cart_service_server::CartServiceServer;
use proto::shop::v1::frontend_service_client::FrontendServiceClient;
use proto::shop::v1::{BuyRequest, Item};

use super::call::Call;
use super::*;

const SERVICES: [Role; 6] =
    [Role::Frontend, Role::Catalog, Role::Cart, Role::Checkout, Role::Payment, Role::Shipping];

/// A shop whose parts call each other at their own addresses.
struct Shop {
    customers: Site,
    shutdown: CancellationToken,
    services: JoinSet<anyhow::Result<()>>,
}

impl Shop {
    /// Opens all of the shop but `missing`.
    async fn open(missing: Option<Role>) -> Self {
        let nowhere: Uri = "http://127.0.0.1:1".parse().expect("a URI");
        let (mut listeners, mut at) = (Vec::new(), Vec::new());
        for role in SERVICES.into_iter().filter(|role| Some(*role) != missing) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            at.push(format!("{}=http://{address}", role.name()).parse().expect("an address"));
            listeners.push((role, listener));
        }
        let site =
            |role: Role| Site::new(role, &format!("node-of-{}", role.name()), &nowhere, &at).expect("a site");
        let (shutdown, mut services) = (CancellationToken::new(), JoinSet::new());
        for (role, listener) in listeners {
            services.spawn(serve::run(site(role), listener, shutdown.clone()));
        }
        Self { customers: site(Role::Load), shutdown, services }
    }

    async fn close(mut self) {
        drop(self.customers);
        self.shutdown.cancel();
        while let Some(ended) = self.services.join_next().await {
            ended.expect("no panic").expect("a clean end");
        }
    }
}

fn lines(printed: &[u8]) -> Vec<Line> {
    let text = std::str::from_utf8(printed).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
}

#[tokio::test]
async fn an_order_goes_through_all_six() {
    let shop = Shop::open(None).await;
    let mut frontend = FrontendServiceClient::new(shop.customers.channel(Role::Frontend));
    let ask = Call::begin(Duration::from_secs(5)).request(BuyRequest { customer: "ada".to_owned() });
    let bought = frontend.buy(ask.expect("time")).await.expect("an order").into_inner();
    assert!(bought.total > 0 && bought.order.starts_with("order-"), "{bought:?}");
    let stops: Vec<_> = bought.stops.iter().map(|stop| stop.service.as_str()).collect();
    let expected = ["catalog", "catalog", "cart", "cart", "payment", "shipping", "checkout", "frontend"];
    assert_eq!(stops, expected);
    assert!(bought.stops.iter().all(|stop| stop.node == format!("node-of-{}", stop.service)));
    drop(frontend);
    shop.close().await;
}

#[tokio::test]
async fn the_authority_tells_the_mesh_whom_a_call_is_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mesh: Uri = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
    let site = |role| Site::new(role, "pi", &mesh, &[]).expect("a site");
    let (saw, mut seen) = tokio::sync::mpsc::channel(8);
    let service = CartServiceServer::new(cart::Cart(site(Role::Cart)));
    let look = MapRequestLayer::new(move |request: http::Request<Body>| {
        let headers = ["traceparent", "grpc-timeout"].map(|name| request.headers().contains_key(name));
        saw.try_send((request.uri().authority().map(ToString::to_string), headers)).expect("room");
        request
    });
    let serving = Server::builder().layer(look).add_service(service);
    let item = Item { product: "mug".to_owned(), price: 890 };
    let (checkout, call) = (site(Role::Checkout), Call::begin(Duration::from_secs(5)));
    tokio::select! {
        ended = serving.serve_with_incoming(TcpIncoming::from(listener)) => panic!("{ended:?}"),
        filled = cart::fill(&checkout, &call, vec![item.clone(), item]) => {
            assert_eq!(filled.expect("a cart").0, 1780);
        }
    }
    assert_eq!(seen.recv().await, Some((Some("cart".to_owned()), [true, true])));
}

#[tokio::test]
async fn each_service_tells_its_health() {
    let shop = Shop::open(None).await;
    for (role, name) in [(Role::Cart, "sagemesh.shop.v1.CartService"), (Role::Frontend, "")] {
        let mut health = HealthClient::new(shop.customers.channel(role));
        let asked = HealthCheckRequest { service: name.to_owned() };
        let told = health.check(asked).await.expect("an answer").into_inner();
        assert_eq!(told.status(), ServingStatus::Serving, "{name}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_failure_says_whose_it_is_and_a_deadline_binds_all() {
    let shop = Shop::open(Some(Role::Payment)).await;
    let mut frontend = FrontendServiceClient::new(shop.customers.channel(Role::Frontend));
    let ask = Call::begin(Duration::from_secs(5)).request(BuyRequest::default()).expect("time");
    let failed = frontend.buy(ask).await.expect_err("no payment");
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().starts_with("checkout: payment: "), "{failed}");
    let mut hurried = Request::new(BuyRequest::default());
    hurried.set_timeout(Duration::from_millis(2));
    let failed = call::failed_by(Role::Frontend)(frontend.buy(hurried).await.expect_err("no time"));
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    drop(frontend);
    shop.close().await;
}

#[tokio::test]
async fn customers_report_every_second_and_at_the_end() {
    let shop = Shop::open(None).await;
    let load = Load { rate: 50.0, callers: 16, deadline_ms: 5000, every_ms: 1000 };
    let (mut printed, shutdown) = (Vec::new(), CancellationToken::new());
    let customers = load::run(&load, &shop.customers, &mut printed, shutdown.clone());
    let evening = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(customers, evening);
    ended.expect("a clean end");
    let lines = lines(&printed);
    let [second, total] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(!second.is_total && total.is_total);
    assert!(second.ok > 0 && total.ok > second.ok && total.failed == 0, "{lines:?}");
    assert_eq!(total.calls, total.ok);
    assert!(total.p50_ms.is_some_and(|ms| ms > 5.0) && total.p50_ms <= total.p99_ms);
    assert_eq!(total.by_node["node-of-cart"], 2 * total.ok);
    shop.close().await;
}

#[tokio::test]
async fn customers_who_get_no_answer_are_counted_by_reason() {
    let shop = Shop::open(Some(Role::Frontend)).await;
    let load = Load { rate: 100.0, callers: 2, deadline_ms: 300, every_ms: 1000 };
    let (mut printed, shutdown) = (Vec::new(), CancellationToken::new());
    shutdown.cancel();
    load::run(&load, &shop.customers, &mut printed, shutdown).await.expect("a clean end");
    assert_eq!(lines(&printed)[0].calls, 0);

    let (mut printed, shutdown) = (Vec::new(), CancellationToken::new());
    let customers = load::run(&load, &shop.customers, &mut printed, shutdown.clone());
    let evening = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        shutdown.cancel();
    };
    tokio::join!(customers, evening).0.expect("a clean end");
    let total = lines(&printed).pop().expect("a total");
    let unavailable = BTreeMap::from([("UNAVAILABLE".to_owned(), total.failed)]);
    assert!(total.failed > 0 && total.ok == 0, "{total:?}");
    assert_eq!(total.by_reason, unavailable);
    shop.close().await;
}

#[test]
fn a_direct_address_names_its_service() {
    let at: At = "cart=http://127.0.0.1:5".parse().expect("an address");
    assert_eq!((at.role, at.uri.port_u16()), (Role::Cart, Some(5)));
    for text in ["cart", "card=http://127.0.0.1:5", "cart=:", "cart=127.0.0.1:5", "cart=http://127.0.0.1"] {
        assert!(text.parse::<At>().is_err(), "{text}");
    }
}
