//! Our programs against what others wrote: tshark's dissector of the sync protocol, a reader that
//! shares no line with ours, and the recorded transcript of the real ipvsadm about sync daemons.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

mod datagrams;
mod dissection;
mod encoder;
mod host;
mod live;
mod transcript;
