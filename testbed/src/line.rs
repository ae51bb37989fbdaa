//! One connection of a client to a service: requests, and answers that are verified.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket as Socket2, Type};

use crate::order::LoadOrder;
use crate::scenario::Protocol;
use crate::traffic::{ANSWER_LEN, Answer, REQUEST_LEN, Request, retransmissions};

/// A connection to the service.
pub(crate) struct Line {
    socket: Socket,
    request: Request,
    patience: Duration,
    server: Option<String>,
    server_retransmissions: u32,
}

/// Which server answered, compared with the first one that did on this connection.
pub(crate) enum Answerer {
    First(String),
    Same,
    Other,
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    pub(crate) fn open(order: &LoadOrder, number: u64) -> io::Result<Line> {
        let address = order.address;
        let source = order.source(number);
        let patience = Duration::from_millis(order.patience_ms);
        let socket = match order.protocol {
            Protocol::Tcp => {
                let stream = connect(address, source, patience)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Socket::Tcp(stream)
            }
            Protocol::Udp => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(source.unwrap_or(any))?;
                socket.connect(address)?;
                Socket::Udp(socket)
            }
        };
        Ok(Line {
            socket,
            request: order.request(number),
            patience,
            server: None,
            server_retransmissions: 0,
        })
    }

    pub(crate) fn is_datagram(&self) -> bool {
        matches!(self.socket, Socket::Udp(_))
    }

    /// The datagram socket, to be kept open.
    pub(crate) fn datagram_socket(&self) -> Option<UdpSocket> {
        match &self.socket {
            Socket::Udp(socket) => socket.try_clone().ok(),
            Socket::Tcp(_) => None,
        }
    }

    /// The client's address.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.local_addr().ok().map(|address| address.ip())
    }

    /// The client's port.
    pub(crate) fn port(&self) -> u16 {
        self.local_addr().map_or(0, |address| address.port())
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.local_addr(),
            Socket::Udp(socket) => socket.local_addr(),
        }
    }

    /// Connection and round, for messages.
    pub(crate) fn describe(&self) -> String {
        let Request {
            connection, round, ..
        } = self.request;
        format!("connection {connection}, round {round}")
    }

    /// Sends the next request and verifies its answer; gives the number of wrong bytes.
    pub(crate) fn round(&mut self) -> io::Result<(Answer, u32)> {
        self.request.round += 1;
        let request = self.request;
        let (answer, wrong) = match &mut self.socket {
            Socket::Tcp(stream) => round_tcp(stream, &request)?,
            Socket::Udp(socket) => round_udp(socket, &request, self.patience)?,
        };
        if (answer.connection, answer.round) != (request.connection, request.round) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "answer to another request",
            ));
        }
        self.server_retransmissions = answer.retransmissions;
        Ok((answer, wrong))
    }

    pub(crate) fn note_server(&mut self, answer: &Answer) -> Answerer {
        match &self.server {
            None => {
                self.server = Some(answer.server.clone());
                Answerer::First(answer.server.clone())
            }
            Some(server) if *server != answer.server => Answerer::Other,
            Some(_) => Answerer::Same,
        }
    }

    /// Segments sent again by both ends.
    pub(crate) fn retransmissions(&self) -> u64 {
        let own = match &self.socket {
            Socket::Tcp(stream) => retransmissions(stream).unwrap_or_default(),
            Socket::Udp(_) => 0,
        };
        u64::from(own) + u64::from(self.server_retransmissions)
    }
}

fn connect(
    address: SocketAddr,
    source: Option<SocketAddr>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect_timeout(&address, patience);
    };
    let socket = Socket2::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&address.into(), patience)?;
    Ok(socket.into())
}

fn round_tcp(stream: &mut TcpStream, request: &Request) -> io::Result<(Answer, u32)> {
    stream.write_all(&request.encode())?;
    request.up_stream().send(stream, request.up as usize)?;
    let mut header = [0; ANSWER_LEN];
    stream.read_exact(&mut header)?;
    let answer = Answer::decode(&header)?;
    let wrong = request
        .down_stream()
        .receive(stream, request.down as usize)?;
    Ok((answer, wrong))
}

fn round_udp(
    socket: &UdpSocket,
    request: &Request,
    patience: Duration,
) -> io::Result<(Answer, u32)> {
    let mut datagram = vec![0; REQUEST_LEN + request.up as usize];
    let (head, body) = datagram.split_at_mut(REQUEST_LEN);
    head.copy_from_slice(&request.encode());
    request.up_stream().fill(body);
    socket.send(&datagram)?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut buffer)?;
        let reply = buffer.get(..len).unwrap_or_default();
        let Some((header, body)) = reply.split_at_checked(ANSWER_LEN) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "answer is cut"));
        };
        let answer = Answer::decode(header)?;
        // The late answer to a request that counts as lost already.
        if answer.connection == request.connection && answer.round < request.round {
            continue;
        }
        let missing = (request.down as usize).abs_diff(body.len());
        let wrong = request.down_stream().count_wrong(body);
        return Ok((answer, wrong + u32::try_from(missing).unwrap_or(u32::MAX)));
    }
}
