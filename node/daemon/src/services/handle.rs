//! What other rooms hold of services.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use api::node::{Asker, Declaration, Lease, LeaseId, Registrant, Registration, Service};
use proxy::Table;
use types::{Reason, Refusal, ServiceName};

use super::declared::Declared;

/// Commands that wait. Beyond that whoever asks waits.
pub(super) const COMMANDS_MAX: usize = 64;

type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

pub(super) enum Command {
    Configure(Asker, Vec<Declared>, Answer<Vec<String>>),
    Add(Asker, Declaration, Answer<()>),
    Remove(Asker, ServiceName, Answer<()>),
    Register(Registrant, Registration, Duration, Answer<Lease>),
    Renew(Registrant, LeaseId, Answer<Lease>),
    Deregister(Registrant, LeaseId, Answer<()>),
}

/// What other rooms hold of services. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) table: watch::Receiver<Arc<Table>>,
    pub(super) shown: watch::Receiver<Arc<Vec<Service>>>,
}

impl Handle {
    /// What the proxy goes by.
    pub fn table(&self) -> watch::Receiver<Arc<Table>> {
        self.table.clone()
    }

    /// All services, for people.
    pub fn shown(&self) -> watch::Receiver<Arc<Vec<Service>>> {
        self.shown.clone()
    }

    /// Replaces what the configuration declares, whole or not at all; answers what changed.
    ///
    /// # Errors
    /// [`Reason::ConfigInvalid`], [`Reason::ServiceTaken`].
    pub async fn configure(&self, by: Asker, declared: Vec<Declared>) -> Result<Vec<String>, Refusal> {
        self.ask(|answer| Command::Configure(by, declared, answer)).await
    }

    /// Adds a service and keeps it.
    ///
    /// # Errors
    /// [`Reason::ConfigInvalid`], [`Reason::ServiceTaken`], [`Reason::SvidOutOfScope`].
    pub async fn add(&self, by: Asker, declaration: Declaration) -> Result<(), Refusal> {
        self.ask(|answer| Command::Add(by, declaration, answer)).await
    }

    /// Removes a service that was added.
    ///
    /// # Errors
    /// [`Reason::ServiceUnknown`].
    pub async fn remove(&self, by: Asker, name: ServiceName) -> Result<(), Refusal> {
        self.ask(|answer| Command::Remove(by, name, answer)).await
    }

    /// Registers where a process serves.
    ///
    /// # Errors
    /// As `Registry::register`.
    pub async fn register(
        &self,
        by: Registrant,
        registration: Registration,
        ttl: Duration,
    ) -> Result<Lease, Refusal> {
        self.ask(|answer| Command::Register(by, registration, ttl, answer)).await
    }

    /// Extends a registration.
    ///
    /// # Errors
    /// [`Reason::LeaseUnknown`].
    pub async fn renew(&self, by: Registrant, id: LeaseId) -> Result<Lease, Refusal> {
        self.ask(|answer| Command::Renew(by, id, answer)).await
    }

    /// Ends a registration.
    ///
    /// # Errors
    /// [`Reason::LeaseUnknown`].
    pub async fn deregister(&self, by: Registrant, id: LeaseId) -> Result<(), Refusal> {
        self.ask(|answer| Command::Deregister(by, id, answer)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let stopping = || Reason::NotServing.because("the node is stopping");
        self.commands.send(command(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}
