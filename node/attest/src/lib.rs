//! Which process owns a socket.
