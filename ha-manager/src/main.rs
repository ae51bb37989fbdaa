//! `directord`: the director's daemon and the commands that talk to it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ha_manager::cli::run()
}
