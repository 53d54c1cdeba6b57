//! Whether a local service is well, and whether it is the service at all.
//!
//! Each round asks the kernel who listens on the service's port, then connects, or asks for its health
//! (grpc.health.v1). A service that lies, says SERVING and serves nothing, is not found out here: callers see
//! it, and their routers eject it.

mod grpc;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use attest::{Attestor, Owner, Selector};
use types::{Reason, Refusal, ServiceName, chain};

use self::grpc::Answer;

/// How a service is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// By grpc.health.v1. A server that does not have it is asked as by `Tcp`.
    #[default]
    Grpc,
    /// It is well if it takes connections.
    Tcp,
    /// It is well as long as the right process listens.
    None,
}

/// How a service's health is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How the service is asked. Default `Grpc`.
    pub kind: Kind,
    /// How long lies between two rounds. Default 2 s, from 100 ms to 5 min.
    pub interval: Duration,
    /// How long the service may take to answer. Default 1 s, from 10 ms to 30 s.
    pub timeout: Duration,
    /// After how many good rounds in a row the service is well. Default 1, from 1 to 10.
    pub rise: u32,
    /// After how many bad rounds in a row it is not. Default 2, from 1 to 10. A foreign listener counts at once.
    pub fall: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 2,
        }
    }
}

/// A setting cannot be used. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of the configuration.
    #[error("`{field}` is out of bounds: set it to {bounds}")]
    Bounds {
        /// The field.
        field: &'static str,
        /// What it may be.
        bounds: &'static str,
    },
}

impl Config {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// [`Error::Bounds`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        let rules = [
            ((ms(100)..=secs(300)).contains(&self.interval), "health.interval", "100 ms to 5 min"),
            ((ms(10)..=secs(30)).contains(&self.timeout), "health.timeout", "10 ms to 30 s"),
            ((1..=10).contains(&self.rise), "health.rise", "1 to 10"),
            ((1..=10).contains(&self.fall), "health.fall", "1 to 10"),
        ];
        match rules.into_iter().find(|(is_kept, ..)| !is_kept) {
            Some((_, field, bounds)) => Err(Error::Bounds { field, bounds }),
            None => Ok(()),
        }
    }
}

/// Watches one local service.
pub struct Checker {
    config: Config,
    backend: SocketAddr,
    selectors: Vec<Selector>,
    attestor: Arc<Attestor>,
    service: ServiceName,
    health: watch::Sender<Result<(), Refusal>>,
    streak: Streak,
    /// Whether it was said that the service cannot be asked for its health.
    has_told: bool,
}

/// How many rounds in a row ended alike.
#[derive(Debug, Default)]
struct Streak {
    n_good: u32,
    n_bad: u32,
}

impl Checker {
    /// A checker of the service whose process listens on `backend`, and what it finds: at first that nothing was
    /// checked yet. `config` was checked.
    pub fn new(
        config: Config,
        backend: SocketAddr,
        selectors: Vec<Selector>,
        attestor: Arc<Attestor>,
        service: ServiceName,
    ) -> (Self, watch::Receiver<Result<(), Refusal>>) {
        debug_assert_eq!(config.check(), Ok(()));
        let unknown = Reason::ServiceUnhealthy.because(format!("`{service}` is not checked yet"));
        let (health, seen) = watch::channel(Err(unknown));
        let streak = Streak::default();
        let checker = Self { config, backend, selectors, attestor, service, health, streak, has_told: false };
        (checker, seen)
    }

    /// Checks at once and then every `interval`, until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut rounds = interval(self.config.interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A round that is cut short has told nobody anything.
        let check = async {
            loop {
                rounds.tick().await;
                let found = self.check().await;
                self.take(found);
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = check => {}
        }
    }

    /// One round.
    async fn check(&mut self) -> Result<(), Refusal> {
        let (service, backend) = (&self.service, self.backend);
        // The process may change between this and the question. The next round sees that.
        let owner = self.attestor.listener(backend).await.map_err(|err| {
            self.unhealthy(&format!("it could not be told who listens on {backend}: {}", chain(&err)))
        })?;
        let owner = owner.ok_or_else(|| self.unhealthy(&format!("nobody listens on {backend}")))?;
        if !owner.matches(&self.selectors) {
            return Err(foreign(service, backend, &owner));
        }
        let asked = async {
            match self.config.kind {
                Kind::Grpc => {
                    let stream = connect(backend).await?;
                    grpc::ask(stream, backend, service, self.config.timeout).await
                }
                Kind::Tcp => connect(backend).await.map(|_| Answer::Serving),
                Kind::None => Ok(Answer::Serving),
            }
        };
        let late = || Err(format!("{backend} did not answer within {:?}", self.config.timeout));
        let answer = timeout(self.config.timeout, asked).await.unwrap_or_else(|_| late());
        match answer.map_err(|seen| self.unhealthy(&seen))? {
            Answer::Serving => {}
            Answer::Unknown => self.tell_unknown(),
        }
        Ok(())
    }

    fn unhealthy(&self, seen: &str) -> Refusal {
        Reason::ServiceUnhealthy.because(format!("`{}` is not well: {seen}", self.service))
    }

    fn tell_unknown(&mut self) {
        if !std::mem::replace(&mut self.has_told, true) {
            let service = &self.service;
            info!(%service, "the service has no grpc.health.v1: it counts as well if it takes connections");
        }
    }

    /// Takes in what a round has found, and tells it if it holds.
    fn take(&mut self, found: Result<(), Refusal>) {
        let is_well = self.health.borrow().is_ok();
        let holds = self.streak.holds(&found, is_well, &self.config);
        let service = &self.service;
        self.health.send_if_modified(|health| {
            if !holds || *health == found {
                return false;
            }
            match &found {
                Ok(()) => info!(%service, "the service is well"),
                Err(refusal) if is_well => {
                    warn!(%service, error = %refusal, "the service is not well any more");
                }
                Err(refusal) => info!(%service, error = %refusal, "the service is not well yet"),
            }
            *health = found;
            true
        });
    }
}

impl Streak {
    /// Counts what a round has found, and says whether it is to be believed.
    fn holds(&mut self, found: &Result<(), Refusal>, is_well: bool, config: &Config) -> bool {
        match found {
            Ok(()) => {
                *self = Self { n_good: self.n_good.saturating_add(1), n_bad: 0 };
                self.n_good >= config.rise
            }
            Err(refusal) => {
                *self = Self { n_good: 0, n_bad: self.n_bad.saturating_add(1) };
                // No patience with who may be an impostor; and bad news of what is not well are only news.
                !is_well || self.n_bad >= config.fall || refusal.reason == Reason::ListenerForeign
            }
        }
    }
}

/// Whether the body of an answer says SERVING.
///
/// # Errors
/// What it says instead.
pub(crate) fn is_serving(body: &[u8]) -> Result<bool, String> {
    grpc::health(body).map(|answer| answer == Answer::Serving)
}

/// Succeeds also if the service is busy: the kernel takes connections for it.
async fn connect(backend: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(backend).await;
    stream.map_err(|err| format!("failed to connect to {backend}: {err}"))
}

fn foreign(service: &ServiceName, backend: SocketAddr, owner: &Owner) -> Refusal {
    let pid = owner.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    let (uid, selector) = (owner.uid, owner.selector());
    Reason::ListenerForeign.because(format!(
        "{backend} belongs to user {uid}{pid}, whom the selectors of `{service}` do not match; \
         `selectors = [\"{selector}\"]` would"
    ))
}
