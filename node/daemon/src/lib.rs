//! The node as a program: its command line, its configuration, and where it keeps its state.
//!
//! Decides nothing that a room can decide. What a command does to the mesh is in `identity`; here it is read,
//! kept, and told to people.

pub mod cli;
pub mod config;
pub mod exit;
pub mod metrics;
pub mod telemetry;

pub mod addresses;
mod audit;
pub mod keeper;
pub mod readiness;
pub mod services;
pub mod state;

pub mod authorities;
pub mod init;
pub mod join;
pub mod renewal;
pub mod status;
pub mod why;

pub mod app;
mod carried;
mod figures;
mod node;
mod run_dir;
mod serving;
pub mod tunnels;

pub mod demo;
pub mod shop;
