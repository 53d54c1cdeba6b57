//! What operators change: what was asked, by whom, and the audit of it, kept whole or not at all.

use serde_json::json;

use api::node::{Asker, Declaration, Source};
use store::{Change, Durability};
use types::{Now, Reason, Refusal, ServiceName};

use super::declared::{self, Declared};
use super::{ROOM, Services};
use crate::audit;
use crate::config::PROXY_IS_OFF;

/// Most bytes of a declaration as it is kept, so that the audit has room for it.
const DECLARATION_LEN_MAX: usize = 32 << 10;

impl Services {
    /// Replaces what the configuration declares.
    pub(super) async fn configure(
        &mut self,
        by: &Asker,
        declared: Vec<Declared>,
    ) -> Result<Vec<String>, Refusal> {
        let mut registry = self.registry.clone();
        let changes = registry.configure(declared)?;
        let data = json!({ "by": by.to_string(), "changes": changes });
        self.keep(Vec::new(), "service.configuration.reloaded.v1", "", data).await?;
        self.registry = registry;
        Ok(changes)
    }

    /// Adds a service.
    pub(super) async fn add(&mut self, by: &Asker, declaration: &Declaration) -> Result<(), Refusal> {
        if self.node.inbound.is_none() {
            return Err(Reason::ConfigInvalid.because(format!("`proxy.enabled`: {PROXY_IS_OFF}")));
        }
        self.check_scope(&declaration.name)?;
        let mut registry = self.registry.clone();
        registry.add(Declared::new(declaration, Source::Added)?)?;
        let value = serde_json::to_vec(&declared::to_raw(declaration))
            .map_err(|err| Reason::ConfigInvalid.because(err.to_string()))?;
        if value.len() > DECLARATION_LEN_MAX {
            let detail =
                format!("a declaration of {} bytes where {DECLARATION_LEN_MAX} are allowed", value.len());
            return Err(Reason::ConfigInvalid.because(detail));
        }
        let key = declaration.name.as_str().as_bytes().to_vec();
        let data = json!({ "by": by.to_string(), "service": declared::to_raw(declaration) });
        let change = Change::Put { room: ROOM.name, key, value };
        self.keep(vec![change], "service.declaration.added.v1", declaration.name.as_str(), data).await?;
        self.registry = registry;
        Ok(())
    }

    /// Removes one that was added.
    pub(super) async fn remove(&mut self, by: &Asker, name: &ServiceName) -> Result<(), Refusal> {
        let mut registry = self.registry.clone();
        if !self.shadowed.contains(name) {
            registry.remove(name)?;
        }
        let change = Change::Delete { room: ROOM.name, key: name.as_str().as_bytes().to_vec() };
        let data = json!({ "by": by.to_string() });
        self.keep(vec![change], "service.declaration.removed.v1", name.as_str(), data).await?;
        self.shadowed.remove(name);
        self.registry = registry;
        Ok(())
    }

    /// Keeps changes together with what the audit is to know of them.
    async fn keep(
        &self,
        changes: Vec<Change>,
        kind: &str,
        subject: &str,
        data: serde_json::Value,
    ) -> Result<(), Refusal> {
        let event = audit::event(&self.node.own, Now::read(), kind, subject, data);
        let kept = self.node.store.commit(Durability::Durable, changes, vec![event]).await;
        kept.map_err(|err| Reason::NotServing.because(format!("failed to write the database: {err}")))
    }
}
