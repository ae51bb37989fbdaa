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
/// When no counter moves for so long, all has been told.
const QUIET: Duration = Duration::from_millis(60);
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
    /// Until the backup had made something of the last entry.
    pub(crate) took: Duration,
    /// Of the thread that sent; delivery to the socket of the backup is in it.
    pub(crate) sender_cpu: Duration,
    /// Of the daemon.
    pub(crate) cpu: ThreadTimes,
    /// How far each counter of the backup went.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Datagrams that found no room in the socket, by the kernel's count.
    pub(crate) socket_drops: u64,
}

impl Fed {
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// Entries that were lost after the socket, by reason.
    pub(crate) fn drops(&self) -> String {
        let drops = self.counts.iter().filter(|(name, count)| {
            name.starts_with("drop_") && !name.starts_with("drop_socket") && **count > 0
        });
        drops
            .map(|(name, count)| format!("; {name} {count}"))
            .collect()
    }

    /// Of the thread that receives and decodes, and of the owner of the data plane with the rest.
    pub(crate) fn backup_cpu(&self) -> (Duration, Duration) {
        let receiving = self.cpu.named("sync-backup");
        (receiving, self.cpu.total().saturating_sub(receiving))
    }
}

/// What waits in the socket of a backup, and what the kernel dropped there.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    /// Unit: bytes of kernel memory.
    waiting: u64,
    drops: u64,
}

impl Queue {
    /// Of all sockets at the port of the sync daemons in a process's network namespace.
    fn of(pid: u32) -> Result<Queue> {
        Ok(Queue::parse(&fs::read_to_string(format!(
            "/proc/{pid}/net/udp"
        ))?))
    }

    fn parse(text: &str) -> Queue {
        let port = format!(":{:04X}", GROUP.port());
        let mut sum = Queue::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, _, queues, .., drops] = words[..] else {
                continue;
            };
            if local.ends_with(&port) {
                let waiting = queues.split(':').nth(1).unwrap_or_default();
                sum.waiting += u64::from_str_radix(waiting, 16).unwrap_or(0);
                sum.drops += drops.parse::<u64>().unwrap_or(0);
            }
        }
        sum
    }
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
    pub(crate) fn send(&self, datagrams: &[Vec<u8>], entries: u64, feed: Feed) -> Result<Duration> {
        self.spaces.on_thread(|| {
            let mut burst = Burst::to_group(self.address, GROUP)?;
            let mut pace = match feed {
                Feed::Window => None,
                // A pace in datagrams, of which each holds as many entries as the next.
                Feed::Steady(rate) => {
                    let count = datagrams.len() as u64;
                    Some(Pace::new(rate * count / entries.max(1)))
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
        while Queue::of(self.backup)?.waiting > WINDOW {
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
        entries: u64,
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
        let queue = Queue::of(pid)?;
        let cpu = ThreadTimes::of(pid)?;
        let begun = Instant::now();
        let sender_cpu = source.send(datagrams, entries, feed)?;
        let mut last = (Instant::now(), BTreeMap::new());
        let done = wait_until("the backup has handled all entries", DONE_LIMIT, || {
            let is_empty = Queue::of(pid)?.waiting == 0;
            let at = Instant::now();
            let now = director.status()?.sync_counts("backup");
            if !is_empty || now != last.1 {
                last = (at, now);
                return Ok(None);
            }
            // A thread tells of what it has read only after it has handed that on.
            let is_over = at - last.0 >= QUIET && is_settled(&now);
            Ok(is_over.then_some((last.0, now)))
        });
        let (at, now) = done.with_context(|| director.log_tail())?;
        let cpu = ThreadTimes::of(pid)?.since(&cpu);
        let drops = Queue::of(pid)?.drops - queue.drops;
        Ok(Fed {
            took: at - begun,
            sender_cpu,
            cpu,
            counts: difference(&now, &counts),
            socket_drops: drops,
        })
    }
}

/// Whether the owner has made something of every entry that the thread took.
fn is_settled(counts: &BTreeMap<String, u64>) -> bool {
    let taken = counts.get("entries").copied().unwrap_or_default();
    taken == handled(counts)
}

/// Entries of which something was made, good or bad.
pub(crate) fn handled(counts: &BTreeMap<String, u64>) -> u64 {
    let ends = ["applied_", "ignored_", "guarded", "drop_", "unsupported_"];
    let meant = counts.iter().filter(|(name, _)| {
        // This one counts datagrams, which no thread saw.
        ends.iter().any(|end| name.starts_with(end)) && !name.starts_with("drop_socket")
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
        let queue = Queue::parse(text);
        assert_eq!((queue.waiting, queue.drops), (0x300, 7));
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
