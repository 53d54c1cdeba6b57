//! Stock gRPC clients, which know nothing of the mesh: through the outbound ports and straight to the inbound one.

use identity::SoftKeys;
use identity::authority::{self, Form};
use tokio::process::Command;
use types::key::KeySlot;

use super::backend::Service;
use super::street::{self, Street, grpc};
use crate::stock::{python, script};
use crate::town::within;
use crate::verify::forge_with;

#[tokio::test]
async fn grpc_core_calls_by_every_port() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house("nas", "echo", grpc(service.address), "svc/web node/pi").await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("proxy.sock");
    let config = proxy::Config { socket: Some(socket.clone()), ..street::config() };
    let pi = street.house_with("pi", "web", None, "", config).await;
    // Whatever program this user runs.
    pi.change(|table| table.local.values_mut().for_each(|web| web.selectors.truncate(1)));

    let secret = tls::random::secret(KeySlot::Jwt);
    let keys = SoftKeys::new([(KeySlot::Jwt, &secret)]).unwrap();
    let leaf = forge_with(&pi.node, &pi.node.id().to_string(), &[], &[], &keys, |_| {});
    let record = street.net.mesh.record(&nas.node);
    let ca = authority::certificate(&*nas.node.keys, KeySlot::AuthorityP256, record.member(), Form::Stock);
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("ca.pem", &tls::pem::certificate(&ca.unwrap()));
    write("leaf.pem", &tls::pem::certificate(&leaf));
    write("leaf.key", &tls::pem::private_key(&secret).unwrap());

    let mut caller = Command::from(python());
    caller.arg(script("proxy/stock.py")).arg(pi.outbound.to_string()).arg(&socket);
    caller.arg(nas.inbound.to_string()).arg(dir.path()).kill_on_drop(true);
    let out = within("all calls", caller.output()).await.unwrap_or_else(|err| {
        panic!("failed to run {caller:?}: {err}: run `make setup`, which installs it");
    });
    let (told, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(told, "outbound ok\nstatuses ok\nrefusal ok\nunix ok\ninbound ok\n", "{errors}");
    pi.settles().await;
    nas.settles().await;
}
