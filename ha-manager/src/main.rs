//! `directord`: the director's daemon and the commands that talk to it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ha_manager::script_runner::intercept().unwrap_or_else(ha_manager::cli::run)
}
