//! The rules that the programs and user space both run.

pub mod directing;
pub mod schedule;
pub mod sync;
pub mod tcp;
pub mod transition;
