//! The rules that the programs and user space both run.

pub mod crc32c;
pub mod directing;
pub mod estimate;
pub mod persistence;
pub mod schedule;
pub mod sctp;
pub mod sync;
pub mod tcp;
pub mod threshold;
pub mod transition;
