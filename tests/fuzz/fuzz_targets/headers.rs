//! Fields of calls, and answers to health checks: nothing of the mesh's passes on, a call stays for whom it was,
//! nobody is told to wait longer than they were, and who called is what this node says.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use proxy::fuzz;
use wire::hpack::{Fields, Name};

const NAMES: [&str; 16] = [
    ":method",
    ":scheme",
    ":authority",
    ":path",
    "grpc-timeout",
    "grpc-status",
    "content-type",
    "te",
    "host",
    "user-agent",
    "traceparent",
    "x-forwarded-client-cert",
    "sagemesh-timing",
    "sagemesh-server-us",
    "sagemesh-refused",
    "sagemesh-",
];
const CALLER: &[u8] = b"By=spiffe://pi.home.mesh/svc/echo;URI=spiffe://tv.home.mesh/svc/web";

#[derive(Arbitrary, Debug)]
struct Input {
    fields: Vec<(Kind, Vec<u8>)>,
    body: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Known(u8),
    Any(Vec<u8>),
    Secret(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let _ = fuzz::health(&input.body);
    let fields = input.fields();
    let said = fuzz::read(&fields);
    if let Ok(Some(timeout)) = said.timeout {
        let mut told = Fields::new();
        fuzz::set_timeout(&mut told, timeout);
        let told = fuzz::read(&told).timeout.expect("our own").expect("it was set");
        assert!(told <= timeout && timeout - told <= timeout / 1000 + std::time::Duration::from_micros(1));
    }
    assert!(!said.host.contains(&b':'));

    let mut onward = input.fields();
    fuzz::onward(&mut onward, CALLER);
    let certs: Vec<_> = onward.iter().filter(|it| it.name == b"x-forwarded-client-cert").collect();
    assert!(certs.len() == 1 && certs[0].value == CALLER);
    assert!(onward.iter().all(|field| !field.name.starts_with(b"sagemesh-")));
    assert!(onward.value(Name::Authority).is_some(), "HTTP/2 has it there");
    let kept = |name: &[u8]| {
        !name.starts_with(b"sagemesh-") && name != b"x-forwarded-client-cert" && !name.starts_with(b":")
    };
    let passed: Vec<_> = onward.iter().filter(|it| kept(it.name)).collect();
    let given: Vec<_> = fields.iter().filter(|it| kept(it.name)).collect();
    assert_eq!(passed.len(), given.len());
    for (one, other) in passed.iter().zip(&given) {
        assert_eq!((one.name, one.value), (other.name, other.value));
        assert_eq!(one.is_never_indexed, other.is_never_indexed);
    }
    let mut answer = input.fields();
    fuzz::strip(&mut answer);
    assert!(answer.iter().all(|field| !field.name.starts_with(b"sagemesh-")));
});

impl Input {
    fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        for (kind, value) in self.fields.iter().take(64) {
            match kind {
                Kind::Known(which) => {
                    fields.push(NAMES[usize::from(*which) % NAMES.len()].as_bytes(), value);
                }
                Kind::Any(name) => fields.push(name, value),
                Kind::Secret(name) => fields.push_never_indexed(name, value),
            }
        }
        fields
    }
}
