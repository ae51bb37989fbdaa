//! Feeds a backup with prepared datagrams, and waits until it has made something of each.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::burst::{BURST, Burst, Pace};
use super::cpu::ThreadTimes;
use super::wire::{ENTRIES_OF_A_MESSAGE, count};
use crate::director::Director;
use crate::drill::Drill;
use crate::netns::Namespaces;
use crate::wait::{check_interrupt, wait_until};

pub(crate) const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 81), 8848);
/// What a sender with a window lets wait in the socket: far less than the smallest default buffer
/// holds, as each datagram counts with the memory that it takes. Unit: bytes.
const WINDOW: u64 = 64 << 10;
/// Pause of a sender whose window is used up.
const WINDOW_PAUSE: Duration = Duration::from_micros(30);
/// When no counter moves for so long, all has been told that can be told of everything that was
/// sent.
const QUIET: Duration = Duration::from_millis(60);
/// The same while something is missing that may still come, on a machine with much else to do.
const QUIET_MISSING: Duration = Duration::from_secs(2);
/// The link to the other director.
const SYNC_LINK: &str = "eth2";
const DONE_LIMIT: Duration = Duration::from_secs(60);

/// How fast datagrams are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Feed {
    /// As fast as the backup takes them.
    Window,
    /// Entries in a second, whatever becomes of them.
    Steady(u64),
}

/// What was sent, and what became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fed {
    /// Sent.
    pub(crate) entries: u64,
    /// Until the backup had made something of the last entry.
    pub(crate) took: Duration,
    /// Of the thread that sent; delivery to the socket of the backup is in it.
    pub(crate) sender_cpu: Duration,
    /// Of the daemon.
    pub(crate) cpu: ThreadTimes,
    /// How far each counter of the backup went.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Packets that the link itself had no room for.
    pub(crate) link_drops: u64,
}

impl Fed {
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// Datagrams that found no room in the socket of the backup, as the backup tells.
    pub(crate) fn socket_drops(&self) -> u64 {
        self.count(SOCKET_DROPS)
    }

    /// Entries that nobody knows anything of. A datagram that was lost whole is taken for a full one.
    pub(crate) fn unaccounted(&self) -> u64 {
        let lost = self.socket_drops() + self.link_drops;
        let known = handled(&self.counts) + lost * ENTRIES_OF_A_MESSAGE as u64;
        self.entries.saturating_sub(known)
    }

    /// What was lost, by reason.
    pub(crate) fn losses(&self) -> String {
        let counts = self.counts.iter();
        let drops = counts.filter(|(name, count)| name.starts_with("drop_") && **count > 0);
        let mut text: String = drops
            .map(|(name, count)| format!("; {name} {count}"))
            .collect();
        if self.link_drops > 0 {
            text += &format!("; {} datagrams dropped by the link", self.link_drops);
        }
        text
    }

    /// Of the thread that receives and decodes, and of the owner of the data plane with the rest.
    pub(crate) fn backup_cpu(&self) -> (Duration, Duration) {
        let receiving = self.cpu.named("sync-backup");
        (receiving, self.cpu.total().saturating_sub(receiving))
    }
}

/// What waits in the sockets at the port of the sync daemons in a process's network namespace. Unit:
/// bytes of kernel memory.
fn waiting(pid: u32) -> Result<u64> {
    Ok(waiting_in(&fs::read_to_string(format!(
        "/proc/{pid}/net/udp"
    ))?))
}

fn waiting_in(text: &str) -> u64 {
    let port = format!(":{:04X}", GROUP.port());
    let sockets = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, _, queues, ..] = words[..] else {
            return None;
        };
        let waiting = queues.split(':').nth(1).filter(|_| local.ends_with(&port));
        u64::from_str_radix(waiting?, 16).ok()
    });
    sockets.sum()
}

/// Packets that the sync link in a process's network namespace received and had no room for.
fn link_drops(pid: u32) -> Result<u64> {
    link_drops_in(&fs::read_to_string(format!("/proc/{pid}/net/dev"))?)
}

fn link_drops_in(text: &str) -> Result<u64> {
    let counts = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(SYNC_LINK)?.strip_prefix(':'));
    // Bytes, packets, errors, dropped.
    let drops = counts.and_then(|counts| counts.split_whitespace().nth(3));
    Ok(drops.context("no sync link")?.parse()?)
}

/// What a running sender needs: where it is, and whom it feeds.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) spaces: &'a Namespaces,
    pub(crate) address: Ipv4Addr,
    /// The process id of the fed daemon.
    pub(crate) backup: u32,
}

impl Source<'_> {
    /// Sends all datagrams from a thread of its own; how much processor time that took.
    ///
    /// # Errors
    /// They cannot be sent.
    pub(crate) fn send(&self, datagrams: &[Vec<u8>], feed: Feed) -> Result<Duration> {
        self.spaces.on_thread(|| {
            let mut burst = Burst::to_group(self.address, GROUP)?;
            let mut pace = match feed {
                Feed::Window => None,
                // A pace in datagrams, of which each holds as many entries as the next.
                Feed::Steady(rate) => {
                    let sent = datagrams.len() as u64;
                    Some(Pace::new(rate * sent / count(datagrams).max(1)))
                }
            };
            let begun = thread_time();
            for some in datagrams.chunks(BURST) {
                match &mut pace {
                    Some(pace) => pace.wait_for(some.len() as u64),
                    None => self.wait_for_window()?,
                }
                burst.send_all(some)?;
            }
            Ok(thread_time().saturating_sub(begun))
        })
    }

    fn wait_for_window(&self) -> Result<()> {
        let deadline = Instant::now() + DONE_LIMIT;
        while waiting(self.backup)? > WINDOW {
            check_interrupt()?;
            if Instant::now() > deadline {
                bail!("the backup takes nothing");
            }
            thread::sleep(WINDOW_PAUSE);
        }
        Ok(())
    }
}

/// Processor time of the calling thread.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.unwrap_or(TimeSpec::new(0, 0)).into()
}

impl Drill<'_> {
    /// Sends datagrams on the sync link from one director's place to the backup on another.
    pub(crate) fn feed(
        &mut self,
        (from, on): (&str, &str),
        datagrams: &[Vec<u8>],
        feed: Feed,
    ) -> Result<Fed> {
        let spaces = self.lab.host(from)?.spaces().try_clone()?;
        let address = self.director(from)?.sync_address();
        let director = self.director(on)?;
        let pid = director.pid()?;
        let source = Source {
            spaces: &spaces,
            address,
            backup: pid,
        };
        let counts = director.status()?.sync_counts("backup");
        let link = link_drops(pid)?;
        let cpu = ThreadTimes::of(pid)?;
        let begun = Instant::now();
        let sender_cpu = source.send(datagrams, feed)?;
        let mut fed = Fed {
            entries: count(datagrams),
            sender_cpu,
            ..Fed::default()
        };
        let mut last = (Instant::now(), BTreeMap::new());
        let done = wait_until("the backup has handled all entries", DONE_LIMIT, || {
            let is_empty = waiting(pid)? == 0;
            let at = Instant::now();
            let now = director.status()?.sync_counts("backup");
            if !is_empty || now != last.1 {
                last = (at, now);
                return Ok(None);
            }
            fed.counts = difference(&now, &counts);
            fed.link_drops = link_drops(pid)? - link;
            let quiet = match fed.unaccounted() {
                0 => QUIET,
                _ => QUIET_MISSING,
            };
            // A thread tells of what it has read only after it has handed that on.
            let is_over = at - last.0 >= quiet && is_settled(&now);
            Ok(is_over.then_some(last.0))
        });
        fed.took = done.with_context(|| director.log_tail())? - begun;
        fed.cpu = ThreadTimes::of(pid)?.since(&cpu);
        Ok(fed)
    }
}

/// Counts datagrams, which no thread saw.
const SOCKET_DROPS: &str = "drop_socket_full";

/// Whether the owner has made something of every entry that the thread took.
fn is_settled(counts: &BTreeMap<String, u64>) -> bool {
    let taken = counts.get("entries").copied().unwrap_or_default();
    taken == handled(counts)
}

/// Entries of which something was made, good or bad.
pub(crate) fn handled(counts: &BTreeMap<String, u64>) -> u64 {
    let ends = ["applied_", "ignored_", "guarded", "drop_", "unsupported_"];
    let meant = counts.iter().filter(|(name, _)| {
        ends.iter().any(|end| name.starts_with(end)) && name.as_str() != SOCKET_DROPS
    });
    meant.map(|(_, count)| count).sum()
}

pub(crate) fn difference(
    now: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let grown = now.iter().map(|(name, count)| {
        let earlier = before.get(name).copied().unwrap_or_default();
        (name.clone(), count.saturating_sub(earlier))
    });
    grown.collect()
}

/// The address of a director on the sync link.
impl Director {
    pub(crate) fn sync_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 9, self.node().number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_the_sync_port_are_summed() {
        let text = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  433: 510000E0:2290 00000000:0000 07 00000000:00000300 00:00000000 00000000     0        0 5133 2 0000000000000000 7
  500: 00000000:0035 00000000:0000 07 00000000:00000900 00:00000000 00000000     0        0 5134 2 0000000000000000 9
";
        assert_eq!(waiting_in(text), 0x300);
    }

    #[test]
    fn the_drops_of_the_link_are_those_it_received() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
  eth0:     100       1    0    2    0     0          0         0       64       1    0    0    0     0       0          0
  eth2:     300       3    0    5    0     0          0         3      128       2    0    9    0     0       0          0
";
        assert_eq!(link_drops_in(text).unwrap(), 5);
        assert!(link_drops_in("").is_err());
    }

    #[test]
    fn what_was_lost_whole_is_accounted_for() {
        let counts = [
            ("applied_new", 30),
            ("drop_no_share", 10),
            ("drop_busy", 1),
            (SOCKET_DROPS, 2),
        ];
        let mut fed = Fed {
            entries: 201,
            link_drops: 1,
            counts: counts.map(|(name, count)| (name.to_owned(), count)).into(),
            ..Fed::default()
        };
        assert_eq!(fed.unaccounted(), 40);
        fed.entries = 100;
        assert_eq!(fed.unaccounted(), 0);
    }

    #[test]
    fn what_the_socket_dropped_was_never_taken() {
        let counts = [
            ("entries", 10),
            ("applied_new", 6),
            ("drop_table_full", 4),
            ("drop_socket_full", 3),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count)).into();
        assert!(is_settled(&counts));
        assert_eq!(handled(&counts), 10);
    }
}
