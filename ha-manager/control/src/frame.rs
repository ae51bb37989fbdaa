//! Length-prefixed frames, decoded with a limit.

use std::io::{self, Read, Write};

use bincode::{Decode, Encode, config};

/// Largest frame body in bytes: a listing of 4096 services with 16384 servers fits several times.
pub const FRAME_MAX: usize = 16 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes is above the limit of {FRAME_MAX}")]
    TooLong(usize),
    #[error("frame cannot be decoded: {0}")]
    Malformed(String),
    #[error("{0} bytes follow the value in its frame")]
    TrailingBytes(usize),
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

/// A value as a whole frame, length included.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, FrameError> {
    let body = bincode::encode_to_vec(value, config::standard())
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    if body.len() > FRAME_MAX {
        return Err(FrameError::TooLong(body.len()));
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong(body.len()))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// A value from the body of a frame.
///
/// # Errors
/// Everything but exactly one value within [`FRAME_MAX`].
pub fn decode<T: Decode<()>>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > FRAME_MAX {
        return Err(FrameError::TooLong(body.len()));
    }
    let limited = config::standard().with_limit::<FRAME_MAX>();
    let (value, used) = bincode::decode_from_slice(body, limited)
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    if used != body.len() {
        return Err(FrameError::TrailingBytes(body.len() - used));
    }
    Ok(value)
}

/// Reads one frame and decodes it; `None` at a clean end of the stream.
///
/// # Errors
/// See [`FrameError`].
pub fn read_frame<T: Decode<()>>(from: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut length = [0u8; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(FrameError::TooLong(length));
    }
    // Grows with what arrives, so a hostile length alone allocates nothing.
    let mut body = Vec::new();
    let read = from.take(length as u64).read_to_end(&mut body)?;
    if read != length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    decode(&body).map(Some)
}

/// Encodes a value and writes its frame.
///
/// # Errors
/// See [`FrameError`].
pub fn write_frame<T: Encode>(to: &mut impl Write, value: &T) -> Result<(), FrameError> {
    to.write_all(&encode(value)?)?;
    to.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ipvs_model::flags::ServiceFlags;
    use ipvs_model::forward::ForwardMethod;
    use ipvs_model::protocol::Protocol;
    use ipvs_model::scheduler::Scheduler;
    use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
    use ipvs_model::stats::{Rates, Stats};

    use super::*;
    use crate::{Reply, Request, ServerEntry, ServiceEntry};

    #[test]
    fn a_frame_round_trips() {
        let frame = encode(&Request::Status { json: true }).unwrap();
        let back: Request = read_frame(&mut frame.as_slice()).unwrap().unwrap();
        assert_eq!(back, Request::Status { json: true });
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_reading() {
        let frame = u32::MAX.to_le_bytes();
        let refused = read_frame::<Request>(&mut frame.as_slice());
        assert!(matches!(refused, Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_truncated_frame_is_an_error_and_an_empty_stream_is_not() {
        let frame = encode(&Request::Proc {
            name: "ip_vs".into(),
        })
        .unwrap();
        for end in 4..frame.len() {
            assert!(
                read_frame::<Request>(&mut &frame[..end]).is_err(),
                "cut at {end}"
            );
        }
        assert!(read_frame::<Request>(&mut [].as_slice()).unwrap().is_none());
    }

    #[test]
    fn a_hostile_inner_length_does_not_allocate() {
        // Variant 13 is Proc; its string claims 2^60 bytes.
        let mut body = vec![13, 253];
        body.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(
            decode::<Request>(&body),
            Err(FrameError::Malformed(_))
        ));
    }

    #[test]
    fn a_listing_of_tables_of_the_default_size_fits_a_frame_and_round_trips() {
        let (counts, rates) = (stats(), rates());
        let addr: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
            .parse()
            .unwrap();
        let server = ServerEntry {
            key: addr,
            spec: ServerSpec {
                method: ForwardMethod::Masquerading,
                weight: u32::MAX,
                upper_threshold: u32::MAX,
                lower_threshold: u32::MAX,
            },
            active: u32::MAX,
            inactive: u32::MAX,
            persistent: u32::MAX,
            stats: counts,
            rates,
            local: true,
        };
        let service = ServiceEntry {
            key: ServiceKey::Address {
                protocol: Protocol::Sctp,
                addr,
            },
            spec: ServiceSpec {
                scheduler: Some(Scheduler::Lblcr),
                flags: ServiceFlags(u32::MAX),
                timeout_secs: u32::MAX,
                netmask: u32::MAX,
                pe_name: Some("sip".into()),
            },
            stats: counts,
            rates,
            servers: vec![server; 4],
        };
        let reply = Reply::Services(vec![service; 4096]);
        let frame = encode(&reply).unwrap();
        assert!(frame.len() < FRAME_MAX / 2, "{}", frame.len());
        let back: Reply = read_frame(&mut frame.as_slice()).unwrap().unwrap();
        assert_eq!(back, reply);
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        let mut body = encode(&Request::Info).unwrap().split_off(4);
        body.push(0);
        assert!(matches!(
            decode::<Request>(&body),
            Err(FrameError::TrailingBytes(1))
        ));
    }

    const fn stats() -> Stats {
        Stats {
            conns: u64::MAX,
            in_pkts: u64::MAX,
            out_pkts: u64::MAX,
            in_bytes: u64::MAX,
            out_bytes: u64::MAX,
        }
    }

    const fn rates() -> Rates {
        Rates {
            cps: u64::MAX,
            pps_in: u64::MAX,
            pps_out: u64::MAX,
            bps_in: u64::MAX,
            bps_out: u64::MAX,
        }
    }
}
