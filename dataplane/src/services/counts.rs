//! How many services there are of the kinds that a packet is only looked up for if there are any.

use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::settings::Settings;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::ServiceKey;

use crate::maps::Maps;

/// The port of FTP, whose services also take port 20 and unprivileged ports.
pub(crate) const FTP: u16 = 21;

/// What stands in the settings. A count is raised before a service becomes visible and lowered when
/// it is gone: too high costs a lookup, too low would hide a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    fwmark: u32,
    ftp: u32,
    port_zero: u32,
}

impl Counts {
    pub(super) fn ftp(self) -> u32 {
        self.ftp
    }

    pub(super) fn port_zero(self) -> u32 {
        self.port_zero
    }

    #[must_use]
    pub(super) fn with(self, key: &ServiceKey) -> Counts {
        let kinds = Counts::of(key);
        Counts {
            fwmark: self.fwmark.saturating_add(kinds.fwmark),
            ftp: self.ftp.saturating_add(kinds.ftp),
            port_zero: self.port_zero.saturating_add(kinds.port_zero),
        }
    }

    #[must_use]
    pub(super) fn without(self, key: &ServiceKey) -> Counts {
        let kinds = Counts::of(key);
        Counts {
            fwmark: self.fwmark.saturating_sub(kinds.fwmark),
            ftp: self.ftp.saturating_sub(kinds.ftp),
            port_zero: self.port_zero.saturating_sub(kinds.port_zero),
        }
    }

    /// One service.
    fn of(key: &ServiceKey) -> Counts {
        match *key {
            ServiceKey::Fwmark { .. } => Counts {
                fwmark: 1,
                ..Counts::default()
            },
            ServiceKey::Address { protocol, addr } => Counts {
                fwmark: 0,
                ftp: u32::from(protocol == Protocol::Tcp && addr.port() == FTP),
                port_zero: u32::from(addr.port() == 0),
            },
        }
    }

    pub(super) fn store(self, maps: &Maps) {
        for (offset, count) in [
            (
                core::mem::offset_of!(Settings, fwmark_services),
                self.fwmark,
            ),
            (core::mem::offset_of!(Settings, ftp_services), self.ftp),
            (
                core::mem::offset_of!(Settings, port_zero_services),
                self.port_zero,
            ),
        ] {
            maps.settings.half(0, offset).store(count, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: Protocol, text: &str) -> ServiceKey {
        let addr = text.parse().unwrap();
        ServiceKey::Address { protocol, addr }
    }

    #[test]
    fn a_service_counts_by_its_kind_and_its_removal_takes_that_back() {
        let keys = [
            key(Protocol::Tcp, "192.0.2.1:21"),
            key(Protocol::Udp, "192.0.2.1:21"),
            key(Protocol::Tcp, "[2001:db8::1]:21"),
            key(Protocol::Sctp, "[2001:db8::1]:0"),
            key(Protocol::Tcp, "192.0.2.1:80"),
            ServiceKey::Fwmark {
                mark: 3,
                ipv6: true,
            },
        ];
        let all = keys.iter().fold(Counts::default(), Counts::with);
        assert_eq!((all.fwmark, all.ftp, all.port_zero), (1, 2, 1));
        assert_eq!(keys.iter().fold(all, Counts::without), Counts::default());
    }
}
