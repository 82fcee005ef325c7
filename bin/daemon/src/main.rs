//! `wharfd`: the daemon. It reads its configuration, runs the actor system, and serves the socket until told to stop.

mod config;
mod daemon;
mod frontends;
mod logging;
mod notify;
mod oci_hook;
mod offline;
mod process;
mod publish;
mod signals;
mod traces;

use clap::{Parser, Subcommand};
use config::{Config, LogFormat, LogLevel};
use std::{path::PathBuf, process::ExitCode};
use wharf_messages::{Answer, Refusal};

/// What `--version` says; the build may name the source's revision.
const VERSION: &str = match option_env!("WHARF_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The wharf daemon: pulls images, runs containers and remembers both.
#[derive(Debug, Parser)]
// A flag given again holds: scripts append to a line that is there.
#[command(name = "wharfd", version = VERSION, args_override_self = true)]
struct Arguments {
    #[command(flatten)]
    overrides: Overrides,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is told by flags or environment goes over what the configuration file says.
#[derive(Debug, Default, clap::Args)]
struct Overrides {
    /// Configuration file [default: /etc/wharf/config.toml, if it is there]
    #[arg(short, long, global = true, env = "WHARF_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the durable state [default: /var/lib/wharf]
    #[arg(long, global = true, env = "WHARF_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Folder of the state that dies with a boot [default: /run/wharf]
    #[arg(long, global = true, env = "WHARF_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket to listen at [default: /run/wharf/wharf.sock]
    #[arg(short, long, global = true, env = "WHARF_ADDRESS", value_name = "SOCK")]
    address: Option<PathBuf>,
    /// How much to log; RUST_LOG, where set, says it in more detail [default: info]
    #[arg(short, long, global = true, env = "WHARF_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How to log [default: text]
    #[arg(long, global = true, env = "WHARF_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publishes an event, whose payload (a protobuf Any) is on standard input: for shims that do it by running a program
    Publish {
        /// What it is about, as in /tasks/oom
        #[arg(long, value_name = "TOPIC")]
        topic: String,
        /// Where
        #[arg(long, value_name = "NAMESPACE")]
        namespace: String,
    },
    /// Becomes a program, with {{pid}}, {{rootfs}} and their like in its arguments filled in: for hooks of OCI runtimes
    #[command(name = "oci-hook", hide = true)]
    OciHook {
        /// The program, by its absolute path, and its arguments
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        words: Vec<String>,
    },
    /// Looks whether the root is whole, while no daemon has it
    Check(Depth),
    /// Mends what can be mended of the root, and says what was done
    Repair(Depth),
    /// Puts a copy that `wharf backup` has made in the place of the root's database
    Restore {
        /// Even if the root has a database, which is kept beside it as wharf.redb.old. What containers were made since
        /// the copy are forgotten, and their files are deleted at the next start
        #[arg(long)]
        force: bool,
        /// The copy
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// How closely to look.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Depth {
    /// Read every blob, every committed snapshot and every page of the database
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum ConfigCommand {
    /// The built-in one
    Default,
    /// The one that is in force: built-in, file, environment and flags
    Dump,
}

fn main() -> ExitCode {
    process::keep_memory_small();
    process::set_umask();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            // The detail names object and cause; the kind is for programs.
            eprintln!("wharfd: {}", refusal.detail);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Answer<()> {
    match arguments.command {
        Some(Command::Config(ConfigCommand::Default)) => print(&Config::default().to_toml()?),
        Some(Command::Config(ConfigCommand::Dump)) => print(&configuration(arguments.overrides)?.to_toml()?),
        Some(Command::Publish { topic, namespace }) => {
            publish::run(&configuration(arguments.overrides)?.address, topic, &namespace)
        }
        Some(Command::OciHook { words }) => oci_hook::run(&words),
        Some(Command::Check(Depth { deep })) => offline::check(&configuration(arguments.overrides)?, deep),
        Some(Command::Repair(Depth { deep })) => offline::repair(&configuration(arguments.overrides)?, deep),
        Some(Command::Restore { force, file }) => offline::restore(&configuration(arguments.overrides)?, &file, force),
        None => daemon::run(&configuration(arguments.overrides)?),
    }
}

fn configuration(mut overrides: Overrides) -> Answer<Config> {
    let mut config = Config::load(overrides.config.as_deref())?;
    macro_rules! over {
        ($($flag:ident => $($key:ident).+),*) => {$(
            if let Some(value) = overrides.$flag {
                config.$($key).+ = value;
            }
        )*};
    }
    // Flags and environment are of the folder where they were typed; the file is of none.
    for path in [&mut overrides.root, &mut overrides.state, &mut overrides.address].into_iter().flatten() {
        *path = std::path::absolute(&*path).map_err(|error| Refusal::io(path.display(), &error))?;
    }
    over!(root => root, state => state, address => address, log_level => log.level, log_format => log.format);
    config.check()?;
    Ok(config)
}

fn print(text: &str) -> Answer<()> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| Refusal::io("standard output", &error)),
    }
}
