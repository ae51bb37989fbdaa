//! lc, wlc, sed, nq, fo, ovf: the best server of one pass over the list; of equals the first.

use super::{Candidate, FO, HEAD, LC, NQ, OVF, SED, Step, Walk, is_less_loaded, overhead};

impl Walk {
    #[inline(always)]
    pub(super) fn step_rank(&mut self, server: Candidate) -> Step {
        if is_eligible(self.scheduler, &server) {
            if self.scheduler == NQ && server.active == 0 {
                return self.choose(server);
            }
            if self.best.slot == HEAD || is_better(self.scheduler, &server, &self.best) {
                self.best = server;
            }
        }
        self.advance()
    }
}

/// ovf passes over servers with more active connections than weight (`ip_vs_ovf.c`).
#[inline(always)]
const fn is_eligible(scheduler: u8, server: &Candidate) -> bool {
    server.is_usable() && !(scheduler == OVF && server.active > server.weight)
}

/// Whether `a`, met after `b`, is chosen in its place.
#[inline(always)]
const fn is_better(scheduler: u8, a: &Candidate, b: &Candidate) -> bool {
    match scheduler {
        LC => overhead(a) < overhead(b),
        SED | NQ => expects_less_delay(a, b),
        FO | OVF => a.weight > b.weight,
        _ => is_less_loaded(a, b),
    }
}

/// Whether one more connection would wait less at `a` than at `b`
/// (`ip_vs_sed.c: ip_vs_sed_dest_overhead`).
#[inline(always)]
const fn expects_less_delay(a: &Candidate, b: &Candidate) -> bool {
    (b.active as u64 + 1).wrapping_mul(a.weight as u64)
        > (a.active as u64 + 1).wrapping_mul(b.weight as u64)
}
