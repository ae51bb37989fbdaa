use std::vec::Vec;

use super::*;

mod golden;
mod rank;
mod twos;

/// A service's servers in walk order, with the position between picks.
struct Model {
    scheduler: Scheduler,
    servers: Vec<Candidate>,
    position: Position,
}

impl Model {
    fn new(scheduler: Scheduler) -> Model {
        Model {
            scheduler,
            servers: Vec::new(),
            position: Position::default(),
        }
    }

    fn head(&self) -> ListHead {
        let (wrr_max, wrr_step) = wrr_levels(self.servers.iter().map(|server| server.weight));
        ListHead {
            count: self.servers.len() as u32,
            wrr_max,
            wrr_step,
        }
    }

    /// A new server goes to the front.
    fn add(&mut self, slot: u32, weight: u32) {
        self.servers.insert(
            0,
            Candidate {
                slot,
                weight,
                ..Candidate::default()
            },
        );
        self.position = on_list_change(self.scheduler, self.position, self.head());
    }

    /// The position moves back to the server before the one that leaves.
    fn remove(&mut self, slot: u32) {
        let index = self.servers.iter().position(|server| server.slot == slot);
        let index = index.unwrap();
        self.servers.remove(index);
        if self.position.slot == Some(slot) {
            let before = index.checked_sub(1).map(|before| self.servers[before].slot);
            self.position.slot = before;
        }
        self.position = on_list_change(self.scheduler, self.position, self.head());
    }

    fn set_weight(&mut self, slot: u32, weight: u32) {
        self.server(slot).weight = weight;
        self.position = on_list_change(self.scheduler, self.position, self.head());
    }

    fn server(&mut self, slot: u32) -> &mut Candidate {
        self.servers
            .iter_mut()
            .find(|server| server.slot == slot)
            .unwrap()
    }

    fn pick(&mut self) -> Option<u32> {
        self.pick_with(0)
    }

    fn pick_with(&mut self, random: u64) -> Option<u32> {
        let at = |slot| self.servers.iter().position(|server| server.slot == slot);
        let start = self
            .position
            .slot
            .and_then(at)
            .map_or(HEAD, |index| index as u32);
        let list = self.head();
        let mut walk = Walk::begin(
            self.scheduler as u8,
            list,
            start,
            self.position.level,
            random,
        )?;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(
                steps <= Walk::steps_max(list.count),
                "the walk keeps to its bound"
            );
            if walk.step(self.servers[walk.index() as usize]) == Step::Done {
                break;
            }
        }
        self.position = walk.position(self.position);
        walk.chosen()
    }

    fn picks(&mut self, count: usize) -> Vec<char> {
        (0..count)
            .map(|_| {
                self.pick()
                    .map_or('-', |slot| char::from(b'A' + slot as u8))
            })
            .collect()
    }
}

fn wrr_in_list_order(weights: &[u32]) -> Model {
    let mut model = Model::new(Scheduler::Wrr);
    for (slot, weight) in weights.iter().enumerate() {
        let server = Candidate {
            slot: slot as u32,
            weight: *weight,
            ..Candidate::default()
        };
        model.servers.push(server);
    }
    model.position = initial_position(Scheduler::Wrr, model.head());
    model
}

fn letters(text: &str) -> Vec<char> {
    text.chars()
        .filter(|letter| !letter.is_whitespace())
        .collect()
}

#[test]
fn rr_walks_from_the_newest_server_and_skips_quiesced_ones() {
    let mut model = Model::new(Scheduler::Rr);
    for slot in 0..3 {
        model.add(slot, 1);
    }
    assert_eq!(model.picks(6), letters("CBACBA"));
    model.set_weight(1, 0);
    assert_eq!(model.picks(4), letters("CACA"));
}

#[test]
fn rr_gives_nobody_when_nobody_is_usable_and_the_last_one_again() {
    let mut model = Model::new(Scheduler::Rr);
    model.add(0, 0);
    model.add(1, 1);
    assert_eq!(model.picks(2), letters("BB"));
    model.server(1).overloaded = true;
    assert_eq!(model.picks(1), letters("-"));
}

/// Written from the description alone.
fn rr_by_the_book(model: &Model, last: Option<u32>) -> Option<u32> {
    let count = model.servers.len();
    let at = |slot| model.servers.iter().position(|server| server.slot == slot);
    let first = last.and_then(at).map_or(0, |at| at + 1);
    (0..count)
        .map(|step| &model.servers[(first + step) % count])
        .find(|server| server.weight > 0 && !server.overloaded)
        .map(|server| server.slot)
}

#[test]
fn rr_equals_a_turn_round_the_list_while_servers_come_and_go() {
    const SEED: u64 = 0x5eed_0002;
    let mut next = generator(SEED);
    let mut model = Model::new(Scheduler::Rr);
    let mut added = 0;
    for _ in 0..20_000 {
        let count = model.servers.len() as u64;
        match next(8) {
            0 if count < 8 => {
                model.add(added, next(3) as u32);
                added += 1;
            }
            1 if count > 0 => {
                let slot = model.servers[next(count) as usize].slot;
                model.remove(slot);
            }
            2 if count > 0 => {
                let slot = model.servers[next(count) as usize].slot;
                model.set_weight(slot, next(3) as u32);
            }
            3 if count > 0 => {
                let server = &mut model.servers[next(count) as usize];
                server.overloaded = !server.overloaded;
            }
            _ => {
                let expected = rr_by_the_book(&model, model.position.slot);
                let before = model.position.slot;
                assert_eq!(
                    model.pick(),
                    expected,
                    "{:?}, seed {SEED:#x}",
                    model.servers
                );
                assert_eq!(model.position.slot, expected.or(before));
            }
        }
    }
}

#[test]
fn schedulers_with_tables_and_caches_do_not_walk() {
    let list = ListHead {
        count: 3,
        wrr_max: 1,
        wrr_step: 1,
    };
    for number in 0..=255 {
        let walks = match Scheduler::from_number(number) {
            None => false,
            Some(scheduler) => !matches!(
                scheduler,
                Scheduler::Dh | Scheduler::Sh | Scheduler::Mh | Scheduler::Lblc | Scheduler::Lblcr
            ),
        };
        let begun = Walk::begin(number, list, HEAD, 0, 0).is_some();
        assert_eq!(begun, walks, "{number}");
        assert!(Walk::begin(number, ListHead::default(), HEAD, 0, 0).is_none());
        let tabled = matches!(number, 9..=11);
        assert_eq!(table::Probe::begin(number, 0, 0, 0).is_some(), tabled);
    }
}

#[test]
fn wrr_sequences_at_the_highest_level() {
    let table: [(&[u32], &str); 5] = [
        (&[4, 3, 2], "AABABCABC AABABCABC"),
        (&[5, 1, 1], "AAAAABC AAAAABC"),
        (&[2, 4, 6], "CBCABC CBCABC"),
        (&[0, 1, 0], "BBBB"),
        (&[10, 0, 5], "AAC AAC"),
    ];
    for (weights, sequence) in table {
        let expected = letters(sequence);
        assert_eq!(
            wrr_in_list_order(weights).picks(expected.len()),
            expected,
            "{weights:?}"
        );
    }
}

#[test]
fn wrr_after_a_weight_became_zero_midway() {
    let mut model = wrr_in_list_order(&[4, 3, 2]);
    assert_eq!(model.picks(4), letters("AABA"));
    model.set_weight(1, 0);
    assert_eq!(model.position.level, 3);
    assert_eq!(model.picks(6), letters("AACAAC"));
}

#[test]
fn wrr_gives_nobody_when_all_are_overloaded_and_keeps_its_level() {
    let mut model = wrr_in_list_order(&[3, 2]);
    model
        .servers
        .iter_mut()
        .for_each(|server| server.overloaded = true);
    assert_eq!(model.picks(1), letters("-"));
    assert_eq!(model.position.level, 3);
}

#[test]
fn wrr_built_up_server_by_server_begins_at_level_one() {
    let mut model = Model::new(Scheduler::Wrr);
    model.add(0, 4);
    model.add(1, 3);
    model.add(2, 2);
    assert_eq!(model.picks(10), letters("CBA A BA CBA C"));
    let mut model = Model::new(Scheduler::Wrr);
    model.add(0, 2);
    model.add(1, 4);
    model.add(2, 6);
    assert_eq!(model.picks(11), letters("CBA C CB CBA C C"));
}

/// Written from the description alone: one level at a time, nothing skipped.
fn wrr_by_the_book(model: &mut Model, cl: &mut Option<usize>, cw: &mut i64) -> Option<u32> {
    let list = model.head();
    if list.wrr_max == 0 {
        return None;
    }
    let last = *cl;
    let (mut stop, mut last_pass, mut restarted) = (None, false, false);
    let mut from = last.map_or(0, |at| at + 1);
    loop {
        for at in from..model.servers.len() {
            let server = &model.servers[at];
            if !server.overloaded && i64::from(server.weight) >= *cw {
                *cl = Some(at);
                return Some(server.slot);
            }
            if stop == Some(at) {
                *cl = Some(at);
                return None;
            }
        }
        *cw -= i64::from(list.wrr_step);
        if *cw <= 0 {
            *cw = i64::from(list.wrr_max);
            if last_pass || last.is_none() {
                *cl = None;
                return None;
            }
            restarted = true;
        }
        last_pass = *cw <= i64::from(list.wrr_step);
        if last_pass && restarted && last.is_some() {
            stop = last;
        }
        from = 0;
    }
}

/// Random numbers below a bound, from a seed.
fn generator(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % below
    }
}

#[test]
fn wrr_equals_a_walk_that_skips_nothing() {
    let mut next = generator(0x9e37_79b9_7f4a_7c15);
    for _ in 0..3000 {
        let count = 1 + next(6) as usize;
        let weights: Vec<u32> = (0..count)
            .map(|_| (next(5) * (1 + next(4))) as u32)
            .collect();
        let mut model = wrr_in_list_order(&weights);
        let (mut cl, mut cw) = (None, i64::from(model.position.level));
        for _ in 0..40 {
            if next(6) == 0 {
                let at = next(count as u64) as usize;
                model.servers[at].overloaded = !model.servers[at].overloaded;
            }
            let expected = wrr_by_the_book(&mut model, &mut cl, &mut cw);
            assert_eq!(
                model.pick(),
                expected,
                "{:?} {:?}",
                model.servers,
                model.position
            );
            if expected.is_none() {
                break;
            }
            assert_eq!(i64::from(model.position.level), cw, "{:?}", model.servers);
        }
    }
}

#[test]
fn the_word_holds_the_largest_position() {
    let position = Position {
        slot: Some(0xff_fffe),
        level: i32::MAX as u32,
    };
    assert_eq!(Position::from_word(position.to_word()), position);
    assert_eq!(Position::from_word(0), Position::default());
}
