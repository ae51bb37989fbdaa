//! The `ipvsadm` program; see the library of the same name.
#![forbid(unsafe_code)]

use std::io::{self, BufWriter};
use std::process::ExitCode;

use ipvsadm::World;
use ipvsadm::names::SystemNames;
use ipvsadm::wrapper::{Program, run_as};

fn main() -> ExitCode {
    let mut line = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = line.next().unwrap_or_else(|| "ipvsadm".into());
    let line: Vec<String> = line.collect();
    let status = run_as(
        Program::from_name(&program),
        &line,
        &mut World {
            program: &program,
            socket: &ipvs_control::socket_path(),
            names: &SystemNames::default(),
            input: &mut io::stdin().lock(),
            out: &mut BufWriter::new(io::stdout().lock()),
            err: &mut io::stderr().lock(),
        },
    );
    ExitCode::from(status)
}
