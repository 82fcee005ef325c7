//! `wharf`: the command line of the wharf daemon. Called `ctr` it answers as `ctr`.
//!
//! A command is parsed by [`cli`], done in `commands/NOUN.rs` through calls of `wharf-client`, and told in the words and
//! columns of `ctr` ([`output`]). What fails ends in [`failure`], with the exit code.
//!
//! **Architecture invariant:** nothing here knows how the daemon works; all of it is said in the vocabulary's calls.

mod argv;
mod cli;
mod commands;
mod context;
mod doctor;
mod event_view;
mod failure;
mod labels;
mod metrics;
mod output;
mod progress;
mod session;
mod signals;
mod terminal;
mod usage;

use clap::{CommandFactory, FromArgMatches};
use failure::{Failure, Outcome, warn};
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = parse().and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { text, code }) => {
            if let Some(text) = text {
                warn(text);
            }
            ExitCode::from(code)
        }
    }
}

fn parse() -> Outcome<cli::Cli> {
    let name = failure::program();
    let command = cli::Cli::command().name(name).bin_name(name);
    let words = argv::rewrite(&command, std::env::args_os().skip(1).collect());
    let matches = command.try_get_matches_from(std::iter::once(name.into()).chain(words));
    let parsed = matches.and_then(|matches| cli::Cli::from_arg_matches(&matches));
    parsed.map_err(usage::explain)
}

fn run(cli: cli::Cli) -> Outcome {
    // One thread: a client waits for a daemon, and every thread would cost at each start.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the async runtime: {error}")))?;
    let context = context::Context::new(&cli.globals)?;
    let timeout = cli.globals.timeout;
    let outcome = runtime.block_on(async {
        let command = commands::run(cli.command, &context);
        if timeout.is_zero() {
            return command.await;
        }
        match tokio::time::timeout(timeout, command).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(format!(
                "no end after {}: context deadline exceeded",
                output::time::duration(timeout)
            ))),
        }
    });
    // A read of standard input that nobody waits for any more must not hold up the exit.
    runtime.shutdown_background();
    outcome
}
