//! Reads the offers of the programs: connections the backup should hear of.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, RingBuf};
use dataplane_common::extra::HAS_EXTRA;
use dataplane_common::offer::{Offer4, Offer6};
use dataplane_common::{FlowKey, FlowKey4, FlowKey6, FlowRef};

use crate::convert::{AF_INET, AF_INET6};
use crate::extras::{self, ExtraMap};
use crate::loader::chain;
use crate::maps::typed;
use crate::sweep::Place;
use crate::{Extra, OpenError};

/// The reading end of the ring of offers, for a thread of its own. There is one reader at a time.
pub struct OfferReader {
    ring: RingBuf<MapData>,
    extras: ExtraMap,
    flows4: HashMap<MapData, FlowKey4, FlowRef>,
    flows6: HashMap<MapData, FlowKey6, FlowRef>,
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
        let failed = |name: &str, error: String| OpenError::Map(format!("{name}: {error}"));
        let data = |name: &str| {
            let data = MapData::from_pin(pin_dir.join(name));
            data.map_err(|error| failed(name, chain(&error)))
        };
        let ring = RingBuf::try_from(Map::RingBuf(data("OFFERS")?));
        Ok(OfferReader {
            ring: ring.map_err(|error| failed("OFFERS", chain(&error)))?,
            extras: typed(Map::HashMap(data("EXTRAS")?))?,
            flows4: typed(Map::HashMap(data("FLOWS4")?))?,
            flows6: typed(Map::HashMap(data("FLOWS6")?))?,
        })
    }

    /// The next offer, oldest first; `None` when there is none now.
    pub fn next_offer(&mut self) -> Option<OfferedConn> {
        const OFFER4: usize = size_of::<Offer4>();
        const OFFER6: usize = size_of::<Offer6>();
        let item = self.ring.next()?;
        let mut offered = match item.len() {
            OFFER4 => {
                // SAFETY: the record has this length, and every pattern of bytes is an `Offer4`:
                // integers only, without padding.
                let offer = unsafe { item.as_ptr().cast::<Offer4>().read_unaligned() };
                OfferedConn {
                    ipv6: false,
                    offer: offer.to_words(),
                    extra: None,
                }
            }
            OFFER6 => {
                // SAFETY: as above.
                let offer = unsafe { item.as_ptr().cast::<Offer6>().read_unaligned() };
                OfferedConn {
                    ipv6: true,
                    offer,
                    extra: None,
                }
            }
            _ => return None,
        };
        drop(item);
        if offered.offer.conn_flags & HAS_EXTRA != 0 {
            offered.offer.conn_flags &= !HAS_EXTRA;
            offered.extra = self.extra(&offered).map(Box::new);
        }
        Some(offered)
    }

    /// What few connections have beside the rest. One that has left the table since then has none.
    fn extra(&self, offered: &OfferedConn) -> Option<Extra> {
        let key = offered.offer.key;
        let (family, found) = if offered.ipv6 {
            (AF_INET6, self.flows6.get(&key, 0))
        } else {
            (AF_INET, self.flows4.get(&FlowKey::from_words(key), 0))
        };
        let flow = found.ok()?;
        let place = Place {
            family,
            index: flow.index,
            generation: flow.generation(),
        };
        extras::read(&self.extras, place)
    }
}

impl AsFd for OfferReader {
    /// Readable while there are offers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
