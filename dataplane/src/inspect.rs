//! A look into the tables and at the programs from the side: for recounts, tests and measurements.

use std::io;

use dataplane_common::batch::{BatchResult, ExpireOp, REGION_ITEMS};
use dataplane_common::entry::{Conn4, Conn6};
use ipvs_model::service::{ServerKey, ServiceKey};

use crate::convert::{AF_INET, AF_INET6};
use crate::sweep::{self, Place};
use crate::{DataPlane, Runner, TestRun};

impl DataPlane {
    /// Ends connections of one family, by place and generation, whatever their deadline; gives back
    /// how many were marked.
    pub fn expire_now(&mut self, ipv6: bool, places: &[(u32, u32)]) -> usize {
        let family = if ipv6 { AF_INET6 } else { AF_INET };
        let mut marked = 0;
        let places: Vec<Place> = places
            .iter()
            .map(|(index, generation)| Place {
                family,
                index: *index,
                generation: *generation,
            })
            .collect();
        for chunk in places.chunks(REGION_ITEMS as usize) {
            let results = sweep::expire(&mut self.maps, &self.programs, chunk, ExpireOp::Mark);
            marked += results
                .iter()
                .filter(|(_, result)| *result == BatchResult::Marked)
                .count();
        }
        marked
    }

    /// Place and generation of a listed server.
    pub fn server_slot(&self, service: &ServiceKey, server: ServerKey) -> Option<(u32, u32)> {
        self.services.server_slot(&self.maps, service, server)
    }

    /// Packed connection counters of every place for servers, for recounts.
    pub fn server_conns(&self) -> Vec<u64> {
        (0..self.maps.servers.len())
            .map(|slot| self.maps.servers.read(slot).conns)
            .collect()
    }

    /// Templates bound to every place for servers, for recounts.
    pub fn server_persistent(&self) -> Vec<u64> {
        (0..self.maps.servers.len())
            .map(|slot| self.maps.servers.read(slot).persistent)
            .collect()
    }

    /// Records of what few connections have beside the rest, left-over ones included.
    pub fn extra_count(&self) -> usize {
        self.extras.count()
    }

    /// A copy of a place of the IPv4 table, for recounts.
    pub fn conn4(&self, index: u32) -> Conn4 {
        self.maps.conns4.read(index)
    }

    /// A copy of a place of the IPv6 table, for recounts.
    pub fn conn6(&self, index: u32) -> Conn6 {
        self.maps.conns6.read(index)
    }

    /// Elements of both flow tables, for recounts.
    pub fn flow_count(&self) -> usize {
        let four = self.maps.flows4.keys().flatten().count();
        four + self.maps.flows6.keys().flatten().count()
    }

    /// Takes the virtual addresses of all services for this host's, whatever its routes say, until
    /// they change. For measurements in which a real server's address is a virtual address too.
    #[doc(hidden)]
    pub fn pretend_vips_are_local(&mut self) {
        self.services.pretend_vips_are_local(&self.maps);
    }

    /// Runs the director over a frame as if it came in on `ifindex`.
    ///
    /// # Errors
    /// The kernel's, when it cannot run the program.
    pub fn test_run(&self, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<TestRun> {
        self.runner()?.run(frame, ifindex, repeat)
    }

    /// The same with a firewall mark on the frame (`skb->mark`).
    ///
    /// # Errors
    /// The kernel's, when it cannot run the program.
    pub fn test_run_marked(
        &self,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
        mark: u32,
    ) -> io::Result<TestRun> {
        self.runner()?.run_marked(frame, ifindex, repeat, mark)
    }

    /// A handle that runs the director from another thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn runner(&self) -> io::Result<Runner> {
        self.programs.runner()
    }
}
