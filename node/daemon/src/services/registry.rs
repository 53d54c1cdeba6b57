//! Which services this node has: from the configuration, added by an operator, and where registered processes
//! say that they listen. Plain data; nothing here starts anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::node::{Lease, LeaseId, Registrant, Registration, Source};
use attest::Owner;
use types::{Reason, Refusal, ServiceName, SpiffeId, TrustDomain, Workload};

use super::declared::{Declared, kind, protocol};

/// Most services of one node, configured and added: a node's record holds one entry for each that listens.
pub const SERVICES_MAX: usize = 60;
/// Most registrations at once.
const LEASES_MAX: usize = 256;
/// How long a registration may last without being renewed.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Where one process says that it serves.
#[derive(Clone, Debug)]
struct Held {
    service: ServiceName,
    registrant: Registrant,
    /// Of a process of this machine.
    owner: Option<Owner>,
    listen: Option<SocketAddr>,
    ttl: Duration,
    until: Instant,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    configured: BTreeMap<ServiceName, Declared>,
    added: BTreeMap<ServiceName, Declared>,
    leases: BTreeMap<LeaseId, Held>,
}

impl Registry {
    /// Replaces what the configuration says; answers what changed. Whole or not at all.
    ///
    /// # Errors
    /// [`Reason::ConfigInvalid`], [`Reason::ServiceTaken`].
    pub(super) fn configure(&mut self, declared: Vec<Declared>) -> Result<Vec<String>, Refusal> {
        if declared.len() + self.added.len() > SERVICES_MAX {
            let (n, n_added) = (declared.len(), self.added.len());
            let detail = format!(
                "{n} services and {n_added} that were added, where {SERVICES_MAX} are allowed together"
            );
            return Err(Reason::ConfigInvalid.because(detail));
        }
        let mut configured = BTreeMap::new();
        for service in declared {
            let name = service.name.clone();
            if self.added.contains_key(&name) {
                let detail = format!("service `{name}` was added by an operator already");
                return Err(Reason::ServiceTaken.because(detail));
            }
            if configured.insert(name.clone(), service).is_some() {
                return Err(Reason::ConfigInvalid.because(format!("service `{name}` is declared twice")));
            }
        }
        let mut changes = Vec::new();
        for (name, service) in &configured {
            match self.configured.get(name) {
                None => changes.push(format!("service {name} added")),
                Some(before) if before != service => changes.push(format!("service {name} changed")),
                Some(_) => {}
            }
        }
        let gone = self.configured.keys().filter(|name| !configured.contains_key(*name));
        changes.extend(gone.map(|name| format!("service {name} removed")));
        self.configured = configured;
        self.drop_orphans();
        Ok(changes)
    }

    /// Adds a service.
    ///
    /// # Errors
    /// [`Reason::ServiceTaken`], [`Reason::Overloaded`].
    pub(super) fn add(&mut self, service: Declared) -> Result<(), Refusal> {
        if self.configured.contains_key(&service.name) {
            let detail = format!("service `{}` stands in the configuration", service.name);
            return Err(Reason::ServiceTaken.because(detail));
        }
        let n_services = self.configured.len() + self.added.len();
        if n_services >= SERVICES_MAX && !self.added.contains_key(&service.name) {
            let detail = format!("this node has {SERVICES_MAX} services already: remove one");
            return Err(Reason::Overloaded.because(detail));
        }
        self.added.insert(service.name.clone(), service);
        self.drop_orphans();
        Ok(())
    }

    /// Removes what [`Registry::add`] added.
    ///
    /// # Errors
    /// [`Reason::ServiceUnknown`].
    pub(super) fn remove(&mut self, name: &ServiceName) -> Result<(), Refusal> {
        if self.added.remove(name).is_none() {
            let detail = format!("no service `{name}` was added here; the configuration is changed by hand");
            return Err(Reason::ServiceUnknown.because(detail));
        }
        self.drop_orphans();
        Ok(())
    }

    /// Registers where a process serves a service that was declared, and that it is attested as.
    ///
    /// # Errors
    /// [`Reason::ServiceUnknown`], [`Reason::CallerUnmapped`], [`Reason::ServiceTaken`], [`Reason::Overloaded`].
    pub(super) fn register(
        &mut self,
        now: Instant,
        id: LeaseId,
        caller: Caller<'_>,
        registration: &Registration,
        ttl: Duration,
    ) -> Result<Lease, Refusal> {
        let name = &registration.name;
        let known = self.declared(name).ok_or_else(|| {
            Reason::ServiceUnknown.because(format!(
                "no service `{name}` is declared on this node: an operator declares it with its selectors, \
                 and without `listen`"
            ))
        })?;
        caller.check(known)?;
        if !TTL.contains(&ttl) {
            return Err(Reason::ConfigInvalid.because("a registration lives from 1 s to 1 h"));
        }
        check_same(registration, known)?;
        if registration.listen.is_some_and(|address| address.port() == 0) {
            return Err(Reason::ArgumentInvalid.because("`listen` names no port"));
        }
        if registration.listen.is_some_and(|address| !address.ip().to_canonical().is_loopback()) {
            let detail = "a process registers where it listens on this machine: give a loopback address, such \
                          as 127.0.0.1";
            return Err(Reason::ConfigInvalid.because(detail));
        }
        let held = self.leases.iter().find(|(_, held)| held.service == *name && held.until > now);
        if let Some((_, held)) = held
            && held.registrant != *caller.registrant
            && !(caller.has_ended)(&held.registrant)
        {
            return Err(Reason::ServiceTaken.because(format!("another process has registered `{name}`")));
        }
        self.leases.retain(|_, held| held.until > now && held.service != *name);
        if self.leases.len() >= LEASES_MAX {
            return Err(Reason::Overloaded.because(format!("{LEASES_MAX} services are registered already")));
        }
        let held = Held {
            service: name.clone(),
            registrant: caller.registrant.clone(),
            owner: caller.owner.cloned(),
            listen: registration.listen,
            ttl,
            until: now + ttl,
        };
        self.leases.insert(id, held);
        Ok(Lease { id, ttl })
    }

    /// Extends a registration.
    ///
    /// # Errors
    /// [`Reason::LeaseUnknown`].
    pub(super) fn renew(&mut self, now: Instant, by: &Registrant, id: LeaseId) -> Result<Lease, Refusal> {
        let held = self.leases.get_mut(&id).filter(|held| held.until > now && held.registrant == *by);
        let held = held.ok_or_else(unknown)?;
        held.until = now + held.ttl;
        Ok(Lease { id, ttl: held.ttl })
    }

    /// Ends a registration.
    ///
    /// # Errors
    /// [`Reason::LeaseUnknown`].
    pub(super) fn deregister(&mut self, by: &Registrant, id: LeaseId) -> Result<(), Refusal> {
        self.leases.get(&id).filter(|held| held.registrant == *by).ok_or_else(unknown)?;
        self.leases.remove(&id);
        Ok(())
    }

    /// Forgets what ended; answers whether anything did.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let n_before = self.leases.len();
        self.leases.retain(|_, held| held.until > now);
        self.leases.len() < n_before
    }

    /// When the next registration ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.leases.values().map(|held| held.until).min()
    }

    /// What counts: where a process registered, it serves there.
    pub(super) fn effective(&self) -> BTreeMap<ServiceName, Declared> {
        let both = self.configured.iter().chain(&self.added);
        let mut all: BTreeMap<_, _> = both.map(|(name, it)| (name.clone(), it.clone())).collect();
        for held in self.leases.values() {
            if let Some(service) = all.get_mut(&held.service) {
                service.listen = held.listen.or(service.listen);
                service.source = Source::Leased;
            }
        }
        all
    }

    fn declared(&self, name: &ServiceName) -> Option<&Declared> {
        self.configured.get(name).or_else(|| self.added.get(name))
    }

    /// A registration does not outlive what it fills in, nor its process being meant.
    fn drop_orphans(&mut self) {
        let (configured, added) = (&self.configured, &self.added);
        self.leases.retain(|_, held| {
            let declared = configured.get(&held.service).or_else(|| added.get(&held.service));
            let is_meant =
                |it: &Declared| held.owner.as_ref().is_none_or(|owner| owner.matches(&it.selectors));
            declared.is_some_and(is_meant)
        });
    }
}

/// Whether a process says of its service what the operator does, or nothing.
fn check_same(registration: &Registration, known: &Declared) -> Result<(), Refusal> {
    let is_other_protocol = registration.protocol.is_some_and(|it| protocol(it) != known.protocol);
    let is_other_health = registration.health.is_some_and(|it| kind(it) != known.health);
    let what = match (is_other_protocol, is_other_health) {
        (true, _) => "protocol",
        (_, true) => "health",
        (false, false) => return Ok(()),
    };
    Err(Reason::ArgumentInvalid.because(format!(
        "the operator declares another `{what}` of `{}`: leave it out, or have the declaration changed",
        known.name
    )))
}

/// Who registers, as far as this node can tell.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) own: &'a TrustDomain,
    pub(super) registrant: &'a Registrant,
    /// Of a process of this machine.
    pub(super) owner: Option<&'a Owner>,
    /// Whether another, who registered before, has ended since.
    pub(super) has_ended: &'a dyn Fn(&Registrant) -> bool,
}

impl Caller<'_> {
    /// Whether the caller is that service.
    fn check(&self, service: &Declared) -> Result<(), Refusal> {
        let name = &service.name;
        match (self.registrant, self.owner) {
            (Registrant::Service(SpiffeId::Workload { domain, workload: Workload::Service(it) }), _)
                if domain == self.own && it == name =>
            {
                Ok(())
            }
            (Registrant::Local(_), Some(owner)) if owner.matches(&service.selectors) => Ok(()),
            (Registrant::Local(_), Some(owner)) => Err(Reason::CallerUnmapped.because(format!(
                "the process is not `{name}`: its selectors do not match; `{}` would",
                owner.selector()
            ))),
            _ => Err(Reason::CallerUnmapped.because(format!("the caller is not `{name}` of this node"))),
        }
    }
}

fn unknown() -> Refusal {
    Reason::LeaseUnknown.because("the caller holds no such registration")
}

#[cfg(test)]
mod tests {
    use api::node::LocalCaller;

    use super::*;
    use crate::config::RawService;

    const MINUTE: Duration = Duration::from_secs(60);

    fn own() -> TrustDomain {
        "pi.home.mesh".parse().expect("a name")
    }

    fn name(text: &str) -> ServiceName {
        text.parse().expect("a name")
    }

    fn service(text: &str, uid: u32) -> Declared {
        let selectors = vec![format!("uid:{uid}")];
        let raw = RawService { name: text.to_owned(), selectors, ..RawService::default() };
        Declared::of_raw(&raw, Source::Config).expect("a service")
    }

    fn process(uid: u32) -> (Registrant, Owner) {
        let owner = Owner { uid, pid: Some(uid), exe: None, cgroup: None, inode: 1 };
        (Registrant::Local(LocalCaller { uid, gid: uid, pid: Some(uid) }), owner)
    }

    fn at(text: &str, port: u16) -> Registration {
        let listen = Some(([127, 0, 0, 1], port).into());
        Registration { name: name(text), listen, protocol: None, health: None }
    }

    fn register(
        registry: &mut Registry,
        now: Instant,
        id: u128,
        by: &(Registrant, Owner),
        what: &Registration,
    ) -> Result<Lease, Reason> {
        register_after(registry, now, id, by, what, &|_| false)
    }

    fn register_after(
        registry: &mut Registry,
        now: Instant,
        id: u128,
        by: &(Registrant, Owner),
        what: &Registration,
        has_ended: &dyn Fn(&Registrant) -> bool,
    ) -> Result<Lease, Reason> {
        let own = own();
        let caller = Caller { own: &own, registrant: &by.0, owner: Some(&by.1), has_ended };
        registry.register(now, LeaseId(id), caller, what, MINUTE).map_err(|refusal| refusal.reason)
    }

    fn listens(registry: &Registry, text: &str) -> Option<u16> {
        registry.effective().get(&name(text)).and_then(|it| it.listen).map(|address| address.port())
    }

    #[test]
    fn a_process_registers_what_it_is_attested_as_and_nothing_else() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000), service("payment", 1001)]).expect("services");
        let (now, orders, stranger) = (Instant::now(), process(1000), process(2000));
        let check = |registry: &mut Registry, by, what: &Registration| register(registry, now, 1, by, what);
        assert_eq!(check(&mut registry, &stranger, &at("orders", 1)), Err(Reason::CallerUnmapped));
        assert_eq!(check(&mut registry, &orders, &at("payment", 1)), Err(Reason::CallerUnmapped));
        assert_eq!(check(&mut registry, &orders, &at("other", 1)), Err(Reason::ServiceUnknown));
        assert!(check(&mut registry, &orders, &at("orders", 9001)).is_ok());
        assert_eq!((listens(&registry, "orders"), listens(&registry, "payment")), (Some(9001), None));
    }

    #[test]
    fn what_the_operator_says_of_a_service_no_process_changes() {
        use api::node::{HealthCheck, Protocol};
        let mut registry = Registry::default();
        let health = Some("none".to_owned());
        let raw = RawService { name: "orders".to_owned(), health, ..RawService::default() };
        let raw = RawService { selectors: vec!["uid:1000".to_owned()], ..raw };
        registry
            .configure(vec![Declared::of_raw(&raw, Source::Config).expect("a service")])
            .expect("services");
        let mut check = |protocol, health, expected| {
            let what = Registration { protocol, health, ..at("orders", 9001) };
            let found = register(&mut registry, Instant::now(), 1, &process(1000), &what);
            assert_eq!(found.map(drop), expected, "{what:?}");
        };
        check(Some(Protocol::Tcp), None, Err(Reason::ArgumentInvalid));
        check(None, Some(HealthCheck::Grpc), Err(Reason::ArgumentInvalid));
        check(Some(Protocol::Grpc), Some(HealthCheck::None), Ok(()));
        check(None, None, Ok(()));
        let orders = registry.effective().remove(&name("orders")).expect("it is declared");
        assert_eq!((orders.protocol, orders.health), (proxy::Protocol::Grpc, kind(HealthCheck::None)));
        assert_eq!(listens(&registry, "orders"), Some(9001));
    }

    #[test]
    fn a_registration_ends_unless_its_owner_renews_it() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000)]).expect("services");
        let (now, orders, other) = (Instant::now(), process(1000), process(7));
        register(&mut registry, now, 1, &orders, &at("orders", 9001)).expect("a lease");
        let unknown = |result: Result<Lease, Refusal>| result.map_err(|refusal| refusal.reason);
        let id = LeaseId(1);
        assert_eq!(unknown(registry.renew(now, &other.0, id)), Err(Reason::LeaseUnknown));
        registry.renew(now + MINUTE / 2, &orders.0, id).expect("in time");
        assert!(!registry.expire(now + MINUTE));
        assert_eq!(registry.next_deadline(), Some(now + MINUTE * 3 / 2));
        assert!(registry.expire(now + MINUTE * 2));
        assert_eq!(listens(&registry, "orders"), None);
        assert_eq!(unknown(registry.renew(now, &orders.0, id)), Err(Reason::LeaseUnknown));
    }

    #[test]
    fn another_process_of_the_same_kind_takes_over_only_after_the_end() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000)]).expect("services");
        let now = Instant::now();
        let first = process(1000);
        let second = (
            Registrant::Local(LocalCaller { uid: 1000, gid: 1000, pid: Some(8) }),
            Owner { pid: Some(8), ..process(1000).1 },
        );
        register(&mut registry, now, 1, &first, &at("orders", 9001)).expect("a lease");
        let taken = register(&mut registry, now, 2, &second, &at("orders", 9002));
        assert_eq!(taken, Err(Reason::ServiceTaken));
        let later = now + 2 * MINUTE;
        register(&mut registry, later, 2, &second, &at("orders", 9002)).expect("a lease");
        assert_eq!(listens(&registry, "orders"), Some(9002));
        registry.deregister(&second.0, LeaseId(2)).expect("its own");
        assert_eq!(listens(&registry, "orders"), None);
    }

    #[test]
    fn a_process_that_ended_makes_room_for_the_next() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000)]).expect("services");
        let (now, first) = (Instant::now(), process(1000));
        let second = (Registrant::Local(LocalCaller { uid: 1000, gid: 1000, pid: Some(8) }), process(1000).1);
        register(&mut registry, now, 1, &first, &at("orders", 9001)).expect("a lease");
        let has_ended = |held: &Registrant| *held == first.0;
        register_after(&mut registry, now, 2, &second, &at("orders", 9002), &has_ended)
            .expect("the other has ended");
        assert_eq!(listens(&registry, "orders"), Some(9002));
        assert!(registry.renew(now, &first.0, LeaseId(1)).is_err());
    }

    #[test]
    fn a_reload_ends_registrations_of_processes_that_are_no_longer_meant() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000)]).expect("services");
        register(&mut registry, Instant::now(), 1, &process(1000), &at("orders", 9001)).expect("a lease");
        registry.configure(vec![service("orders", 1000), service("web", 1)]).expect("services");
        assert_eq!(listens(&registry, "orders"), Some(9001));
        registry.configure(vec![service("orders", 1001)]).expect("services");
        assert_eq!(listens(&registry, "orders"), None);
    }

    #[test]
    fn a_process_registers_addresses_of_its_machine_only() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000)]).expect("services");
        let mut check = |listen: &str, expected: Result<(), Reason>| {
            let listen = Some(listen.parse().expect("an address"));
            let what = Registration { listen, ..at("orders", 1) };
            let found = register(&mut registry, Instant::now(), 1, &process(1000), &what);
            assert_eq!(found.map(drop), expected, "{what:?}");
        };
        check("127.0.0.1:9001", Ok(()));
        check("[::1]:9001", Ok(()));
        check("192.0.2.1:9001", Err(Reason::ConfigInvalid));
        check("0.0.0.0:9001", Err(Reason::ConfigInvalid));
        check("169.254.169.254:80", Err(Reason::ConfigInvalid));
    }

    #[test]
    fn all_services_of_a_node_have_one_bound() {
        let mut registry = Registry::default();
        let many = |n: usize| (0..n).map(|n| service(&format!("s{n}"), 1)).collect::<Vec<_>>();
        registry.configure(many(SERVICES_MAX - 1)).expect("services");
        registry.add(service("added", 1)).expect("the last one");
        registry.add(service("added", 2)).expect("the same one");
        let beyond = registry.add(service("another", 1)).map_err(|refusal| refusal.reason);
        assert_eq!(beyond, Err(Reason::Overloaded));
        let beyond = registry.configure(many(SERVICES_MAX)).map_err(|refusal| refusal.reason);
        assert_eq!(beyond, Err(Reason::ConfigInvalid));
    }

    #[test]
    fn a_reload_with_an_error_changes_nothing() {
        let mut registry = Registry::default();
        registry.configure(vec![service("orders", 1000)]).expect("services");
        registry.add(service("added", 1)).expect("a service");
        let twice = registry.configure(vec![service("web", 1), service("web", 2)]);
        assert_eq!(twice.map_err(|refusal| refusal.reason), Err(Reason::ConfigInvalid));
        let taken = registry.configure(vec![service("web", 1), service("added", 2)]);
        assert_eq!(taken.map_err(|refusal| refusal.reason), Err(Reason::ServiceTaken));
        let names: Vec<_> = registry.effective().keys().map(ToString::to_string).collect();
        assert_eq!(names, ["added", "orders"]);
        let changes = registry.configure(vec![service("orders", 5), service("web", 1)]).expect("services");
        assert_eq!(changes, ["service orders changed", "service web added"]);
        assert!(registry.remove(&name("orders")).is_err(), "it stands in the configuration");
        registry.remove(&name("added")).expect("it was added");
    }
}
