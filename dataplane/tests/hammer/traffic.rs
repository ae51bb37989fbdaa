//! Packets of the same flows from both ends.

use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::Runner;
use ipvs_model::protocol::Protocol;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::Random;
use crate::lab::packets::*;
use crate::setup::{FLOWS, KINDS, SERVERS, client};

/// Frames of one flow or two, at the front of the list.
const HOT: u64 = 60;

/// Sends `packets` from clients on one processor, or from servers on the other.
pub fn generate(runner: &Runner, processor: usize, packets: u64, seed: u64, sent: &AtomicU64) {
    let mut cpus = CpuSet::new();
    cpus.set(processor).expect("a processor");
    // With one processor the two generators still interleave.
    let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    let frames = if processor == 0 {
        client_frames()
    } else {
        server_frames()
    };
    let mut random = Random::new(seed.wrapping_add(processor as u64 * 0x9e37_79b9));
    for _ in 0..packets {
        // Every other packet is one of a few flows, so that both processors are at the same entry.
        let among = if random.below(2) == 0 {
            HOT
        } else {
            frames.len() as u64
        };
        let at = random.below(among) as usize;
        runner.run(&frames[at], 1, 1).expect("the program runs");
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

fn client_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for ipv6 in [false, true] {
        for flow in 0..FLOWS {
            let client = client(flow, ipv6);
            for kind in KINDS {
                let vip = kind.destination(ipv6);
                match kind.protocol {
                    Protocol::Udp => frames.extend(vec![udp(&client, &vip).frame(); 3]),
                    Protocol::Tcp => {
                        for flags in [SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST] {
                            frames.push(tcp(&client, &vip, flags).frame());
                        }
                    }
                    Protocol::Sctp => {
                        for kind in [INIT, INIT, COOKIE_ECHO, DATA, DATA, SHUTDOWN, ABORT] {
                            frames.push(sctp(&client, &vip, kind).frame());
                        }
                    }
                }
            }
        }
    }
    frames
}

fn server_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for ipv6 in [false, true] {
        for flow in 0..FLOWS {
            let client = client(flow, ipv6);
            for server in SERVERS {
                let server = crate::setup::family(server, ipv6);
                for flags in [SYN | ACK, ACK, ACK, FIN | ACK, RST] {
                    frames.push(tcp(&server, &client, flags).frame());
                }
                frames.push(udp(&server, &client).frame());
                for kind in [INIT_ACK, COOKIE_ACK, DATA, SHUTDOWN_ACK] {
                    frames.push(sctp(&server, &client, kind).frame());
                }
            }
            // New connections from this processor too.
            for kind in KINDS {
                let vip = kind.destination(ipv6);
                frames.push(match kind.protocol {
                    Protocol::Tcp => tcp(&client, &vip, SYN).frame(),
                    Protocol::Udp => udp(&client, &vip).frame(),
                    Protocol::Sctp => sctp(&client, &vip, INIT).frame(),
                });
            }
        }
    }
    frames
}
