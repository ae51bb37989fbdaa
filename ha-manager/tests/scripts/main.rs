//! Scripts as processes of their own: the runner of the shipped `directord`, what tracks by scripts,
//! processes and files, and who is told of changes. Everything here needs root, since scripts are
//! run as another user.
#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod notify;
mod runner;
mod runner_end;
mod support;
mod tracking;
