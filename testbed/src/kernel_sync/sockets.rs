//! SCTP with real sockets through a director.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use super::peers::{ANSWERING, Peers, virtual_address};
use crate::plan::Net;

const IPPROTO_SCTP: i32 = 132;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// More packets than the period of synchronisation.
const ROUNDS: u32 = 80;
const REQUEST: usize = 500;

/// One open association of each family, used and idle.
pub(crate) struct Associations {
    clients: Vec<Socket>,
    servers: Vec<JoinHandle<Result<()>>>,
}

impl Associations {
    /// # Errors
    /// No SCTP sockets, or no answers.
    pub(crate) fn open(peers: &Peers, port: u16) -> Result<Associations> {
        let mut all = Associations {
            clients: Vec::new(),
            servers: Vec::new(),
        };
        for ipv6 in [false, true] {
            let own = SocketAddr::new(Net::Inside.host(ANSWERING, ipv6), port + 10_000);
            let listener = peers.server().on_thread(|| {
                let listener = socket(own)?;
                listener.bind(&own.into())?;
                listener.listen(4)?;
                Ok(listener)
            })?;
            all.servers.push(thread::spawn(move || echo(&listener)));
            let service = SocketAddr::new(virtual_address(ipv6), port);
            let mut client = peers.client().on_thread(|| {
                let client = socket(service)?;
                client
                    .connect_timeout(&service.into(), PATIENCE)
                    .with_context(|| format!("SCTP to {service}"))?;
                Ok(client)
            })?;
            for round in 0..ROUNDS {
                let request = [round.to_le_bytes()[0]; REQUEST];
                client.write_all(&request)?;
                let mut answer = [0; REQUEST];
                client.read_exact(&mut answer).context("answer by SCTP")?;
                ensure!(answer == request, "wrong bytes by SCTP");
            }
            all.clients.push(client);
        }
        Ok(all)
    }

    /// The clients' ends.
    pub(crate) fn clients(&self) -> Vec<SocketAddr> {
        let ends = self.clients.iter().map(Socket::local_addr);
        ends.filter_map(|end| end.ok()?.as_socket()).collect()
    }

    /// # Errors
    /// A server failed.
    pub(crate) fn close(self) -> Result<()> {
        drop(self.clients);
        for server in self.servers {
            match server.join() {
                Ok(done) => done?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    }
}

fn socket(towards: SocketAddr) -> Result<Socket> {
    let domain = Domain::for_address(towards);
    let socket = Socket::new(domain, Type::STREAM, Some(IPPROTO_SCTP.into()));
    let socket = socket.context("SCTP socket")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn echo(listener: &Socket) -> Result<()> {
    let (mut peer, _) = listener.accept().context("accept SCTP")?;
    peer.set_read_timeout(Some(PATIENCE * 2))?;
    let mut buffer = [0; 4096];
    loop {
        let length = peer.read(&mut buffer).context("SCTP server")?;
        if length == 0 {
            return Ok(());
        }
        peer.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}
