//! Logging: text or JSON lines on standard error.
//!
//! Levels: ERROR cannot go on, WARN worth an alert, INFO what an operator would tell a colleague,
//! DEBUG single decisions, TRACE packets. Addresses of clients appear at DEBUG and below only.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging cannot be set up: {0}")]
pub struct TelemetryError(String);

/// Installs the process-wide log. Other crates' messages appear from WARN on.
///
/// # Errors
/// A log was installed before.
pub fn init(format: LogFormat, level: LogLevel) -> Result<(), TelemetryError> {
    let level = level.name();
    let filter = format!("warn,ha_manager={level},dataplane={level}");
    let filter = EnvFilter::try_new(filter).map_err(|error| TelemetryError(error.to_string()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let installed = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    installed.map_err(|error| TelemetryError(error.to_string()))
}
