//! Replays recorded transcripts of the real ipvsadm 1.31 (`tests/golden/*.json`).
//!
//! `grammar` runs the built program without any director on every case that the command line
//! alone decides. `replay` plays whole transcripts against a model director that knows everything
//! IPVS knows. Both print what they compared and name what they could not.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

mod cases;
mod director;
mod grammar;
mod program;
mod replay;
