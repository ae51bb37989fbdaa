//! Lists of what is tracked, in `[[vrrp]]` and `[[vrrp_group]]`.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::{Named, TRACKED_MAX, Track, TrackInterface, TrackRef, Tracked, WEIGHT, WEIGHT_WIDE};
use crate::config::{Offence, is_interface_name};

/// A list of references as typed.
pub(in crate::config) type RawRefs = Option<Spanned<Vec<Spanned<String>>>>;

/// The four lists of an instance or a group.
#[derive(Debug)]
pub(in crate::config) struct RawTrack {
    pub(in crate::config) interfaces: RawRefs,
    pub(in crate::config) scripts: RawRefs,
    pub(in crate::config) processes: RawRefs,
    pub(in crate::config) files: RawRefs,
}

impl RawTrack {
    /// `own` is the interface of the instance, unless it is not watched.
    pub(in crate::config) fn resolve(
        self,
        tracked: &Tracked,
        own: Option<&str>,
    ) -> Result<Track, Offence> {
        let find = |name: &str| {
            if !is_interface_name(name) {
                return Err(format!("{name:?} is not an interface name"));
            }
            if own == Some(name) {
                return Err(format!("{name} is the instance's own and tracked anyway"));
            }
            Ok((name.to_owned(), (0, false)))
        };
        let interfaces = resolve_refs("track_interfaces", self.interfaces, &WEIGHT, find)?;
        Ok(Track {
            interfaces: interfaces
                .into_iter()
                .map(|(name, weight, reverse)| TrackInterface {
                    name,
                    weight,
                    reverse,
                })
                .collect(),
            scripts: refs_to("track_script", self.scripts, &WEIGHT, &tracked.scripts)?,
            processes: refs_to(
                "track_process",
                self.processes,
                &WEIGHT_WIDE,
                &tracked.processes,
            )?,
            files: refs_to("track_file", self.files, &WEIGHT_WIDE, &tracked.files)?,
            own_interface: own.is_some(),
        })
    }

    /// The first reference with a weight of its own that is not 0.
    pub(in crate::config) fn weighted(&self) -> Option<&Spanned<String>> {
        let lists = [
            &self.interfaces,
            &self.scripts,
            &self.processes,
            &self.files,
        ];
        let references = lists.into_iter().flatten().flat_map(Spanned::get_ref);
        references.into_iter().find(|text| {
            let weight = text.get_ref().split_whitespace().nth(2);
            weight.is_some_and(|weight| weight.parse() != Ok(0_i64))
        })
    }
}

fn refs_to<T: Named>(
    section: &str,
    list: RawRefs,
    range: &RangeInclusive<i64>,
    known: &[T],
) -> Result<Vec<TrackRef>, Offence> {
    let find = |name: &str| {
        let at = known.iter().enumerate().find(|(_, one)| one.name() == name);
        let (index, one) = at.ok_or_else(|| format!("there is no [[{section}]] of that name"))?;
        Ok((index, one.weight()))
    };
    let key = match section {
        "track_process" => "track_processes".to_owned(),
        section => format!("{section}s"),
    };
    let found = resolve_refs(&key, list, range, find)?;
    let found = found.into_iter();
    Ok(found
        .map(|(index, weight, reverse)| TrackRef {
            index,
            weight,
            reverse,
        })
        .collect())
}

/// `find` gives what a name stands for, and its weight where the reference has none.
fn resolve_refs<T: PartialEq>(
    key: &str,
    list: RawRefs,
    range: &RangeInclusive<i64>,
    find: impl Fn(&str) -> Result<(T, Weight), String>,
) -> Result<Vec<(T, i16, bool)>, Offence> {
    let Some(list) = list else {
        return Ok(Vec::new());
    };
    let count = list.get_ref().len();
    if count > TRACKED_MAX {
        let reason = format!("{key}: {count} are more than {TRACKED_MAX}");
        return Err(Offence::new(&list, reason));
    }
    let mut found: Vec<(T, i16, bool)> = Vec::new();
    for text in list.into_inner() {
        let refused = |reason: String| {
            let reason = format!("{key} {:?}: {reason}", text.get_ref());
            Offence::new(&text, reason)
        };
        let (name, own) = parse_ref(text.get_ref(), range).map_err(refused)?;
        let (what, default) = find(name).map_err(refused)?;
        if found.iter().any(|(other, ..)| *other == what) {
            return Err(refused("is there twice".to_owned()));
        }
        let (weight, reverse) = own.unwrap_or(default);
        found.push((what, weight, reverse));
    }
    Ok(found)
}

/// A weight, and whether good and bad change places.
type Weight = (i16, bool);

/// The name, and the weight if there is one.
fn parse_ref<'a>(
    text: &'a str,
    range: &RangeInclusive<i64>,
) -> Result<(&'a str, Option<Weight>), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, weight, reverse) = match words[..] {
        [name] => return Ok((name, None)),
        [name, "weight", weight] => (name, weight, false),
        [name, "weight", weight, "reverse"] => (name, weight, true),
        _ => return Err("is not NAME [weight W [reverse]]".to_owned()),
    };
    let number = weight.parse().ok().filter(|weight| range.contains(weight));
    let number = number.and_then(|weight| i16::try_from(weight).ok());
    let (start, end) = (range.start(), range.end());
    let number =
        number.ok_or_else(|| format!("weight {weight} is not between {start} and {end}"))?;
    Ok((name, Some((number, reverse))))
}
