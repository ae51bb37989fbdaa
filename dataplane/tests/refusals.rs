//! When a data plane cannot be had, the reason is named and nothing is left behind or broken.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::fs;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use dataplane::common::layout::{Layout, VERSION_ADOPTED};
use dataplane::{AttachMode, DataPlane, OpenError, Options};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use lab::director::{NAT, add_server, add_service, service};
use lab::packets::{SYN, tcp};
use lab::sides::{INTERFACES, Side, Sides};

/// Names in a directory, and the programs attached by TCX.
fn left(sides: &Sides) -> (Vec<String>, Vec<Option<u32>>) {
    let pins = fs::read_dir(sides.options(AttachMode::Auto).pin_dir);
    let pins = pins.into_iter().flatten().flatten();
    let mut pins: Vec<String> = pins
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    pins.sort();
    let program = |interface: &str| {
        let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).unwrap();
        assert!(programs.len() <= 1);
        programs.first().map(|program| program.id())
    };
    (pins, INTERFACES.map(program).to_vec())
}

fn open(sides: &Sides) -> Result<DataPlane, OpenError> {
    DataPlane::open(&sides.options(AttachMode::Auto))
}

fn error(sides: &Sides) -> OpenError {
    match open(sides) {
        Ok(_) => panic!("the pins are taken over"),
        Err(error) => error,
    }
}

/// A director with a service that was left running, and what is there then.
fn left_running() -> (Sides, (Vec<String>, Vec<Option<u32>>)) {
    let sides = Sides::new();
    let mut plane = sides.open(AttachMode::Auto);
    let key = service(Protocol::Tcp, "10.50.0.1:80");
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, "10.200.0.11:8080", NAT, 1);
    drop(plane);
    let there = left(&sides);
    (sides, there)
}

fn still_forwards(sides: &mut Sides) -> bool {
    let packet = tcp("10.100.0.5:40000", "10.50.0.1:80", SYN).bytes();
    let out = sides.exchange(Side::Client, &packet);
    out.len() == 1 && out[0].0 == Side::Server
}

fn layout(sides: &Sides) -> Array<MapData, Layout> {
    let pin = sides.options(AttachMode::Auto).pin_dir.join("LAYOUT");
    Array::try_from(Map::Array(MapData::from_pin(pin).unwrap())).unwrap()
}

#[test]
fn an_unknown_interface_is_refused_before_anything_is_done() {
    let sides = Sides::new();
    let options = sides.options(AttachMode::Auto);
    let interfaces = vec!["client0".into(), "nowhere0".into()];
    let Err(error) = DataPlane::open(&Options {
        interfaces,
        ..options
    }) else {
        panic!("nowhere0 does not exist")
    };
    assert!(
        matches!(&error, OpenError::NoInterface(name) if name == "nowhere0"),
        "{error}"
    );
    assert_eq!(left(&sides), (vec![], vec![None, None]));
}

#[test]
fn a_second_director_on_the_same_pins_is_refused() {
    let mut sides = Sides::new();
    let mut first = sides.open(AttachMode::Auto);
    let there = left(&sides);
    let refused = error(&sides);
    assert!(matches!(refused, OpenError::Busy(_)), "{refused}");
    let refused = DataPlane::detach(&sides.options(AttachMode::Auto).pin_dir);
    assert!(matches!(refused, Err(OpenError::Busy(_))), "{refused:?}");
    assert_eq!(left(&sides), there);
    let key = service(Protocol::Tcp, "10.50.0.1:80");
    add_service(&mut first, key, Scheduler::Rr);
    add_server(&mut first, key, "10.200.0.11:8080", NAT, 1);
    assert!(still_forwards(&mut sides));
    drop(first);
    assert!(open(&sides).is_ok(), "the first one is gone");
}

#[test]
fn pins_of_another_layout_are_refused_and_go_on() {
    let (mut sides, there) = left_running();
    let other = Layout {
        version: Layout::CURRENT.version + 1,
        ..Layout::CURRENT
    };
    let mut other_size = Layout::CURRENT;
    other_size.sizes[2] += 8;
    for found in [other, other_size] {
        layout(&sides).set(0, found, 0).unwrap();
        let refused = error(&sides);
        assert!(
            matches!(refused, OpenError::OtherLayout { .. }),
            "{refused}"
        );
        let version = format!("version {}", found.version);
        assert!(refused.to_string().contains(&version), "{refused}");
        assert_eq!(left(&sides), there);
        assert!(still_forwards(&mut sides));
    }
    layout(&sides).set(0, Layout::CURRENT, 0).unwrap();
    assert!(open(&sides).unwrap().was_adopted());
}

#[test]
fn maps_of_the_version_before_are_taken_over_and_called_current() {
    let (mut sides, there) = left_running();
    let older = Layout {
        version: VERSION_ADOPTED,
        ..Layout::CURRENT
    };
    let too_old = Layout {
        version: VERSION_ADOPTED - 1,
        ..Layout::CURRENT
    };
    layout(&sides).set(0, too_old, 0).unwrap();
    let refused = error(&sides);
    assert!(
        matches!(refused, OpenError::OtherLayout { .. }),
        "{refused}"
    );
    assert_eq!(left(&sides), there);
    layout(&sides).set(0, older, 0).unwrap();
    let plane = open(&sides).unwrap();
    assert!(plane.was_adopted());
    assert_eq!(layout(&sides).get(&0, 0).unwrap(), Layout::CURRENT);
    assert!(still_forwards(&mut sides));
}

#[test]
fn torn_maps_are_refused_by_name() {
    for name in ["LAYOUT", "CONNS4", "SERVICES"] {
        let run = std::thread::spawn(move || {
            let (mut sides, there) = left_running();
            fs::remove_file(sides.options(AttachMode::Auto).pin_dir.join(name)).unwrap();
            let refused = error(&sides);
            assert!(matches!(refused, OpenError::Torn { .. }), "{refused}");
            assert!(refused.to_string().contains(name), "{refused}");
            let pins: Vec<_> = there.0.iter().filter(|pin| *pin != name).cloned().collect();
            assert_eq!(left(&sides), (pins, there.1.clone()));
            assert!(still_forwards(&mut sides), "without the pin of {name}");
            DataPlane::detach(&sides.options(AttachMode::Auto).pin_dir).unwrap();
            assert_eq!(left(&sides), (vec![], vec![None, None]));
        });
        assert!(run.join().is_ok(), "{name}");
    }
}

#[test]
fn maps_that_were_never_finished_are_refused() {
    let (sides, there) = left_running();
    layout(&sides).set(0, Layout::default(), 0).unwrap();
    let refused = error(&sides);
    assert!(matches!(refused, OpenError::Torn { .. }), "{refused}");
    assert_eq!(left(&sides), there);
}

#[test]
fn a_layout_word_of_another_size_is_refused() {
    let (sides, _) = left_running();
    let pin_dir = sides.options(AttachMode::Auto).pin_dir;
    // Another map of another size under that name.
    fs::remove_file(pin_dir.join("LAYOUT")).unwrap();
    fs::hard_link(pin_dir.join("SETTINGS"), pin_dir.join("LAYOUT"))
        .or_else(|_| {
            MapData::from_pin(pin_dir.join("SETTINGS"))
                .unwrap()
                .pin(pin_dir.join("LAYOUT"))
                .map_err(std::io::Error::other)
        })
        .unwrap();
    let refused = error(&sides);
    assert!(
        matches!(refused, OpenError::OtherLayout { .. }),
        "{refused}"
    );
}

#[test]
fn a_pin_directory_outside_a_bpffs_is_refused() {
    let sides = Sides::new();
    let name = format!("tandem-plain-{}", std::process::id());
    let pin_dir = std::env::temp_dir().join(name);
    let options = Options {
        pin_dir: pin_dir.clone(),
        ..sides.options(AttachMode::Auto)
    };
    let refused = DataPlane::open(&options).err().expect("not a bpffs");
    assert!(matches!(refused, OpenError::NotBpffs(_)), "{refused}");
    assert_eq!(fs::read_dir(&pin_dir).map_or(0, Iterator::count), 0);
    assert_eq!(left(&sides), (vec![], vec![None, None]));
    let _ = fs::remove_dir(&pin_dir);

    let refused = DataPlane::detach(Path::new("/nowhere/tandem")).expect_err("no directory");
    assert!(matches!(refused, OpenError::PinDir { .. }), "{refused}");
}
