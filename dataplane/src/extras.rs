//! Sequence records and data of persistence engines: a side map, because few connections have any.
//!
//! A record belongs to one incarnation of a place in a connection table. Nobody takes it away with the
//! entry: what is left over is told by its generation, and cleaned up some at a time.

use std::collections::BTreeMap;
use std::ops::Bound;

use aya::maps::{HashMap, MapData};
use dataplane_common::entry::ConnWord;
use dataplane_common::extra::{EXTRAS_MAX, ExtraKey, ExtraRecord};
use ipvs_model::extra::{Pe, SeqPair, SeqRecord};

use crate::Extra;
use crate::connections::WORD;
use crate::convert::AF_INET6;
use crate::mapped::load;
use crate::maps::Maps;
use crate::sweep::Place;

/// Records looked at in one [`Extras::clean`].
const CLEANED_AT_ONCE: usize = 4096;

/// The map of kernel memory that holds the records.
pub(crate) type ExtraMap = HashMap<MapData, ExtraKey, ExtraRecord>;

/// Which places have a record.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// With the generation of the place.
    known: BTreeMap<ExtraKey, u32>,
    /// The last one that was looked at.
    cleaned: Option<ExtraKey>,
    /// There was no room, and cleaning has found none since.
    is_full: bool,
}

impl Extras {
    pub(crate) fn adopt(maps: &Maps) -> Extras {
        let known = maps.extras.iter().filter_map(Result::ok);
        Extras {
            known: known
                .map(|(key, record)| (key, record.generation))
                .collect(),
            cleaned: None,
            is_full: false,
        }
    }

    /// Notes what an entry said of a connection: sequence records always, engine data when it was new
    /// (`ip_vs_sync.c: ip_vs_proc_conn`).
    ///
    /// False when there is no room for it, or when it is another one's that has the same hash.
    pub(crate) fn note(
        &mut self,
        maps: &mut Maps,
        place: Place,
        extra: &Extra,
        is_new: bool,
    ) -> bool {
        let key = key_of(place);
        let known = self.known.get(&key) == Some(&place.generation);
        let stored = if known && !is_new {
            maps.extras.get(&key, 0).ok()
        } else {
            None
        };
        let before = stored.map(|record| extra_of(&record)).unwrap_or_default();
        let kept_pe = before.pe.as_ref().filter(|_| !is_new);
        let after = Extra {
            seq: extra.seq.or(before.seq),
            pe: kept_pe.or(extra.pe.as_ref()).cloned(),
        };
        // Two with one hash: the later one's data are nowhere.
        let is_told = extra.pe.is_none() || extra.pe == after.pe;
        // Most entries say again what is known.
        if after == before {
            return is_told;
        }
        let record = record_of(place.generation, &after);
        if !known && self.known.len() >= EXTRAS_MAX as usize && !self.is_full {
            self.clean_whole(maps);
        }
        if maps.extras.insert(key, record, 0).is_err() {
            self.is_full = true;
            return false;
        }
        self.known.insert(key, place.generation);
        is_told
    }

    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    /// What is noted of an incarnation of a place.
    pub(crate) fn get(&self, maps: &Maps, place: Place) -> Option<Extra> {
        let key = key_of(place);
        if self.known.get(&key) != Some(&place.generation) {
            return None;
        }
        read(&maps.extras, place)
    }

    /// Removes what is left over of places that hold another connection by now, or none. Looks at a
    /// bounded number.
    pub(crate) fn clean(&mut self, maps: &mut Maps) {
        let from = self.cleaned.map_or(Bound::Unbounded, Bound::Excluded);
        let some: Vec<(ExtraKey, u32)> = (self.known)
            .range((from, Bound::Unbounded))
            .take(CLEANED_AT_ONCE)
            .map(|(key, generation)| (*key, *generation))
            .collect();
        self.cleaned = match some.last() {
            Some((last, _)) if some.len() == CLEANED_AT_ONCE => Some(*last),
            Some(_) | None => None,
        };
        for (key, generation) in some {
            let word = ConnWord(load(if key.family == u32::from(AF_INET6) {
                maps.conns6.word(key.index, WORD)
            } else {
                maps.conns4.word(key.index, WORD)
            }));
            if word.is_free() || word.generation() != generation {
                self.known.remove(&key);
                // Gone already is as good.
                let _ = maps.extras.remove(&key);
                self.is_full = false;
            }
        }
    }

    /// Looks at all of them.
    fn clean_whole(&mut self, maps: &mut Maps) {
        self.cleaned = None;
        self.clean(maps);
        while self.cleaned.is_some() {
            self.clean(maps);
        }
    }
}

/// The record of an incarnation of a place, from any thread that holds the map.
pub(crate) fn read(map: &ExtraMap, place: Place) -> Option<Extra> {
    let record = map.get(&key_of(place), 0).ok()?;
    (record.generation == place.generation).then(|| extra_of(&record))
}

fn key_of(place: Place) -> ExtraKey {
    ExtraKey {
        family: place.family.into(),
        index: place.index,
    }
}

fn record_of(generation: u32, extra: &Extra) -> ExtraRecord {
    let mut record = ExtraRecord {
        generation,
        has_seq: u8::from(extra.seq.is_some()),
        pe_name_len: 0,
        pe_data_len: 0,
        reserved: 0,
        seq: [0; 6],
        pe_name: [0; 16],
        pe_data: [0; 256],
    };
    if let Some(seq) = extra.seq {
        let words = |one: SeqRecord| {
            [
                one.init_seq,
                one.delta.cast_unsigned(),
                one.previous_delta.cast_unsigned(),
            ]
        };
        let ([a, b, c], [d, e, f]) = (words(seq.input), words(seq.output));
        record.seq = [a, b, c, d, e, f];
    }
    if let Some(pe) = &extra.pe {
        // A `Pe` keeps to the lengths of the record.
        record.pe_name_len = pe.name().len() as u8;
        record.pe_data_len = pe.data().len() as u8;
        record.pe_name[..pe.name().len()].copy_from_slice(pe.name());
        record.pe_data[..pe.data().len()].copy_from_slice(pe.data());
    }
    record
}

fn extra_of(record: &ExtraRecord) -> Extra {
    let [a, b, c, d, e, f] = record.seq;
    let of = |init_seq, delta: u32, previous: u32| SeqRecord {
        init_seq,
        delta: delta.cast_signed(),
        previous_delta: previous.cast_signed(),
    };
    let name = record.pe_name.get(..record.pe_name_len.into());
    let data = record.pe_data.get(..record.pe_data_len.into());
    Extra {
        seq: (record.has_seq != 0).then(|| SeqPair {
            input: of(a, b, c),
            output: of(d, e, f),
        }),
        pe: Pe::new(name.unwrap_or_default(), data.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_what_was_said() {
        let one = |init_seq| SeqRecord {
            init_seq,
            delta: -3,
            previous_delta: i32::MIN,
        };
        let seq = SeqPair {
            input: one(7),
            output: one(u32::MAX),
        };
        let longest = Pe::new(&[b'n'; 16], &[0xff; 255]);
        for extra in [
            Extra {
                seq: Some(seq),
                pe: None,
            },
            Extra {
                seq: None,
                pe: longest.clone(),
            },
            Extra {
                seq: Some(seq),
                pe: longest,
            },
            Extra::default(),
        ] {
            let record = record_of(9, &extra);
            assert_eq!(record.generation, 9);
            assert_eq!(extra_of(&record), extra);
        }
    }
}
