//! Datagrams that show what a director does with requests, replies and questions.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::capture::{Capture, Origin, Record, wall_clock};
use crate::frame::Content;
use crate::netns::Namespaces;
use crate::plan::{self, Net};
use crate::wait::{check_interrupt, wait_until};

/// A service of this drill's own, and where its server listens.
pub(super) const SERVICE_PORT: u16 = 777;
pub(super) const SERVER_PORT: u16 = 7777;
/// Nobody listens there.
const CLOSED_PORT: u16 = 9;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// For what does not come, beyond the answer to a later packet on the same way.
const GRACE: Duration = Duration::from_millis(40);
const LONGEST: usize = 64;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A real server has it.
    Forwarded,
    /// The director's own stack had it, where nobody listens.
    Refused,
    Lost,
}

/// Client and real server of one family, with a connection between them.
pub(super) struct Ends<'a> {
    pub(super) virtual_address: IpAddr,
    client: &'a Namespaces,
    /// Its connection is known to the directors.
    known: UdpSocket,
    server: UdpSocket,
    marker_out: UdpSocket,
    marker_in: UdpSocket,
    word: u32,
}

impl<'a> Ends<'a> {
    /// # Errors
    /// No sockets there.
    pub(super) fn open(
        client: &'a Namespaces,
        server: &Namespaces,
        virtual_address: IpAddr,
        server_address: IpAddr,
    ) -> Result<Ends<'a>> {
        let known = connected(client, virtual_address)?;
        let server_socket = server.on_thread(|| bound(server_address, SERVER_PORT))?;
        let ipv6 = virtual_address.is_ipv6();
        let marker_out = client.on_thread(|| bound(plan::client(ipv6), 0))?;
        let marker_in = server.on_thread(|| bound(server_address, 0))?;
        Ok(Ends {
            virtual_address,
            client,
            known,
            server: server_socket,
            marker_out,
            marker_in,
            word: 0,
        })
    }

    /// The client's end of the known connection.
    pub(super) fn client(&self) -> Result<SocketAddr> {
        Ok(self.known.local_addr()?)
    }

    /// A request of the known connection.
    pub(super) fn request_known(&mut self, director: u8) -> Result<Request> {
        let known = self.known.try_clone()?;
        self.request(&known, director)
    }

    /// A request that nobody knows.
    pub(super) fn request_new(&mut self, director: u8) -> Result<Request> {
        let fresh = connected(self.client, self.virtual_address)?;
        self.request(&fresh, director)
    }

    fn request(&mut self, from: &UdpSocket, director: u8) -> Result<Request> {
        forget_what_waits(from)?;
        forget_what_waits(&self.server)?;
        let word = self.next_word();
        send(from, &word)?;
        let net = Net::Outside;
        marker(
            &self.marker_out,
            net.host(director, self.virtual_address.is_ipv6()),
        )?;
        let deadline = Instant::now() + GRACE;
        loop {
            if receive(&self.server)?.is_some_and(|got| got == word) {
                return Ok(Request::Forwarded);
            }
            match receive(from) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    return Ok(Request::Refused);
                }
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > deadline {
                return Ok(Request::Lost);
            }
            check_interrupt()?;
        }
    }

    /// Whether what the server says reaches the client as the virtual service's.
    pub(super) fn reply(&mut self, director: u8) -> Result<bool> {
        forget_what_waits(&self.known)?;
        let word = self.next_word();
        let client = self.client()?;
        self.server.send_to(&word, client)?;
        let net = Net::Inside;
        marker(
            &self.marker_in,
            net.host(director, self.virtual_address.is_ipv6()),
        )?;
        let deadline = Instant::now() + GRACE;
        loop {
            match receive(&self.known) {
                Ok(Some(got)) if got == word => return Ok(true),
                Ok(_) => {}
                // Of an earlier request.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            check_interrupt()?;
        }
    }

    /// Whether a director says, asked, that it has the virtual address. The client must have
    /// forgotten who has it.
    pub(super) fn question(&mut self, director: u8, capture: &Capture, port: &str) -> Result<bool> {
        let from = wall_clock();
        let vips = [self.virtual_address].into();
        let word = self.next_word();
        send(&self.known, &word)?;
        let seen = |origin: Origin, wanted: &dyn Fn(&Content) -> bool| {
            capture.count(|record: &Record| {
                let there = record.at >= from && capture.link(record) == port;
                there && record.origin == origin && wanted(&record.content)
            })
        };
        wait_until("the question reaches the director", ANSWER_LIMIT, || {
            let asked = seen(Origin::Others, &|content| content.asks_for(&vips));
            Ok((asked > 0).then_some(()))
        })?;
        let net = Net::Outside;
        marker(
            &self.marker_out,
            net.host(director, self.virtual_address.is_ipv6()),
        )?;
        capture.settle()?;
        Ok(seen(Origin::Director, &|content| content.answers_for(&vips)) > 0)
    }

    fn next_word(&mut self) -> Vec<u8> {
        self.word += 1;
        self.word.to_be_bytes().to_vec()
    }
}

fn bound(address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port)).with_context(|| address.to_string())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn connected(client: &Namespaces, virtual_address: IpAddr) -> Result<UdpSocket> {
    client.on_thread(|| {
        let socket = bound(plan::client(virtual_address.is_ipv6()), 0)?;
        socket.connect((virtual_address, SERVICE_PORT))?;
        Ok(socket)
    })
}

/// An error of an earlier packet is told instead; then once more.
fn send(socket: &UdpSocket, word: &[u8]) -> Result<()> {
    match socket.send(word) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => socket.send(word)?,
        done => done?,
    };
    Ok(())
}

/// What waits on a socket that does not wait.
fn receive(socket: &UdpSocket) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = [0; LONGEST];
    match socket.recv(&mut bytes) {
        Ok(len) => Ok(Some(bytes.get(..len).unwrap_or_default().to_vec())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn forget_what_waits(socket: &UdpSocket) -> Result<()> {
    loop {
        match receive(socket) {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a director's own stack has answered a packet that came the same way later.
fn marker(socket: &UdpSocket, director: IpAddr) -> Result<()> {
    socket.connect((director, CLOSED_PORT))?;
    forget_what_waits(socket)?;
    send(socket, b"marker")?;
    wait_until(
        "the director answers for itself",
        ANSWER_LIMIT,
        || match receive(socket) {
            Ok(Some(_)) => bail!("somebody listens on port {CLOSED_PORT}"),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Some(())),
            Err(error) => Err(error.into()),
        },
    )
}
