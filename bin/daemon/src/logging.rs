//! The log, on standard error.

use crate::config::{Log, LogFormat, LogLevel};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt};
use wharf_messages::{Answer, Refusal};

/// The variable that says in detail what is logged, over the configured level.
const VARIABLE: &str = "RUST_LOG";

/// Starts logging.
///
/// # Errors
/// `InvalidArgument` if `RUST_LOG` cannot be read.
pub fn start(log: &Log) -> Answer<()> {
    let builder = fmt::Subscriber::builder()
        .with_env_filter(filter(log.level, std::env::var(VARIABLE).ok().as_deref())?)
        .with_writer(std::io::stderr)
        // It would be told on standard error too, by a panic of whoever logs, when that is a file on a full disk.
        .log_internal_errors(false);
    let started = match log.format {
        LogFormat::Text => {
            tracing::subscriber::set_global_default(builder.with_ansi(std::io::stderr().is_terminal()).finish())
        }
        LogFormat::Json => tracing::subscriber::set_global_default(builder.json().finish()),
    };
    started.map_err(|error| Refusal::internal(format!("start the log: {error}")))
}

fn filter(level: LogLevel, detail: Option<&str>) -> Answer<EnvFilter> {
    let level = match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    // Every frame of every connection is for those who ask for it by the variable.
    let level = format!("{level},h2=warn,hyper=warn,hyper_util=warn");
    let text = detail.filter(|text| !text.is_empty()).unwrap_or(&level);
    EnvFilter::try_new(text).map_err(|error| Refusal::invalid(format!("{VARIABLE} {text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_goes_over_the_level() {
        for nothing in [None, Some("")] {
            let text = filter(LogLevel::Debug, nothing).unwrap().to_string();
            assert!(text.split(',').any(|directive| directive == "debug"), "{text}");
        }
        assert_eq!(filter(LogLevel::Warn, Some("wharfd=trace")).unwrap().to_string(), "wharfd=trace");
        assert!(filter(LogLevel::Warn, Some("wharfd=loud")).unwrap_err().detail.contains("wharfd=loud"));
    }
}
