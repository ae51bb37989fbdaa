//! The sync daemons on real data planes, sockets and links.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

mod host;
mod pair;
mod replay;
