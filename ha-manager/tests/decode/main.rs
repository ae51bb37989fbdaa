//! `directord decode` against recorded captures of kernels and of keepalived, against bytes that are
//! no capture, and as a program.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

mod announcements;
mod broken;
mod captures;
mod inject;
mod program;
mod sync;
mod vrrp;
