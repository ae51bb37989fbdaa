//! Who directs when: every row of the directing function that a director without Raft can be in.
//!
//! A row is brought about with `ipvsadm` and `directord` alone: the role by election, the backup daemon
//! by role or by hand, `backup_only` as a tunable, and a lapsed lease by the daemon's death. Then a new
//! request, one of a known connection, a reply of it, and a question for the virtual address reach the
//! director, with IPv4 and IPv6, and what becomes of them shows what the director does: DIRECT,
//! REPLY-ONLY or DROP. PASS is Raft's alone.

mod probe;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use self::probe::{Ends, Request, SERVER_PORT, SERVICE_PORT};
use crate::director::{Director, GROUP};
use crate::drill::Drill;
use crate::scenario::Side;
use crate::topology::CLIENT;
use crate::wait::wait_until;

const KNOWN_LIMIT: Duration = Duration::from_secs(5);
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// What a director does, as its tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Direct,
    ReplyOnly,
    Drop,
}

/// What a row is expected to be.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Last number of its addresses, which is that of its name.
    director: u8,
    role: &'static str,
    backup_daemon: bool,
    backup_only: bool,
    function: Function,
    /// The virtual addresses are on this host.
    has_addresses: bool,
}

/// What was seen with one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    new: Request,
    known: Request,
    reply: bool,
    answer: bool,
}

impl Row {
    fn expected(&self) -> Seen {
        let request = match (self.function, self.has_addresses) {
            (Function::Direct, true) => Request::Forwarded,
            (Function::ReplyOnly, true) => Request::Refused,
            // A virtual address that is not on this host is not routed back onto the LAN.
            (Function::Drop, _) | (Function::Direct | Function::ReplyOnly, false) => Request::Lost,
        };
        Seen {
            new: request,
            known: request,
            reply: self.function != Function::Drop,
            answer: self.has_addresses && self.function != Function::Drop,
        }
    }

    /// The counters that must have grown.
    fn counters(&self) -> &'static [&'static str] {
        match (self.function, self.has_addresses) {
            (Function::Direct, true) => &["forward_masquerading", "forward_reply"],
            (Function::ReplyOnly, true) => &["pass_standby", "forward_reply"],
            (Function::Direct | Function::ReplyOnly, false) => {
                &["drop_vip_not_local", "forward_reply"]
            }
            (Function::Drop, true) => &[
                "drop_lease_lapsed",
                "drop_lease_lapsed_arp",
                "drop_lease_lapsed_ndp",
            ],
            (Function::Drop, false) => &["drop_lease_lapsed"],
        }
    }
}

impl Drill<'_> {
    pub(crate) fn directing(&mut self) -> Result<()> {
        let paired = self.scenario.pair.is_some();
        let server = self.scenario.servers.iter();
        let server = server.filter(|server| server.side == Side::Inside);
        let server = server.map(|server| server.name.clone()).next();
        let server = server.context("no server inside")?;
        let spaces = self.lab.host(CLIENT)?.spaces().try_clone()?;
        let mut ends = Vec::new();
        for vip in self.scenario.virtual_addresses() {
            let address = self.scenario.server(&server)?.address_of(vip.is_ipv6());
            let inside = self.lab.host(&server)?.spaces();
            ends.push(Ends::open(&spaces, inside, vip, address)?);
            for director in &self.directors {
                add_service(director, vip, address)?;
            }
        }
        for director in &self.directors {
            self.lab.answer_every_time(director.name())?;
        }
        self.make_known(&mut ends, &server)?;
        let mut table = Table::new(if paired { "vrrp" } else { "none" });
        if paired {
            self.rows_of_pair(&mut ends, &server, &mut table)?;
        } else {
            self.rows_of_one(&mut ends, &server, &mut table)?;
        }
        self.count_figure("rows", table.rows);
        self.count_figure("wrong", table.wrong);
        self.report.note(table.text);
        Ok(())
    }

    fn rows_of_one(
        &mut self,
        ends: &mut [Ends<'_>],
        server: &str,
        table: &mut Table,
    ) -> Result<()> {
        let row = |backup_daemon, backup_only, function| Row {
            director: 1,
            role: "alone",
            backup_daemon,
            backup_only,
            function,
            has_addresses: true,
        };
        for backup_daemon in [false, true] {
            for backup_only in [false, true] {
                let function = function(backup_daemon, backup_only);
                let row = row(backup_daemon, backup_only, function);
                self.directing_row(row, ends, server, table)?;
            }
        }
        let row = row(true, true, Function::Drop);
        self.lapsed_row(row, ends, server, table)
    }

    fn rows_of_pair(
        &mut self,
        ends: &mut [Ends<'_>],
        server: &str,
        table: &mut Table,
    ) -> Result<()> {
        let row = |director, backup_daemon, backup_only, function| Row {
            director,
            role: if director == 1 { "active" } else { "standby" },
            backup_daemon,
            backup_only,
            function,
            has_addresses: director == 1,
        };
        for director in [1, 2] {
            for backup_daemon in [false, true] {
                for backup_only in [false, true] {
                    let function = function(backup_daemon, backup_only);
                    let row = row(director, backup_daemon, backup_only, function);
                    self.directing_row(row, ends, server, table)?;
                }
            }
        }
        // The standby first: when the active one dies, the other one is not standby any more.
        for director in [2, 1] {
            let row = row(director, true, true, Function::Drop);
            self.lapsed_row(row, ends, server, table)?;
        }
        Ok(())
    }

    /// Opens a connection of each family that every director knows.
    fn make_known(&mut self, ends: &mut [Ends<'_>], server: &str) -> Result<()> {
        for end in ends.iter_mut() {
            self.lead(end, server, 1)?;
            let got = end.request_known(1)?;
            anyhow::ensure!(got == Request::Forwarded, "no way to the server: {got:?}");
            let client = end.client()?.to_string();
            for director in &self.directors {
                wait_until("every director knows the connection", KNOWN_LIMIT, || {
                    let listed = director.ipvsadm(&["-L", "-n", "-c"])?;
                    Ok(listed.contains(&client).then_some(()))
                })?;
            }
        }
        Ok(())
    }

    /// Brings a director into the state of a row and looks.
    fn directing_row(
        &mut self,
        row: Row,
        ends: &mut [Ends<'_>],
        server: &str,
        table: &mut Table,
    ) -> Result<()> {
        self.set(&row)?;
        let before = self.counters(row.director)?;
        let seen = self.look(&row, ends, server)?;
        let after = self.counters(row.director)?;
        table.add(&row, &seen, &silent(&row, &before, &after));
        Ok(())
    }

    /// The same without a daemon, whose lease ends.
    fn lapsed_row(
        &mut self,
        row: Row,
        ends: &mut [Ends<'_>],
        server: &str,
        table: &mut Table,
    ) -> Result<()> {
        let before = self.counters(row.director)?;
        let name = self.name_of(row.director)?;
        self.kill_named(&name)?;
        self.lease_over()?;
        let seen = self.look(&row, ends, server)?;
        let run = self.run;
        // The counters are pinned, and the next daemon shows them.
        self.director(&name)?.start(run)?;
        let after = self.counters(row.director)?;
        table.add(&row, &seen, &silent(&row, &before, &after));
        Ok(())
    }

    fn set(&mut self, row: &Row) -> Result<()> {
        let name = self.name_of(row.director)?;
        let link = if self.scenario.pair.is_some() {
            "eth2"
        } else {
            "eth1"
        };
        let director = self.director(&name)?;
        let value = u8::from(row.backup_only);
        director.directord(&["sysctl", "-w", &format!("backup_only={value}")])?;
        let runs = |director: &Director| -> Result<bool> {
            Ok(director.ipvsadm(&["-L", "--daemon"])?.contains("backup"))
        };
        if runs(director)? && !row.backup_daemon {
            director.stop_sync("backup")?;
        } else if !runs(director)? && row.backup_daemon {
            director.start_sync_on(link, "backup", GROUP)?;
        }
        wait_until("the backup daemon is as wanted", CHANGE_LIMIT, || {
            Ok((runs(director)? == row.backup_daemon).then_some(()))
        })
    }

    fn look(&mut self, row: &Row, ends: &mut [Ends<'_>], server: &str) -> Result<Vec<Seen>> {
        let port = format!("{}-out", self.name_of(row.director)?);
        let mut all = Vec::new();
        for end in ends.iter_mut() {
            self.lead(end, server, row.director)?;
            let new = end.request_new(row.director)?;
            let known = end.request_known(row.director)?;
            let reply = end.reply(row.director)?;
            self.ask_again(CLIENT, end.virtual_address)?;
            let capture = self.capture.as_ref().context("nothing is captured")?;
            let answer = end.question(row.director, capture, &port)?;
            all.push(Seen {
                new,
                known,
                reply,
                answer,
            });
        }
        Ok(all)
    }

    /// Both ends send what is for the service to this director.
    fn lead(&mut self, end: &Ends<'_>, server: &str, director: u8) -> Result<()> {
        let name = self.name_of(director)?;
        let vip = end.virtual_address;
        self.lead_to(CLIENT, vip, &name)?;
        if self.scenario.pair.is_some() {
            let gateway = crate::plan::inside_virtual(vip.is_ipv6());
            self.lead_to(server, gateway, &name)?;
        }
        Ok(())
    }

    fn counters(&mut self, director: u8) -> Result<BTreeMap<String, u64>> {
        let name = self.name_of(director)?;
        Ok(self.director(&name)?.status()?.counters())
    }

    fn name_of(&self, director: u8) -> Result<String> {
        let all = self.scenario.directors();
        let found = all.iter().find(|node| node.number == director);
        Ok(found.context("no such director")?.name.clone())
    }
}

/// Without Raft the role gates nothing.
fn function(backup_daemon: bool, backup_only: bool) -> Function {
    if backup_daemon && backup_only {
        Function::ReplyOnly
    } else {
        Function::Direct
    }
}

/// The counters of a row that have not grown.
fn silent(
    row: &Row,
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> Vec<&'static str> {
    let of = |counters: &BTreeMap<String, u64>, name: &str| {
        counters.get(name).copied().unwrap_or_default()
    };
    let names = row.counters().iter().copied();
    names
        .filter(|name| of(after, name) <= of(before, name))
        .collect()
}

fn add_service(director: &Director, vip: IpAddr, server: IpAddr) -> Result<()> {
    let end = |address, port| std::net::SocketAddr::new(address, port).to_string();
    let service = end(vip, SERVICE_PORT);
    director.ipvsadm(&["-A", "-u", &service, "-s", "rr"])?;
    let server = end(server, SERVER_PORT);
    director.ipvsadm(&["-a", "-u", &service, "-r", &server, "-m"])?;
    Ok(())
}

/// Rows as they are printed.
struct Table {
    mode: &'static str,
    text: String,
    rows: u64,
    wrong: u64,
}

impl Table {
    fn new(mode: &'static str) -> Table {
        Table {
            mode,
            text: String::from(
                "\nmode  role     backup  backup_only  function    request (new, known)   reply    ARP, ND     counted\n",
            ),
            rows: 0,
            wrong: 0,
        }
    }

    fn add(&mut self, row: &Row, seen: &[Seen], silent: &[&str]) {
        let expected = row.expected();
        let right = silent.is_empty() && !seen.is_empty();
        let right = right && seen.iter().all(|one| *one == expected);
        self.rows += 1;
        self.wrong += u64::from(!right);
        let function = match row.function {
            Function::Direct => "DIRECT",
            Function::ReplyOnly => "REPLY-ONLY",
            Function::Drop => "DROP",
        };
        let yes = |is: bool| if is { "yes" } else { "no" };
        let of = |show: &dyn Fn(&Seen) -> String| {
            let mut shown: Vec<String> = seen.iter().map(show).collect();
            shown.dedup();
            shown.join(" / ")
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.text,
            "{:<4}  {:<7}  {:<6}  {:<11}  {function:<10}  {:<21}  {:<7}  {:<10}  {}{}",
            self.mode,
            row.role,
            yes(row.backup_daemon),
            u8::from(row.backup_only),
            of(&|one| format!("{:?}, {:?}", one.new, one.known).to_lowercase()),
            of(&|one| if one.reply { "handled" } else { "lost" }.to_owned()),
            of(&|one| if one.answer { "answered" } else { "silent" }.to_owned()),
            row.counters().join(" "),
            if right {
                String::new()
            } else {
                format!("  WRONG, not counted: {}", silent.join(" "))
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_not_seen_as_expected_is_wrong() {
        let row = Row {
            director: 1,
            role: "active",
            backup_daemon: true,
            backup_only: true,
            function: function(true, true),
            has_addresses: true,
        };
        let right = Seen {
            new: Request::Refused,
            known: Request::Refused,
            reply: true,
            answer: true,
        };
        let mut table = Table::new("vrrp");
        table.add(&row, &[right, right], &[]);
        assert_eq!((table.rows, table.wrong), (1, 0), "{}", table.text);
        let other = Seen {
            known: Request::Forwarded,
            ..right
        };
        table.add(&row, &[right, other], &[]);
        table.add(&row, &[right], &["pass_standby"]);
        table.add(&row, &[], &[]);
        assert_eq!((table.rows, table.wrong), (4, 3), "{}", table.text);
    }
}
