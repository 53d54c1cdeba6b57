//! Where a call goes, and who may call: balancing, deadlines, retries, policy.
//!
//! A core: it knows endpoints, picks one for each call, learns from what became of it, and says no. It knows
//! nothing of HTTP, sockets or processes, and never learns what a call carries.

mod config;
mod error;

mod call;
mod endpoint;
mod policy;
mod router;

mod budget;
mod calls;
mod latency;
mod service;
mod silence;
mod standing;

#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::call::{Attempt, Decision, Outcome, Request, Route, Ticket};
pub use crate::calls::CALLS_MAX;
pub use crate::config::Config;
pub use crate::endpoint::{Endpoint, EndpointId, State, View, Why};
pub use crate::error::Error;
pub use crate::policy::{Policy, Rule};
pub use crate::router::{Router, SERVICES_MAX};
pub use crate::service::ENDPOINTS_MAX;
