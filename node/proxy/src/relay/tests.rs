//! Workers by themselves, on sockets of this machine.
