//! The node as a program: its command line, its configuration, and where it keeps its state.
//!
//! Decides nothing that a room can decide. What a command does to the mesh is in `identity`; here it is read,
//! kept, and told to people.

pub mod cli;
pub mod config;
pub mod exit;

pub mod state;

pub mod init;
pub mod status;

pub mod shop;
