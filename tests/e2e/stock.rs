//! What verifiers that know nothing of us believe under our authority certificates: OpenSSL, Python's ssl,
//! gRPC-core, Go and rustls, each asked the same questions.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use identity::authority::{self, Form};
use identity::soft_keys::Secret;
use identity::{KeySet, SoftKeys};
use rcgen::SanType;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use types::key::{KeySlot, Keys, PublicKey};

use crate::verify::forge_with;
use crate::world::{Mesh, Node};

/// One question: would a client that dials `host` believe this leaf?
struct Question {
    what: &'static str,
    leaf: CertificateDer<'static>,
    secret: Secret,
    host: &'static str,
    expected: bool,
}

/// Leaves that a node with the scope `svc/api` can make, honestly or not.
fn questions(pi: &Node) -> Vec<Question> {
    let node = "spiffe://pi.home.mesh/node";
    let api = "spiffe://pi.home.mesh/svc/api";
    let names = ["api.pi.home.mesh", "api.svc.home.mesh"];
    let ask = |what, uri: &str, dns: &[&str], common_names: &[&str], host, expected| {
        question(pi, what, uri, dns, common_names, None, host, expected)
    };
    vec![
        ask("a node by its name", node, &["pi.home.mesh"], &[], "pi.home.mesh", true),
        ask("a service on its node", api, &names, &[], "api.pi.home.mesh", true),
        ask("a service in the mesh", api, &names, &[], "api.svc.home.mesh", true),
        ask("a name that it does not have", api, &names, &[], "web.svc.home.mesh", false),
        ask("a service out of scope", api, &["web.svc.home.mesh"], &[], "web.svc.home.mesh", false),
        ask("another node", node, &["tv.home.mesh"], &[], "tv.home.mesh", false),
        ask("the whole mesh", node, &["home.mesh"], &[], "home.mesh", false),
        ask("a foreign name", node, &["example.org"], &[], "example.org", false),
        ask("a wildcard", node, &["*.svc.home.mesh"], &[], "web.svc.home.mesh", false),
        ask("a common name", api, &[], &["web.svc.home.mesh"], "web.svc.home.mesh", false),
        ask("a wildcard common name", api, &[], &["*.svc.home.mesh"], "web.svc.home.mesh", false),
        ask("its own name as common name", node, &[], &["pi.home.mesh"], "pi.home.mesh", false),
        question(pi, "an address", node, &[], &[], Some([127, 0, 0, 1]), "127.0.0.1", false),
    ]
}

#[expect(clippy::too_many_arguments, reason = "a row of a table")]
fn question(
    pi: &Node,
    what: &'static str,
    uri: &str,
    dns: &[&str],
    common_names: &[&str],
    address: Option<[u8; 4]>,
    host: &'static str,
    expected: bool,
) -> Question {
    let secret = tls::random::secret(KeySlot::Jwt);
    let keys = SoftKeys::new([(KeySlot::Jwt, &secret)]).unwrap();
    let leaf = forge_with(pi, uri, dns, common_names, &keys, |params| {
        params.subject_alt_names.extend(address.map(|ip| SanType::IpAddress(ip.into())));
    });
    Question { what, leaf, secret, host, expected }
}

/// The questions on disk, in a form that other programs read.
struct Quiz {
    dir: tempfile::TempDir,
    questions: Vec<Question>,
    pi: Node,
    mesh: Mesh,
}

impl Quiz {
    fn new() -> Self {
        let mut mesh = Mesh::found("home.mesh");
        let pi = mesh.admit("pi", "svc/api");
        let quiz = Self { dir: tempfile::tempdir().unwrap(), questions: questions(&pi), pi, mesh };
        quiz.write("ca.pem", &tls::pem::certificate(&quiz.authority(Form::Stock)));
        for (idx, question) in quiz.questions.iter().enumerate() {
            quiz.write(&format!("{idx}.pem"), &tls::pem::certificate(&question.leaf));
            quiz.write(&format!("{idx}.key"), &tls::pem::private_key(&question.secret).unwrap());
        }
        quiz
    }

    fn authority(&self, form: Form) -> CertificateDer<'static> {
        let record = self.mesh.record(&self.pi);
        authority::certificate(&*self.pi.keys, KeySlot::AuthorityP256, record.member(), form).unwrap()
    }

    /// A file of 1,500 authorities of other nodes, and then ours.
    fn crowd(&self, form: Form) -> Vec<CertificateDer<'static>> {
        let ours = self.mesh.record(&self.pi);
        let other = |n: u32| {
            let mut seed = [1; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            let keys = SoftKeys::new([(KeySlot::AuthorityP256, &Secret::new(seed))]).unwrap();
            let mut member = ours.member().clone();
            member.domain = format!("n{n}.home.mesh").parse().unwrap();
            let classical = keys.public(KeySlot::AuthorityP256).unwrap().clone();
            let post_quantum: PublicKey = member.authority.post_quantum.clone();
            member.authority = KeySet { classical, post_quantum };
            authority::certificate(&keys, KeySlot::AuthorityP256, &member, form).unwrap()
        };
        (1..=1500).map(other).chain([self.authority(form)]).collect()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Asks a program that answers a line `yes` or `no` for each line `CA LEAF KEY HOST` of a file.
    fn ask(&self, ca: &str, program: &mut Command) -> Vec<bool> {
        let mut manifest = String::new();
        for (idx, question) in self.questions.iter().enumerate() {
            let path = |name: &str| self.path(name).display().to_string();
            let (leaf, key) = (path(&format!("{idx}.pem")), path(&format!("{idx}.key")));
            writeln!(manifest, "{} {leaf} {key} {}", path(ca), question.host).unwrap();
        }
        self.write("manifest", &manifest);
        let out = program.arg(self.path("manifest")).output().unwrap_or_else(|err| {
            panic!("failed to run {program:?}: {err}: run `make setup`, which installs it");
        });
        let (told, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{program:?} failed: {errors}");
        told.lines().map(|line| line == "yes").collect()
    }

    #[track_caller]
    fn check(&self, who: &str, answers: &[bool]) {
        assert_eq!(answers.len(), self.questions.len(), "{who} answers every question");
        for (question, answer) in self.questions.iter().zip(answers) {
            let verb = if *answer { "believes" } else { "refuses" };
            assert_eq!(*answer, question.expected, "{who} {verb} {} for {}", question.what, question.host);
        }
    }
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e").join(name)
}

pub fn python() -> Command {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Command::new(cache.unwrap_or_default().join("sagemesh/venv/bin/python"))
}

#[test]
fn openssl_believes_what_the_record_says_and_nothing_else() {
    let quiz = Quiz::new();
    let answer = |idx: usize, question: &Question| {
        let of =
            if question.host.parse::<std::net::IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", "sslserver", of, question.host, "-CAfile"]);
        openssl.arg(quiz.path("ca.pem")).arg(quiz.path(&format!("{idx}.pem")));
        openssl.output().expect("openssl is installed").status.success()
    };
    let answers: Vec<_> = quiz.questions.iter().enumerate().map(|(idx, it)| answer(idx, it)).collect();
    quiz.check("OpenSSL", &answers);
}

#[test]
fn python_believes_what_the_record_says_and_nothing_else() {
    let quiz = Quiz::new();
    let answers = quiz.ask("ca.pem", python().arg(script("stock.py")).arg("ssl"));
    quiz.check("Python's ssl", &answers);
}

#[test]
fn grpc_core_believes_what_the_record_says_and_nothing_else() {
    let quiz = Quiz::new();
    let answers = quiz.ask("ca.pem", python().arg(script("stock.py")).arg("grpc"));
    quiz.check("gRPC-core", &answers);
}

#[test]
fn go_believes_what_the_record_says_and_nothing_else() {
    let quiz = Quiz::new();
    let answers = quiz.ask("ca.pem", Command::new("go").arg("run").arg(script("stock.go")));
    quiz.check("Go", &answers);
}

/// Asks rustls with these authorities as its roots.
fn rustls_believes(roots: &[CertificateDer<'static>], question: &Question) -> bool {
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let name = ServerName::try_from(question.host).unwrap();
    verifier.verify_server_cert(&question.leaf, &[], &name, &[], UnixTime::now()).is_ok()
}

#[test]
fn rustls_believes_what_the_record_says_and_nothing_else() {
    let quiz = Quiz::new();
    let roots = [quiz.authority(Form::Rustls)];
    let answers: Vec<_> = quiz.questions.iter().map(|it| rustls_believes(&roots, it)).collect();
    quiz.check("rustls", &answers);
    // The other form is not for rustls: it would refuse even what is right.
    assert!(!rustls_believes(&[quiz.authority(Form::Stock)], &quiz.questions[0]));
}

#[test]
fn fifteen_hundred_authorities_change_no_answer() {
    let quiz = Quiz::new();
    let crowd: String = quiz.crowd(Form::Stock).iter().map(tls::pem::certificate).collect();
    quiz.write("crowd.pem", &crowd);
    let grpc = quiz.ask("crowd.pem", python().arg(script("stock.py")).arg("grpc"));
    quiz.check("gRPC-core with 1,500 authorities", &grpc);
    let go = quiz.ask("crowd.pem", Command::new("go").arg("run").arg(script("stock.go")));
    quiz.check("Go with 1,500 authorities", &go);
    let roots = quiz.crowd(Form::Rustls);
    let rustls: Vec<_> = quiz.questions.iter().map(|it| rustls_believes(&roots, it)).collect();
    quiz.check("rustls with 1,500 authorities", &rustls);
}
