//! Names, ids, rules and digests as text: whatever is read prints as it was, and what is printed is read.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;

use identity::Scope;
use route::Rule;
use types::event::EventId;
use types::{Digest, MeshName, NodeName, PeerId, Reason, ServiceName, SpiffeId, TrustDomain};

fuzz_target!(init: sagemesh_fuzz::seed::write([
    "home.mesh".to_owned(),
    "pi.home.mesh".to_owned(),
    "spiffe://pi.home.mesh/node".to_owned(),
    "spiffe://pi.home.mesh/svc/api".to_owned(),
    "spiffe://home.mesh/operator/ada".to_owned(),
    "operator/ada".to_owned(),
    "svc/a, svc/b,svc/*".to_owned(),
    PeerId([7; 32]).to_string(),
    Digest([7; 32]).to_string(),
    EventId([7; 16]).to_string(),
    Reason::MemberExpired.code().to_owned(),
]), |text: &str| {
    check::<MeshName>(text);
    check::<NodeName>(text);
    check::<ServiceName>(text);
    check::<TrustDomain>(text);
    check::<SpiffeId>(text);
    check::<PeerId>(text);
    check::<Digest>(text);
    check::<EventId>(text);
    check::<Rule>(text);
    if let Some(reason) = Reason::from_code(text) {
        assert_eq!(reason.code(), text);
    }
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert!(id.dns_names().iter().all(|name| name.len() <= 253), "{id}");
    }
    if let Ok(id) = PeerId::from_multihash(text.as_bytes()) {
        assert_eq!(id.to_multihash(), text.as_bytes());
    }
    if let Ok(scope) = text.parse::<Scope>() {
        let items = scope.items();
        assert_eq!(Scope::read(items.iter().map(String::as_str)), Ok(scope));
    }
});

fn check<T: FromStr<Err: Display> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(it) => assert_eq!(it.to_string(), text),
        Err(err) => assert!(err.to_string().len() < 1000, "an error repeats little of what it was given"),
    }
}
