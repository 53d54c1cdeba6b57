//! A service as it is declared, with every name and rule checked.

use std::net::SocketAddr;
use std::str::FromStr;

use api::node::{Declaration, HealthCheck, Protocol, Source};
use attest::Selector;
use proxy::health::Kind;
use types::{Reason, Refusal, ServiceName};

use crate::config::RawService;

/// Most selectors and rules of one service.
const LINES_MAX: usize = 256;

/// A service of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: ServiceName,
    /// Where it listens; absent if it only calls.
    pub listen: Option<SocketAddr>,
    /// What it speaks.
    pub protocol: proxy::Protocol,
    /// How its health is told.
    pub health: Kind,
    /// Which processes it is.
    pub selectors: Vec<Selector>,
    /// Who may call it.
    pub policy: route::Policy,
    /// Where it was declared.
    pub source: Source,
}

impl Declared {
    /// Checks a declaration.
    ///
    /// # Errors
    /// [`Reason::ConfigInvalid`], naming the line.
    pub fn new(declaration: &Declaration, source: Source) -> Result<Self, Refusal> {
        let name = &declaration.name;
        let n_lines = declaration.selectors.len() + declaration.allow.len();
        if n_lines > LINES_MAX {
            return Err(invalid(name.as_str(), &format!("{n_lines} lines where {LINES_MAX} are allowed")));
        }
        if declaration.listen.is_some_and(|address| address.port() == 0) {
            return Err(invalid(name.as_str(), "`listen` names no port"));
        }
        Ok(Self {
            name: name.clone(),
            listen: declaration.listen,
            protocol: protocol(declaration.protocol),
            health: kind(declaration.health),
            selectors: read_all(name.as_str(), &declaration.selectors)?,
            policy: route::Policy { allow: read_all(name.as_str(), &declaration.allow)? },
            source,
        })
    }

    /// Reads what the configuration says.
    ///
    /// # Errors
    /// As [`Declared::new`].
    pub fn of_raw(raw: &RawService, source: Source) -> Result<Self, Refusal> {
        Self::new(&declaration(raw)?, source)
    }
}

/// What the proxy calls it.
pub(super) const fn protocol(it: Protocol) -> proxy::Protocol {
    match it {
        Protocol::Grpc => proxy::Protocol::Grpc,
        Protocol::Tcp => proxy::Protocol::Tcp,
    }
}

/// What the proxy calls it.
pub(super) const fn kind(it: HealthCheck) -> Kind {
    match it {
        HealthCheck::Grpc => Kind::Grpc,
        HealthCheck::Tcp => Kind::Tcp,
        HealthCheck::None => Kind::None,
    }
}

/// The typed form of what is written.
fn declaration(raw: &RawService) -> Result<Declaration, Refusal> {
    let name: ServiceName = read(&raw.name, &raw.name)?;
    let protocol = match raw.protocol.as_deref() {
        None | Some("grpc") => Protocol::Grpc,
        Some("tcp") => Protocol::Tcp,
        Some(other) => return Err(invalid(&raw.name, &format!("protocol `{other}`: write `grpc` or `tcp`"))),
    };
    let health = match (raw.health.as_deref(), protocol) {
        (Some("grpc"), _) | (None, Protocol::Grpc) => HealthCheck::Grpc,
        (Some("tcp"), _) | (None, Protocol::Tcp) => HealthCheck::Tcp,
        (Some("none"), _) => HealthCheck::None,
        (Some(other), _) => {
            return Err(invalid(&raw.name, &format!("health `{other}`: write `grpc`, `tcp` or `none`")));
        }
    };
    Ok(Declaration {
        listen: raw.listen,
        protocol,
        health,
        selectors: raw.selectors.clone(),
        allow: raw.allow.clone(),
        name,
    })
}

/// What is kept of a declaration that was added while the node ran.
pub(super) fn to_raw(declaration: &Declaration) -> RawService {
    let text = |text: &str| Some(text.to_owned());
    RawService {
        name: declaration.name.to_string(),
        listen: declaration.listen,
        protocol: match declaration.protocol {
            Protocol::Grpc => text("grpc"),
            Protocol::Tcp => text("tcp"),
        },
        health: match declaration.health {
            HealthCheck::Grpc => text("grpc"),
            HealthCheck::Tcp => text("tcp"),
            HealthCheck::None => text("none"),
        },
        selectors: declaration.selectors.clone(),
        allow: declaration.allow.clone(),
    }
}

fn read_all<T: FromStr<Err: std::fmt::Display>>(service: &str, lines: &[String]) -> Result<Vec<T>, Refusal> {
    lines.iter().map(|line| read(service, line)).collect()
}

fn read<T: FromStr<Err: std::fmt::Display>>(service: &str, line: &str) -> Result<T, Refusal> {
    line.parse().map_err(|err: T::Err| invalid(service, &err.to_string()))
}

fn invalid(service: &str, what: &str) -> Refusal {
    Reason::ConfigInvalid.because(format!("service `{service}`: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_declared() {
        let raw = RawService {
            name: "orders".to_owned(),
            listen: Some(([127, 0, 0, 1], 9001).into()),
            health: Some("tcp".to_owned()),
            selectors: vec!["uid:1000".to_owned()],
            allow: vec!["svc/web".to_owned(), "*".to_owned()],
            protocol: None,
        };
        let declared = declaration(&raw).expect("a declaration");
        assert_eq!(declaration(&to_raw(&declared)).expect("a declaration"), declared);
        let declared = Declared::new(&declared, Source::Config).expect("a service");
        assert_eq!((declared.health, declared.policy.allow.len()), (Kind::Tcp, 2));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        #[track_caller]
        fn check(set: fn(&mut RawService), expected: &str) {
            let mut raw = RawService { name: "orders".to_owned(), ..RawService::default() };
            set(&mut raw);
            let refusal = Declared::of_raw(&raw, Source::Config).expect_err("no service");
            assert!(refusal.detail.contains(expected), "{refusal}");
        }
        check(|raw| raw.name = "Orders".to_owned(), "Orders");
        check(|raw| raw.protocol = Some("http".to_owned()), "protocol `http`");
        check(|raw| raw.health = Some("yes".to_owned()), "health `yes`");
        check(|raw| raw.selectors = vec!["user:me".to_owned()], "user:me");
        check(|raw| raw.allow = vec!["frontend".to_owned()], "frontend");
        check(|raw| raw.listen = Some(([127, 0, 0, 1], 0).into()), "no port");
        check(|raw| raw.allow = vec!["*".to_owned(); 300], "300 lines");
    }
}
