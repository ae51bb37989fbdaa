//! Sockets: the only part of this crate that does IO.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`socket`] | advertisements of one virtual router on one interface |
//! | [`filter`] | which of them the kernel puts into which queue |
//! | [`source`] | the address they come from |
//! | [`links`] | where a packet socket is told to send |
//! | [`packet`] | gratuitous ARP and neighbour advertisements through a packet socket |

pub mod filter;
pub mod links;
pub mod packet;
pub mod socket;
pub mod source;
