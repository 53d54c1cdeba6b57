//! Carries calls between services over mutual TLS.
