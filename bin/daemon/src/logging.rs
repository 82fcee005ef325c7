//! The log, on standard error.

use crate::{
    config::{Log, LogFormat, LogLevel},
    traces::{self, Traces},
};
use clap::ValueEnum;
use std::{io::IsTerminal, sync::Arc};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    reload,
};
use wharf_actors::config::LogControl;
use wharf_messages::{Answer, Refusal};

/// The variable that says in detail what is logged, over the configured level.
const VARIABLE: &str = "RUST_LOG";

/// Starts logging, and tracing if the environment asks for it; answers how to change what is logged, and the traces, which
/// are to be finished at the end.
///
/// # Errors
/// `InvalidArgument` if `RUST_LOG` cannot be read.
pub fn start(log: &Log) -> Answer<(LogControl, Option<Traces>)> {
    let filter = filter(log.level, std::env::var(VARIABLE).ok().as_deref())?;
    let (traces, problem) = match Traces::start() {
        Ok(traces) => (traces, None),
        Err(problem) => (None, Some(problem)),
    };
    let failed = |error| Refusal::internal(format!("start the log: {error}"));
    let (filter, handle) = reload::Layer::new(filter);
    macro_rules! start {
        ($form:expr) => {{
            // What goes wrong with it would be told on standard error too, by a panic of whoever logs, when that is a
            // file on a full disk.
            let form = $form.with_writer(std::io::stderr).log_internal_errors(false);
            match &traces {
                Some(traces) => {
                    // The level is the log's alone.
                    let form = form.with_filter(filter.or(filter_fn(traces::is_ours)));
                    let subscriber = tracing_subscriber::registry().with(form).with(traces.layer());
                    tracing::subscriber::set_global_default(subscriber)
                }
                // Not a layer that is none: with it, a disabled span would be asked about each time.
                None => tracing::subscriber::set_global_default(
                    tracing_subscriber::registry().with(form.with_filter(filter)),
                ),
            }
            .map_err(failed)?;
        }};
    }
    match log.format {
        LogFormat::Text => start!(fmt::layer().with_ansi(std::io::stderr().is_terminal())),
        LogFormat::Json => start!(fmt::layer().json()),
    }
    if let Some(traces) = &traces {
        traces.announce();
    }
    if let Some(problem) = problem {
        tracing::warn!(problem, "calls are not traced");
    }
    Ok((LogControl(Arc::new(move |level| change(&handle, level))), traces))
}

/// Changes what is logged, unless no level is given.
fn change<S>(handle: &reload::Handle<EnvFilter, S>, level: &str) -> Answer<String> {
    let gone = |error: reload::Error| Refusal::internal(format!("the log: {error}"));
    if !level.is_empty() {
        let filter = match LogLevel::from_str(level, true) {
            Ok(level) => filter(level, None)?,
            Err(_) => {
                EnvFilter::try_new(level).map_err(|error| Refusal::invalid(format!("log level {level:?}: {error}")))?
            }
        };
        handle.reload(filter).map_err(gone)?;
        tracing::info!(level, "what is logged was changed");
    }
    handle.with_current(ToString::to_string).map_err(gone)
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
