//! Reads the offers of the programs: connections the backup should hear of.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use dataplane_common::offer::{Offer4, Offer6};

use crate::OpenError;
use crate::Extra;
use crate::loader::chain;

/// The reading end of the ring of offers, for a thread of its own. There is one reader at a time.
pub struct OfferReader {
    ring: RingBuf<MapData>,
}

/// A connection or template that the backup should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedConn {
    pub ipv6: bool,
    /// IPv4 addresses stand in the first word. Of a fwmark template, `key.dst` is the mark.
    pub offer: Offer6,
    /// Shifted sequence numbers, when its flags say so; what a persistence engine stored.
    pub extra: Option<Box<Extra>>,
}

impl OfferReader {
    pub(crate) fn open(pin_dir: &Path) -> Result<OfferReader, OpenError> {
        let failed = |error: String| OpenError::Map(format!("OFFERS: {error}"));
        let data = MapData::from_pin(pin_dir.join("OFFERS"));
        let data = data.map_err(|error| failed(chain(&error)))?;
        let ring = RingBuf::try_from(Map::RingBuf(data));
        let ring = ring.map_err(|error| failed(chain(&error)))?;
        Ok(OfferReader { ring })
    }

    /// The next offer, oldest first; `None` when there is none now.
    pub fn next_offer(&mut self) -> Option<OfferedConn> {
        const OFFER4: usize = size_of::<Offer4>();
        const OFFER6: usize = size_of::<Offer6>();
        let item = self.ring.next()?;
        match item.len() {
            OFFER4 => {
                // SAFETY: the record has this length, and every pattern of bytes is an `Offer4`:
                // integers only, without padding.
                let offer = unsafe { item.as_ptr().cast::<Offer4>().read_unaligned() };
                Some(OfferedConn {
                    ipv6: false,
                    offer: offer.to_words(),
                    extra: None,
                })
            }
            OFFER6 => {
                // SAFETY: as above.
                let offer = unsafe { item.as_ptr().cast::<Offer6>().read_unaligned() };
                Some(OfferedConn {
                    ipv6: true,
                    offer,
                    extra: None,
                })
            }
            _ => None,
        }
    }
}

impl AsFd for OfferReader {
    /// Readable while there are offers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
