//! Sockets: the only part of this crate that does IO.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`socket`] | advertisements of one virtual router on one interface |
//! | [`packet`] | gratuitous ARP and neighbour advertisements through a packet socket |

pub mod packet;
pub mod socket;
