//! The bytes between our client and our server programs: every one can be verified.
//!
//! A request is a header and `up` bytes, an answer a header and `down` bytes. The bytes are
//! pseudo-random, from the seed of the connection and the number of the round, so a byte that was
//! lost, changed, repeated or sent to the wrong connection is seen. A TCP connection carries any
//! number of rounds, a datagram exactly one.
//!
//! ```text
//! request  | magic 4 | connection 8 | seed 8 | round 4 | up 4 | down 4 |
//! answer   | magic 4 | connection 8 | round 4 | verdict 4 | retransmissions 4 | server name 16 |
//! ```
//!
//! A request with the other magic opens a stream in both directions at once; see [`crate::duplex`].

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};

pub(crate) const REQUEST_LEN: usize = 32;
pub(crate) const ANSWER_LEN: usize = 40;
/// A datagram with its header stays below the smallest link size in use.
pub(crate) const DATAGRAM_PAYLOAD_MAX: u32 = 1400;
/// More bytes in one round are refused by the server.
const ROUND_BYTES_MAX: u32 = 64 << 20;
const REQUEST_MAGIC: [u8; 4] = *b"TDM?";
const ANSWER_MAGIC: [u8; 4] = *b"TDM!";
const DUPLEX_MAGIC: [u8; 4] = *b"TDM=";
const CHUNK: usize = 16 << 10;
const NAME_LEN: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) connection: u64,
    pub(crate) seed: u64,
    pub(crate) round: u32,
    pub(crate) up: u32,
    pub(crate) down: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) connection: u64,
    pub(crate) round: u32,
    /// Wrong bytes that the server saw in the request.
    pub(crate) wrong: u32,
    /// Segments that the server has sent again on this connection so far.
    pub(crate) retransmissions: u32,
    pub(crate) server: String,
}

impl Request {
    pub(crate) fn encode(&self) -> [u8; REQUEST_LEN] {
        self.encode_as(REQUEST_MAGIC)
    }

    /// The first bytes of a connection that streams both ways; its lengths mean nothing.
    pub(crate) fn encode_duplex(&self) -> [u8; REQUEST_LEN] {
        self.encode_as(DUPLEX_MAGIC)
    }

    /// Whether the first bytes of a connection ask for streams both ways.
    pub(crate) fn is_duplex(bytes: &[u8; REQUEST_LEN]) -> bool {
        bytes.starts_with(&DUPLEX_MAGIC)
    }

    fn encode_as(&self, magic: [u8; 4]) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        let mut at = Fields(&mut bytes);
        at.put(&magic);
        at.put(&self.connection.to_be_bytes());
        at.put(&self.seed.to_be_bytes());
        at.put(&self.round.to_be_bytes());
        at.put(&self.up.to_be_bytes());
        at.put(&self.down.to_be_bytes());
        bytes
    }

    /// # Errors
    /// Not a request, or one that asks for too much.
    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Request> {
        Request::decode_as(bytes, REQUEST_MAGIC)
    }

    /// # Errors
    /// Not the opening of a connection that streams both ways.
    pub(crate) fn decode_duplex(bytes: &[u8]) -> io::Result<Request> {
        Request::decode_as(bytes, DUPLEX_MAGIC)
    }

    fn decode_as(mut bytes: &[u8], magic: [u8; 4]) -> io::Result<Request> {
        expect(&mut bytes, magic)?;
        let request = Request {
            connection: u64::from_be_bytes(take(&mut bytes)?),
            seed: u64::from_be_bytes(take(&mut bytes)?),
            round: u32::from_be_bytes(take(&mut bytes)?),
            up: u32::from_be_bytes(take(&mut bytes)?),
            down: u32::from_be_bytes(take(&mut bytes)?),
        };
        if request.up.max(request.down) > ROUND_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "round is too long",
            ));
        }
        Ok(request)
    }

    pub(crate) fn up_stream(&self) -> Stream {
        Stream::new(self.seed, self.round, 0)
    }

    pub(crate) fn down_stream(&self) -> Stream {
        Stream::new(self.seed, self.round, 1)
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> [u8; ANSWER_LEN] {
        let mut bytes = [0; ANSWER_LEN];
        let mut at = Fields(&mut bytes);
        at.put(&ANSWER_MAGIC);
        at.put(&self.connection.to_be_bytes());
        at.put(&self.round.to_be_bytes());
        at.put(&self.wrong.to_be_bytes());
        at.put(&self.retransmissions.to_be_bytes());
        let name = self.server.as_bytes();
        at.put(name.get(..NAME_LEN).unwrap_or(name));
        bytes
    }

    /// # Errors
    /// Not an answer.
    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Answer> {
        expect(&mut bytes, ANSWER_MAGIC)?;
        Ok(Answer {
            connection: u64::from_be_bytes(take(&mut bytes)?),
            round: u32::from_be_bytes(take(&mut bytes)?),
            wrong: u32::from_be_bytes(take(&mut bytes)?),
            retransmissions: u32::from_be_bytes(take(&mut bytes)?),
            server: {
                let name: [u8; NAME_LEN] = take(&mut bytes)?;
                String::from_utf8_lossy(&name)
                    .trim_end_matches('\0')
                    .to_owned()
            },
        })
    }
}

/// A reproducible endless sequence of bytes (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Stream {
    fn new(seed: u64, round: u32, direction: u64) -> Stream {
        let state = seed ^ (u64::from(round) << 1 | direction).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Stream {
            state,
            word: [0; 8],
            used: 8,
        }
    }

    fn next_byte(&mut self) -> u8 {
        if self.used == self.word.len() {
            self.word = next_word(&mut self.state).to_le_bytes();
            self.used = 0;
        }
        let byte = self.word.get(self.used).copied().unwrap_or_default();
        self.used += 1;
        byte
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        let (head, rest) = bytes.split_at_mut(self.word_left().min(bytes.len()));
        head.fill_with(|| self.next_byte());
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&next_word(&mut self.state).to_le_bytes());
        }
        words.into_remainder().fill_with(|| self.next_byte());
    }

    /// How many of the bytes are not the next ones of the stream.
    pub(crate) fn count_wrong(&mut self, bytes: &[u8]) -> u32 {
        let (head, rest) = bytes.split_at(self.word_left().min(bytes.len()));
        let mut wrong = self.count_wrong_bytes(head);
        let words = rest.chunks_exact(8);
        let tail = words.remainder();
        for word in words {
            let expected = next_word(&mut self.state).to_le_bytes();
            if *word != expected {
                wrong += word.iter().zip(expected).filter(|(a, b)| *a != b).count();
            }
        }
        wrong += self.count_wrong_bytes(tail);
        u32::try_from(wrong).unwrap_or(u32::MAX)
    }

    fn count_wrong_bytes(&mut self, bytes: &[u8]) -> usize {
        let wrong = bytes.iter().filter(|byte| **byte != self.next_byte());
        wrong.count()
    }

    /// Bytes of the present word that have not been used.
    fn word_left(&self) -> usize {
        self.word.len() - self.used
    }

    /// # Errors
    /// The connection broke.
    pub(crate) fn send(&mut self, to: &mut impl Write, mut len: usize) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        while len > 0 {
            let part = chunk.get_mut(..len.min(CHUNK)).unwrap_or_default();
            self.fill(part);
            to.write_all(part)?;
            len -= part.len();
        }
        Ok(())
    }

    /// Reads `len` bytes and gives the number of wrong ones.
    ///
    /// # Errors
    /// The connection broke or ended early.
    pub(crate) fn receive(&mut self, from: &mut impl Read, mut len: usize) -> io::Result<u32> {
        let mut chunk = [0; CHUNK];
        let mut wrong = 0u32;
        while len > 0 {
            let part = chunk.get_mut(..len.min(CHUNK)).unwrap_or_default();
            from.read_exact(part)?;
            wrong = wrong.saturating_add(self.count_wrong(part));
            len -= part.len();
        }
        Ok(wrong)
    }
}

/// One step of splitmix64, also used to derive seeds.
pub(crate) fn next_word(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Segments that this end of a TCP connection has sent again (`tcpi_total_retrans`).
///
/// # Errors
/// Not a TCP socket.
pub(crate) fn retransmissions(socket: &impl AsFd) -> io::Result<u32> {
    let [.., total_retrans] = getsockopt(socket, TcpInfoHead)?;
    Ok(total_retrans)
}

/// Words of `struct tcp_info` up to and with `tcpi_total_retrans`. The structure grows from kernel to
/// kernel; a shorter one is filled as far as it goes.
const TCP_INFO_HEAD: usize = 26;
const _: () = assert!(std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans) == 4 * 25);

sockopt_impl!(
    /// State of a TCP connection as the kernel keeps it.
    TcpInfoHead, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u32; TCP_INFO_HEAD]);

struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put(&mut self, value: &[u8]) {
        if let Some((head, rest)) = std::mem::take(&mut self.0).split_at_mut_checked(value.len()) {
            head.copy_from_slice(value);
            self.0 = rest;
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> io::Result<[u8; N]> {
    let Some((head, rest)) = bytes.split_first_chunk() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    *bytes = rest;
    Ok(*head)
}

fn expect(bytes: &mut &[u8], magic: [u8; 4]) -> io::Result<()> {
    let found: [u8; 4] = take(bytes)?;
    if found == magic {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not ours"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request {
        connection: 7,
        seed: 0x1234_5678_9abc_def0,
        round: 3,
        up: 100,
        down: 50_000,
    };

    #[test]
    fn a_request_round_trips_and_fills_its_header() {
        assert_eq!(Request::decode(&REQUEST.encode()).unwrap(), REQUEST);
    }

    #[test]
    fn an_answer_round_trips() {
        let server = "nat1".to_owned();
        let answer = Answer {
            connection: 7,
            round: 3,
            wrong: 0,
            retransmissions: 2,
            server,
        };
        assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
    }

    #[test]
    fn short_foreign_and_greedy_requests_are_refused() {
        let bytes = REQUEST.encode();
        assert!(Request::decode(&bytes[..31]).is_err());
        assert!(Request::decode(&[0; REQUEST_LEN]).is_err());
        let greedy = Request {
            down: u32::MAX,
            ..REQUEST
        };
        assert!(Request::decode(&greedy.encode()).is_err());
    }

    #[test]
    fn a_changed_byte_is_counted() {
        let mut bytes = vec![0; 40_000];
        REQUEST.down_stream().fill(&mut bytes);
        assert_eq!(
            REQUEST
                .down_stream()
                .receive(&mut bytes.as_slice(), 40_000)
                .unwrap(),
            0
        );
        bytes[39_999] ^= 1;
        assert_eq!(
            REQUEST
                .down_stream()
                .receive(&mut bytes.as_slice(), 40_000)
                .unwrap(),
            1
        );
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let mut whole = vec![0; 1000];
        REQUEST.up_stream().fill(&mut whole);
        let mut pieces = Vec::new();
        let (mut stream, mut len) = (REQUEST.up_stream(), 1);
        while pieces.len() < whole.len() {
            let mut piece = vec![0; len.min(whole.len() - pieces.len())];
            stream.fill(&mut piece);
            pieces.extend(piece);
            len = len % 23 + 1;
        }
        assert_eq!(pieces, whole);
        let mut stream = REQUEST.up_stream();
        whole[500] ^= 1;
        let wrong: u32 = whole.chunks(13).map(|part| stream.count_wrong(part)).sum();
        assert_eq!(wrong, 1);
    }

    #[test]
    fn an_opening_is_no_request() {
        let opening = REQUEST.encode_duplex();
        assert!(Request::is_duplex(&opening) && !Request::is_duplex(&REQUEST.encode()));
        assert!(Request::decode(&opening).is_err());
        assert_eq!(Request::decode_duplex(&opening).unwrap(), REQUEST);
    }

    #[test]
    fn rounds_and_directions_have_different_bytes() {
        let other_round = Request {
            round: 4,
            ..REQUEST
        };
        let mut bytes = vec![0; 64];
        REQUEST.up_stream().fill(&mut bytes);
        assert!(REQUEST.down_stream().count_wrong(&bytes) > 32);
        assert!(other_round.up_stream().count_wrong(&bytes) > 32);
    }
}
