//! What documents list, they list completely.
#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::fs;
use std::path::Path;

use dataplane_common::verdict::{Action, Event, Verdict};

#[test]
fn the_tour_of_the_data_plane_lists_every_verdict_and_event() {
    let text = read("docs/design-dataplane.md");
    for verdict in Verdict::ALL {
        let action = match verdict.action() {
            Action::Pass => "passed",
            Action::Forward => "forwarded",
            Action::Drop => "dropped",
        };
        let row = format!("| `{}` | {action} | ", verdict.name());
        assert!(text.contains(&row), "{row}");
    }
    for event in Event::ALL {
        let row = format!("| `{}` | ", event.name());
        assert!(text.contains(&row), "{row}");
    }
    let rows = text
        .lines()
        .filter(|line| is_row_of(line, &["pass_", "forward_", "drop_"]));
    assert_eq!(rows.count(), Verdict::COUNT, "a verdict that is no more");
}

#[test]
fn the_readme_lists_every_drill() {
    let readme = read("README.md");
    let scenarios = fs::read_dir(root().join("testbed/scenarios")).unwrap();
    let names: Vec<_> = scenarios
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(readme.contains(&format!("| `{name}` | ")), "{name}");
    }
}

fn is_row_of(line: &str, prefixes: &[&str]) -> bool {
    prefixes
        .iter()
        .any(|prefix| line.starts_with(&format!("| `{prefix}")))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
