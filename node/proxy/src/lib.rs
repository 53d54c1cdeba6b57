//! Carries calls between services over mutual TLS.

pub mod health;
