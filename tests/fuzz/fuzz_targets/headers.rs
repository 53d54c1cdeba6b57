//! Headers of calls, and answers to health checks: nothing of the mesh's passes on, a call stays for whom it was,
//! and nobody is told to wait longer than they were.
#![no_main]

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use proxy::fuzz;

const NAMES: [&str; 13] = [
    "grpc-timeout",
    "grpc-status",
    "content-type",
    "te",
    "host",
    "connection",
    "traceparent",
    "x-forwarded-client-cert",
    "sagemesh-timing",
    "sagemesh-server-us",
    "sagemesh-refused",
    "sagemesh-",
    "upgrade",
];
const OF_CONNECTION: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

#[derive(Arbitrary, Debug)]
struct Input {
    method: u8,
    uri: Vec<u8>,
    headers: Vec<(Name, Vec<u8>)>,
    body: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Any(String),
}

fuzz_target!(|input: Input| {
    let _ = fuzz::health(&input.body);
    let Some(request) = input.request() else { return };
    let (head, ()) = request.into_parts();
    let said = fuzz::read(&head);
    if let Ok(Some(timeout)) = said.timeout {
        let mut told = Request::new(()).into_parts().0;
        told.headers.insert("grpc-timeout", fuzz::timeout(timeout));
        let told = fuzz::read(&told).timeout.expect("our own").expect("it was set");
        assert!(told <= timeout && timeout - told <= timeout / 1000 + std::time::Duration::from_micros(1));
    }
    assert!(
        said.host
            .is_none_or(|host| !host.contains('@') || host.starts_with('[') || head.uri.host().is_none())
    );

    let onward = fuzz::onward(&head);
    assert_eq!(onward.uri().scheme_str(), Some("http"));
    assert!(head.uri.authority().is_none_or(|it| onward.uri().authority() == Some(it)));
    assert!(head.uri.path_and_query().is_none_or(|it| onward.uri().path_and_query() == Some(it)));
    for name in onward.headers().keys() {
        assert!(!name.as_str().starts_with("sagemesh-") && !OF_CONNECTION.contains(&name.as_str()));
        assert_eq!(onward.headers().get_all(name).iter().count(), head.headers.get_all(name).iter().count());
    }
    let mut answer = head.headers.clone();
    fuzz::strip(&mut answer);
    assert_eq!(&answer, onward.headers());
});

impl Input {
    fn request(&self) -> Option<Request<()>> {
        let methods = [Method::POST, Method::GET, Method::CONNECT, Method::OPTIONS];
        let mut request = Request::new(());
        *request.method_mut() = methods[usize::from(self.method) % methods.len()].clone();
        *request.uri_mut() = Uri::try_from(self.uri.as_slice()).ok()?;
        for (name, value) in self.headers.iter().take(64) {
            let name = match name {
                Name::Known(which) => NAMES[usize::from(*which) % NAMES.len()],
                Name::Any(text) => text,
            };
            request
                .headers_mut()
                .append(name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        Some(request)
    }
}
