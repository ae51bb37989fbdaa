//! The three timeouts that `ipvsadm --set` changes.

/// Largest timeout in seconds the kernel accepts: `INT_MAX / HZ` with HZ = 250.
pub const TIMEOUT_SECS_MAX: u32 = (i32::MAX / 250) as u32;

/// Timeouts in seconds of established TCP connections, of TCP connections after a FIN, and of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct Timeouts {
    pub tcp_secs: u32,
    pub tcp_fin_secs: u32,
    pub udp_secs: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_secs: 900,
            tcp_fin_secs: 120,
            udp_secs: 300,
        }
    }
}

impl Timeouts {
    /// The timeouts after `change`, in which 0 leaves a value as it is
    /// (`ip_vs_ctl.c: ip_vs_set_timeout`).
    ///
    /// # Errors
    /// A value above [`TIMEOUT_SECS_MAX`]; nothing is changed then.
    pub fn changed_by(self, change: Timeouts) -> Result<Timeouts, TimeoutOutOfRange> {
        for value in [change.tcp_secs, change.tcp_fin_secs, change.udp_secs] {
            if value > TIMEOUT_SECS_MAX {
                return Err(TimeoutOutOfRange(value));
            }
        }
        let pick = |new, old| if new == 0 { old } else { new };
        Ok(Timeouts {
            tcp_secs: pick(change.tcp_secs, self.tcp_secs),
            tcp_fin_secs: pick(change.tcp_fin_secs, self.tcp_fin_secs),
            udp_secs: pick(change.udp_secs, self.udp_secs),
        })
    }
}

/// The offending value in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutOutOfRange(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_leaves_a_timeout_unchanged() {
        let change = Timeouts {
            tcp_secs: 0,
            tcp_fin_secs: 20,
            udp_secs: 0,
        };
        let now = Timeouts::default().changed_by(change).unwrap();
        assert_eq!(
            now,
            Timeouts {
                tcp_secs: 900,
                tcp_fin_secs: 20,
                udp_secs: 300
            }
        );
    }

    #[test]
    fn one_value_out_of_range_changes_nothing() {
        let change = Timeouts {
            tcp_secs: 1,
            tcp_fin_secs: TIMEOUT_SECS_MAX + 1,
            udp_secs: 1,
        };
        assert_eq!(
            Timeouts::default().changed_by(change),
            Err(TimeoutOutOfRange(TIMEOUT_SECS_MAX + 1))
        );
    }
}
