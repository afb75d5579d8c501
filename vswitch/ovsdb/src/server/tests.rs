//! Clients on a real socket.
