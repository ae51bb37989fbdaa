//! Every case that the command line alone decides, by the built program.

use std::path::Path;

use crate::cases::{Case, Step, transcripts};
use crate::program;

/// How many of the recorded cases the command line decides.
const DECIDED: usize = 140;

#[test]
fn the_command_line_decides_as_recorded() {
    let mut compared = 0;
    let mut others = Vec::new();
    let mut failures = Vec::new();
    for transcript in transcripts() {
        for step in &transcript.steps {
            let Step::Case(case) = step else { continue };
            if !is_decided_by_grammar(case) {
                others.push(case.title.clone());
                continue;
            }
            compared += 1;
            let output = program::run(&case.line, &case.stdin, Path::new(program::NO_SOCKET));
            if output != case.recorded {
                failures.push(format!(
                    "{}\n  {:?}\n  {output:?}",
                    case.title, case.recorded
                ));
            }
        }
    }
    for title in &others {
        println!("needs a director: {title}");
    }
    println!(
        "{compared} cases compared without a director, {} need one",
        others.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(compared, DECIDED);
}

/// Exit status 2 is a mistake on the command line, and so are popt's messages; the lines of a
/// restore may have been carried out before.
fn is_decided_by_grammar(case: &Case) -> bool {
    let refused_by_popt = ["Try `", ": unknown option\n", ": missing argument\n"]
        .iter()
        .any(|text| case.recorded.stderr.contains(text));
    let told = matches!(
        case.line.first().map(String::as_str),
        Some("-h" | "--help" | "-v" | "--version")
    );
    case.recorded.status == 2 || told || refused_by_popt && case.stdin.is_empty()
}
