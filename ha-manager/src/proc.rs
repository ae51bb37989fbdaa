//! What `directord proc` prints: the files of IPVS in `/proc/net`, byte for byte as a kernel director
//! shows them.

mod connections;
mod services;
mod stats;

use std::net::IpAddr;

pub use connections::ConnFile;
pub use services::ip_vs;
pub use stats::{ip_vs_stats, ip_vs_stats_percpu};

/// What `directord proc` can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    IpVs,
    Conns(ConnFile),
    Stats,
    StatsPercpu,
}

/// A name this director prints nothing for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcError {
    #[error("{0} is known to IPVS, but not yet to this director; it has {ALL}")]
    NotYet(&'static str),
    #[error("{0:?} is no file of IPVS in /proc/net; this director has {ALL}")]
    Unknown(String),
}

/// Files of this director.
const ALL: &str = "ip_vs, ip_vs_conn, ip_vs_conn_sync, ip_vs_stats and ip_vs_stats_percpu";
/// Files of the kernel that are refused by name.
const NOT_YET: [&str; 2] = ["ip_vs_app", "ip_vs_status"];

impl ProcFile {
    /// # Errors
    /// See [`ProcError`].
    pub fn from_name(name: &str) -> Result<ProcFile, ProcError> {
        match name {
            "ip_vs" => Ok(ProcFile::IpVs),
            "ip_vs_conn" => Ok(ProcFile::Conns(ConnFile::IpVsConn)),
            "ip_vs_conn_sync" => Ok(ProcFile::Conns(ConnFile::IpVsConnSync)),
            "ip_vs_stats" => Ok(ProcFile::Stats),
            "ip_vs_stats_percpu" => Ok(ProcFile::StatsPercpu),
            _ => match NOT_YET.into_iter().find(|known| *known == name) {
                Some(known) => Err(ProcError::NotYet(known)),
                // What cannot be a file name is not echoed at length.
                None => Err(ProcError::Unknown(name.chars().take(32).collect())),
            },
        }
    }
}

/// IPv4 as one number, IPv6 as eight full groups (`%pI6`).
fn hex_addr(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => format!("{:08X}", addr.to_bits()),
        IpAddr::V6(addr) => addr
            .segments()
            .map(|group| format!("{group:04x}"))
            .join(":"),
    }
}

#[cfg(test)]
mod tests;
