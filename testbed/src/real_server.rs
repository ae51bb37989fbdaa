//! The real server: answers every verified request with its own name and verifiable bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::duplex;
use crate::traffic::{ANSWER_LEN, Answer, REQUEST_LEN, Request, retransmissions};

/// The hidden subcommand.
pub(crate) const SERVE: &str = "__serve";

/// Listens on each of `listen` (`tcp:ADDRESS:PORT` or `udp:ADDRESS:PORT`) for ever; prints `ready`
/// when every one is open.
///
/// # Errors
/// An address cannot be used.
pub(crate) fn serve(name: &str, listen: &[String]) -> Result<()> {
    let mut threads = Vec::new();
    for text in listen {
        let (protocol, address) = text.split_once(':').context("no protocol to listen on")?;
        let address: SocketAddr = address.parse().with_context(|| text.clone())?;
        let name = name.to_owned();
        threads.push(match protocol {
            "tcp" => {
                let listener = TcpListener::bind(address).with_context(|| text.clone())?;
                thread::spawn(move || accept(&listener, &name))
            }
            "udp" => {
                let socket = UdpSocket::bind(address).with_context(|| text.clone())?;
                thread::spawn(move || answer_datagrams(&socket, &name))
            }
            other => bail!("cannot listen on {other}"),
        });
    }
    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for thread in threads {
        if thread.join().is_err() {
            bail!("a listener panicked");
        }
    }
    Ok(())
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        thread::spawn(move || {
            // A connection that breaks is the client's to report: it knows what it expected.
            let _ = answer_stream(stream, &name);
        });
    }
}

fn answer_stream(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut header = [0; REQUEST_LEN];
        match stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        if Request::is_duplex(&header) {
            return duplex::serve(stream, &header);
        }
        let request = Request::decode(&header)?;
        let wrong = request
            .up_stream()
            .receive(&mut stream, request.up as usize)?;
        let answer = Answer {
            connection: request.connection,
            round: request.round,
            wrong,
            retransmissions: retransmissions(&stream)?,
            server: name.to_owned(),
        };
        stream.write_all(&answer.encode())?;
        request
            .down_stream()
            .send(&mut stream, request.down as usize)?;
    }
}

fn answer_datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(reply) = buffer
            .get(..len)
            .and_then(|datagram| answer_datagram(datagram, name))
        {
            // A lost answer is the client's to report.
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// The answer to a datagram, unless it is not ours.
fn answer_datagram(datagram: &[u8], name: &str) -> Option<Vec<u8>> {
    let (header, payload) = datagram.split_at_checked(REQUEST_LEN)?;
    let request = Request::decode(header).ok()?;
    if request.up as usize != payload.len() {
        return None;
    }
    let answer = Answer {
        connection: request.connection,
        round: request.round,
        wrong: request.up_stream().count_wrong(payload),
        retransmissions: 0,
        server: name.to_owned(),
    };
    let mut reply = vec![0; ANSWER_LEN + request.down as usize];
    let (head, body) = reply.split_at_mut(ANSWER_LEN);
    head.copy_from_slice(&answer.encode());
    request.down_stream().fill(body);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_answered_with_verifiable_bytes() {
        let request = Request {
            connection: 1,
            seed: 2,
            round: 3,
            up: 5,
            down: 9,
        };
        let mut datagram = request.encode().to_vec();
        let mut payload = [0; 5];
        request.up_stream().fill(&mut payload);
        datagram.extend_from_slice(&payload);
        let reply = answer_datagram(&datagram, "nat1").unwrap();
        let answer = Answer::decode(&reply).unwrap();
        assert_eq!((answer.wrong, answer.server.as_str()), (0, "nat1"));
        assert_eq!(request.down_stream().count_wrong(&reply[ANSWER_LEN..]), 0);
    }

    #[test]
    fn a_cut_or_foreign_datagram_gets_no_answer() {
        let request = Request {
            connection: 1,
            seed: 2,
            round: 3,
            up: 5,
            down: 9,
        };
        assert_eq!(answer_datagram(&request.encode(), "nat1"), None);
        assert_eq!(answer_datagram(b"hello", "nat1"), None);
    }
}
