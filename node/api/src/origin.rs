//! Where a call comes from, and what that allows: by certificate on the port, by user on the Unix socket.

use std::fmt;
use std::sync::Arc;

use tonic::Extensions;

use identity::{Members, Role, Who};
use types::{Now, Reason, Refusal, SpiffeId, Workload};

use crate::node::{Asker, LocalCaller, Registrant};
use crate::roles::{self, Least};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A member or an operator, by its certificate.
    Remote(Arc<tls::Peer>),
    /// A process of this machine, with the role that its user has.
    Local(LocalCaller, Role),
}

impl Origin {
    /// The user whose connections are bounded: of a process of this machine that is no admin's.
    pub(crate) const fn bounded_uid(&self) -> Option<u32> {
        match self {
            Self::Local(caller, role) if !matches!(role, Role::Admin) => Some(caller.uid),
            Self::Local(..) | Self::Remote(_) => None,
        }
    }

    /// Whether the caller would be let in still.
    pub(crate) fn recheck(&self, now: Now, members: &Members) -> Result<(), Refusal> {
        match self {
            Self::Remote(peer) => peer.recheck(now, members),
            Self::Local(..) => Ok(()),
        }
    }

    /// Whether the caller may make a call, by what `members` says now.
    pub(crate) fn check(&self, least: Least, now: Now, members: &Members) -> Result<(), Refusal> {
        self.recheck(now, members)?;
        match least {
            Least::Anyone => Ok(()),
            Least::Workload => self.registrant().map(drop),
            Least::Role(least) => {
                let held = self.role(members)?;
                if held >= least {
                    return Ok(());
                }
                let (needed, held) = (roles::name(least), roles::name(held));
                Err(Reason::RoleRequired
                    .because(format!("the call needs the role {needed}, and {self} has {held}")))
            }
        }
    }

    /// The role, as the record has it now. Certificates give none.
    fn role(&self, members: &Members) -> Result<Role, Refusal> {
        match self {
            Self::Local(_, role) => Ok(*role),
            Self::Remote(peer) => match (&peer.caller.who, &peer.caller.id) {
                (Who::Member(_), _) => Ok(Role::View),
                (Who::Operator { .. }, SpiffeId::Operator { name, .. }) => {
                    let record = members.operators().find(|it| it.name == *name);
                    let none = || Reason::OperatorUnknown.because(format!("`{name}` has no role"));
                    record.and_then(|it| it.role).ok_or_else(none)
                }
                (Who::Operator { .. }, SpiffeId::Workload { .. }) => {
                    Err(Reason::SvidMalformed.because("a workload has no role"))
                }
            },
        }
    }

    /// Who it is, for the audit.
    pub(crate) fn asker(&self) -> Asker {
        match self {
            Self::Local(caller, _) => Asker::Local(*caller),
            Self::Remote(peer) => Asker::Remote(peer.caller.id.clone()),
        }
    }

    /// Of a call that the gate let through, as it noted it there.
    pub(crate) fn of(extensions: &Extensions) -> Result<&Self, Refusal> {
        extensions.get().ok_or_else(|| Reason::CallerGone.because("nobody is known to call"))
    }

    /// The workload that calls.
    pub(crate) fn registrant(&self) -> Result<Registrant, Refusal> {
        match self {
            Self::Local(caller, _) => Ok(Registrant::Local(*caller)),
            Self::Remote(peer) => match &peer.caller.id {
                id @ SpiffeId::Workload { workload: Workload::Service(_), .. } => {
                    Ok(Registrant::Service(id.clone()))
                }
                id => Err(Reason::RoleRequired
                    .because(format!("only a workload registers itself, and {id} is none"))),
            },
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(peer) => write!(f, "{}", peer.caller.id),
            Self::Local(caller, _) => write!(f, "{caller}"),
        }
    }
}
