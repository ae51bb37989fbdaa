//! The command `directord decode`: reads, decodes and writes.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use clap::value_parser;

use super::capture::{self, CaptureError, Captured};
use super::live::{Live, LiveError};
use super::{Decoder, Record};
use crate::config::ByteOrder;

#[derive(Args, Clone, Debug)]
pub struct DecodeArgs {
    /// Capture of Ethernet frames, pcap or pcapng; - is standard input
    #[arg(value_name = "FILE", required_unless_present = "interface")]
    file: Option<PathBuf>,
    /// Listen to an interface instead, until interrupted
    #[arg(short, long, value_name = "IFACE", conflicts_with = "file")]
    interface: Option<String>,
    /// One JSON object per frame and line
    #[arg(long)]
    json: bool,
    /// Take datagrams to this port and the 63 after it for sync datagrams too
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Byte order in which the sender of version 0 writes sequence records: that of its processor
    #[arg(long, value_name = "ORDER", default_value = "host")]
    v0_byte_order: ByteOrder,
}

/// Why decoding ended early.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{}: {source}", path.display())]
    Capture { path: PathBuf, source: CaptureError },
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Decodes a capture to its end, or an interface until the process is ended. Everything before an
/// error has been written.
///
/// # Errors
/// See [`DecodeError`].
pub fn run(args: &DecodeArgs, out: &mut dyn Write) -> Result<(), DecodeError> {
    let decoder = Decoder::new(args.port).with_seq_order(args.v0_byte_order.order());
    match (&args.file, &args.interface) {
        (Some(path), _) => {
            let mut out = BufWriter::new(out);
            let mut frames = 0u64;
            let mut records = 0u64;
            let read = capture::read(path, &mut |captured: Captured<'_>| -> Result<(), ReadEnd> {
                frames = frames.saturating_add(1);
                if let Some(record) = decoder.decode(captured) {
                    records = records.saturating_add(1);
                    write_record(&record, args.json, &mut out)?;
                }
                Ok(())
            });
            if records == 0 && read.is_ok() && !args.json {
                writeln!(out, "nothing to decode in {frames} frames")?;
            }
            out.flush()?;
            read.map_err(|end| match end {
                ReadEnd::Output(error) => DecodeError::Output(error),
                ReadEnd::Capture(source) => DecodeError::Capture {
                    path: path.clone(),
                    source,
                },
            })
        }
        (None, Some(interface)) => {
            let mut live = Live::open(interface, &decoder)?;
            loop {
                if let Some(record) = decoder.decode(live.next_frame()?) {
                    write_record(&record, args.json, out)?;
                    out.flush()?;
                }
            }
        }
        // The command line does not allow it.
        (None, None) => Ok(()),
    }
}

/// What ended the reading of a file.
enum ReadEnd {
    Capture(CaptureError),
    Output(io::Error),
}

impl From<CaptureError> for ReadEnd {
    fn from(error: CaptureError) -> ReadEnd {
        ReadEnd::Capture(error)
    }
}

impl From<io::Error> for ReadEnd {
    fn from(error: io::Error) -> ReadEnd {
        ReadEnd::Output(error)
    }
}

fn write_record(record: &Record, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, record)?;
        writeln!(out)
    } else {
        writeln!(out, "{record}")
    }
}
