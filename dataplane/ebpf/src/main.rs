//! The data plane's programs.
//!
//! `director` sits at TC ingress of the director's interfaces and handles IPv4; `director6` goes on
//! with a frame of IPv6; `schedule4` and `schedule6` choose the server of a new connection (`recall4`
//! and `recall6` with the schedulers that remember servers), `connect4` and `connect6` make it.
//! `guard` sits at TC egress of interfaces with a virtual router's MAC address.
//! `apply` and `expire` are never attached: user space runs them over a batch of items, because only
//! programs write connection entries.
//!
//! A packet takes this way: [`packet4`] or [`packet6`] reads its headers, one lookup in the flow table
//! says whether it belongs to a connection and in which direction, [`state`] moves the connection's
//! word, [`schedule`] and [`connect`] make a new connection when there is none, and [`transmit`] rewrites and sends
//! it. What IPv4 and IPv6 differ in is in [`family`]; everything else is generic over it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod apply;
mod atomic;
mod cache;
mod clock;
mod connect;
mod connection;
mod director;
mod emit;
mod emit4;
mod emit6;
mod expire;
mod family;
mod guard;
mod known;
mod maps;
mod offer;
mod packet;
mod packet4;
mod packet6;
mod persistence;
mod pick;
mod schedule;
mod server;
mod service;
mod state;
mod transmit;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dataplane_common::verdict::{Action, Event, Verdict};

use crate::family::{V4, V6};

/// Handles a frame that came in on one of the director's interfaces.
#[classifier]
pub fn director(ctx: TcContext) -> i32 {
    finish(director::handle(&ctx))
}

/// Handles a frame of IPv6.
#[classifier]
pub fn director6(ctx: TcContext) -> i32 {
    finish(director::ip::<V6>(&ctx))
}

/// Chooses the real server of an IPv4 connection.
#[classifier]
pub fn schedule4(ctx: TcContext) -> i32 {
    finish(schedule::handle::<V4>(&ctx))
}

/// Chooses the real server of an IPv6 connection.
#[classifier]
pub fn schedule6(ctx: TcContext) -> i32 {
    finish(schedule::handle::<V6>(&ctx))
}

/// Chooses a real server that was remembered for an IPv4 destination.
#[classifier]
pub fn recall4(ctx: TcContext) -> i32 {
    finish(cache::handle::<V4>(&ctx))
}

/// Chooses a real server that was remembered for an IPv6 destination.
#[classifier]
pub fn recall6(ctx: TcContext) -> i32 {
    finish(cache::handle::<V6>(&ctx))
}

/// Makes an IPv4 connection.
#[classifier]
pub fn connect4(ctx: TcContext) -> i32 {
    finish(connect::handle::<V4>(&ctx))
}

/// Makes an IPv6 connection.
#[classifier]
pub fn connect6(ctx: TcContext) -> i32 {
    finish(connect::handle::<V6>(&ctx))
}

/// Looks at a frame that goes out with a virtual router's MAC address.
#[classifier]
pub fn guard(ctx: TcContext) -> i32 {
    if guard::may_go(&ctx) {
        return TC_ACT_UNSPEC;
    }
    maps::count(Event::HeldBack);
    TC_ACT_SHOT as i32
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

/// Counts what became of a frame, and gives what the program must return.
#[inline(always)]
fn finish(outcome: Outcome) -> i32 {
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
