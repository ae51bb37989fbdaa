//! Reads the offers of the programs: connections the backup should hear of.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use dataplane_common::offer::Offer;

use crate::OpenError;
use crate::loader::chain;

/// The reading end of the ring of offers, for a thread of its own. There is one reader at a time.
pub struct OfferReader {
    ring: RingBuf<MapData>,
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
    pub fn next_offer(&mut self) -> Option<Offer> {
        let item = self.ring.next()?;
        if item.len() != size_of::<Offer>() {
            return None;
        }
        // SAFETY: the record has this length, and every pattern of bytes is an `Offer`: integers
        // only, without padding.
        Some(unsafe { item.as_ptr().cast::<Offer>().read_unaligned() })
    }
}

impl AsFd for OfferReader {
    /// Readable while there are offers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
