//! The data plane's programs.
//!
//! `director` sits at TC ingress of the director's interfaces. `apply` and `expire` are never
//! attached: user space runs them over a batch of items, because only programs write connection
//! entries.
//!
//! A packet takes this way: [`packet`] reads its headers, one lookup in `FLOWS4` says whether it
//! belongs to a connection and in which direction, [`connection`] moves the connection's word,
//! [`schedule`] makes a new connection when there is none, and [`transmit`] rewrites and sends it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod apply;
mod atomic;
mod clock;
mod connection;
mod director;
mod emit;
mod expire;
mod maps;
mod offer;
mod packet;
mod schedule;
mod transmit;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dataplane_common::verdict::{Action, Verdict};

/// Handles a frame that came in on one of the director's interfaces.
#[classifier]
pub fn director(ctx: TcContext) -> i32 {
    let outcome = director::handle(&ctx);
    maps::count_verdict(outcome.verdict);
    match outcome.verdict.action() {
        // The next program, then the stack.
        Action::Pass => TC_ACT_UNSPEC,
        // Dropped, but the frame has become the ICMP error about it.
        Action::Drop if outcome.redirect != 0 => outcome.redirect,
        Action::Drop => TC_ACT_SHOT as i32,
        Action::Forward => outcome.redirect,
    }
}

/// Creates or refreshes the connections of a batch.
#[classifier]
pub fn apply(ctx: TcContext) -> i32 {
    apply::run(&ctx)
}

/// Marks and frees the connections of a batch.
#[classifier]
pub fn expire(ctx: TcContext) -> i32 {
    expire::run(&ctx)
}

/// What became of a packet, and the return code of the redirect if it was sent.
pub struct Outcome {
    pub verdict: Verdict,
    pub redirect: i32,
}

impl From<Verdict> for Outcome {
    #[inline(always)]
    fn from(verdict: Verdict) -> Outcome {
        Outcome {
            verdict,
            redirect: 0,
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
