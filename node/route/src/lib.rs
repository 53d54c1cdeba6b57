//! Where a call goes, and who may call: balancing, deadlines, retries, policy.
//!
//! A core: it knows endpoints, picks one for each call, learns from what became of it, and says no. It knows
//! nothing of HTTP, sockets or processes, and never learns what a call carries.

mod config;

mod call;
mod endpoint;
mod policy;
mod router;

pub use crate::call::{Attempt, Decision, Outcome, Request, Route, Ticket};
pub use crate::config::Config;
pub use crate::endpoint::{Endpoint, EndpointId};
pub use crate::policy::{Policy, Rule};
pub use crate::router::Router;
