//! Who may call a service: a list of allowances; what is not allowed is refused.

use types::{Refusal, ServiceName, SpiffeId};

/// One line of `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `*`: every service and node of the mesh.
    Anyone,
    /// `svc/NAME`: that service on any node.
    Service(ServiceName),
    /// `node/NAME`: that node itself.
    Node(types::NodeName),
    /// `operator/NAME`, or `spiffe://…`: exactly this identity.
    Id(SpiffeId),
}

/// Who may call one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The lines, in their order.
    pub allow: Vec<Rule>,
}

impl Policy {
    /// Whether `caller` may call `service`.
    ///
    /// # Errors
    /// [`types::Reason::PolicyDenied`], naming the line that would allow it.
    pub fn check(&self, _service: &ServiceName, _caller: &SpiffeId) -> Result<(), Refusal> {
        unreachable!("written by the next commit")
    }
}
