//! What becomes of connection flags between sender, wire and receiver.

use ipvs_model::flags::ConnFlags;

/// Bits a receiver takes over into a new connection. Source: `ip_vs.h:
/// IP_VS_CONN_F_BACKUP_MASK`.
pub const STORED_MASK: u32 = 0x1f87;

/// Bits that an entry changes in a connection there is. Source: `ip_vs.h:
/// IP_VS_CONN_F_BACKUP_UPD_MASK`.
pub const UPDATED_MASK: u32 = ConnFlags::INACTIVE | ConnFlags::OUT_SEQ | ConnFlags::IN_SEQ;

/// Flags as transmitted: whether the sender has hashed its entry is its own affair.
#[inline]
pub const fn sent(flags: u32) -> u32 {
    flags & !ConnFlags::HASHED
}

/// Whether a receiver refuses an entry for its flags: a one-packet connection is never
/// synchronised, and a template has a client network, so it cannot lack a client port.
/// Source: `ip_vs_sync.c: ip_vs_process_message_v0`, `ip_vs_proc_sync_conn`.
#[inline]
pub const fn forbidden(wire: u32) -> bool {
    let template_without_port = ConnFlags::TEMPLATE | ConnFlags::NO_CPORT;
    wire & ConnFlags::ONE_PACKET != 0 || wire & template_without_port == template_without_port
}

/// Flags of a new connection made from an entry, before a real server is bound.
#[inline]
pub const fn stored(wire: u32) -> u32 {
    wire & STORED_MASK | ConnFlags::SYNC
}

/// Flags of a connection there is, after an entry about it.
#[inline]
pub const fn updated(stored: u32, wire: u32) -> u32 {
    stored & !UPDATED_MASK | wire & UPDATED_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_takes_over_what_the_mask_lets_through() {
        assert_eq!(stored(0x0000_0040), 0x0020);
        assert_eq!(stored(0x0001_0183), 0x01a3);
        assert_eq!(stored(0x0000_06ff), 0x06a7);
        assert_eq!(stored(0xffff_c7ff), 0x07a7);
    }

    #[test]
    fn an_update_changes_inactive_and_the_sequence_flags_alone() {
        assert_eq!(updated(0x01a3, 0x0600), 0x06a3);
        assert_eq!(updated(0x0020, 0xffff_ffff), 0x0720);
        assert_eq!(updated(0x1fa7, 0), 0x18a7);
    }

    #[test]
    fn one_packet_and_templates_without_client_port_are_forbidden() {
        assert!(forbidden(0x2000) && forbidden(0x3040) && forbidden(0x1800));
        assert!(!forbidden(0x1000) && !forbidden(0x0800) && !forbidden(0xffff_c7ff));
    }

    #[test]
    fn hashed_is_never_sent() {
        assert_eq!(sent(0x0640), 0x0600);
        assert_eq!(sent(0xffff_ffff), 0xffff_ffbf);
    }
}
