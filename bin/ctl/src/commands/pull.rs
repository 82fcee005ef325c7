//! `images pull` and `content fetch`: an image from its registry.

use crate::{
    context::Context,
    failure::{Failure, Outcome},
    labels,
    output::time::duration,
    progress::{REDRAW, Screen, Transfer, unpacking_line},
    terminal,
};
use clap::Args;
use std::{fmt::Write as _, fs};
use tokio::time::{MissedTickBehavior, interval};
use wharf_client::{Client, Items};
use wharf_messages::{
    Answer, Call, Platform, Refusal, SnapshotterName,
    image::{Image, PlatformChoice, Progress, PullImage, RegistryOptions, ResolveImage},
};

/// The longest certificate or key file.
const PEM_MAX_BYTES: u64 = 1 << 20;

/// What these flags stand under. Each says so: a heading of all would go on to what comes after them.
const HEADING: &str = "Registry options";

/// How to talk to the registry.
#[derive(Debug, Args)]
pub struct RegistryFlags {
    /// Accept any certificate
    #[arg(long, short = 'k', help_heading = HEADING)]
    skip_verify: bool,
    /// Plain HTTP instead of TLS
    #[arg(long, help_heading = HEADING)]
    plain_http: bool,
    /// Name and password; asks for the password if it is left out
    #[arg(long, short, value_name = "USER[:PASSWORD]", help_heading = HEADING)]
    user: Option<String>,
    /// A refresh token for the registry's authorization server
    #[arg(long, value_name = "TOKEN", help_heading = HEADING)]
    refresh: Option<String>,
    /// A folder of hosts.toml files instead of the daemon's
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    hosts_dir: Option<String>,
    /// Trusted roots, PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    tlscacert: Option<String>,
    /// Client certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tlskey", help_heading = HEADING)]
    tlscert: Option<String>,
    /// Client key, PEM
    #[arg(long, value_name = "FILE", requires = "tlscert", help_heading = HEADING)]
    tlskey: Option<String>,
    /// Have the daemon log requests and responses
    #[arg(long, help_heading = HEADING)]
    http_dump: bool,
    /// Have the daemon log connections
    #[arg(long, help_heading = HEADING)]
    http_trace: bool,
}

/// Flags that `ctr` has where no registry is talked to, and takes no notice of: known, so that scripts which have them
/// work.
#[derive(Debug, Args)]
pub struct IdleFlags {
    #[arg(long, short = 'k', hide = true)]
    skip_verify: bool,
    #[arg(long, hide = true)]
    plain_http: bool,
    #[arg(long, short, hide = true)]
    user: Option<String>,
    #[arg(long, hide = true)]
    refresh: Option<String>,
    #[arg(long, hide = true)]
    hosts_dir: Option<String>,
    #[arg(long, hide = true)]
    tlscacert: Option<String>,
    #[arg(long, hide = true)]
    tlscert: Option<String>,
    #[arg(long, hide = true)]
    tlskey: Option<String>,
    #[arg(long, hide = true)]
    http_dump: bool,
    #[arg(long, hide = true)]
    http_trace: bool,
    #[arg(long, hide = true)]
    label: Vec<String>,
}

impl RegistryFlags {
    /// The options for the daemon, with the files' contents: it may not see our file system.
    ///
    /// # Errors
    /// For a file that cannot be read or a password that cannot be asked for.
    pub fn options(&self) -> Outcome<RegistryOptions> {
        let client = match (&self.tlscert, &self.tlskey) {
            (Some(certificate), Some(key)) => Some((read_pem(certificate)?, read_pem(key)?)),
            _ => None,
        };
        Ok(RegistryOptions {
            plain_http: self.plain_http,
            skip_verify: self.skip_verify,
            user: self.credentials()?,
            hosts_dir: self.hosts_dir.as_ref().map(|dir| absolute(dir)).transpose()?,
            tls_ca_pem: self.tlscacert.as_ref().map(|path| read_pem(path)).transpose()?,
            tls_client_pem: client,
            http_dump: self.http_dump || self.http_trace,
        })
    }

    fn credentials(&self) -> Outcome<Option<(String, String)>> {
        match (&self.user, &self.refresh) {
            (None, None) => Ok(None),
            (None, Some(token)) => Ok(Some((token.clone(), String::new()))),
            (Some(_), Some(_)) => Err(Failure::new("flags --user and --refresh cannot be specified together")),
            (Some(user), None) => match user.split_once(':') {
                Some((name, password)) => Ok(Some((name.to_owned(), password.to_owned()))),
                None => Ok(Some((user.clone(), terminal::ask_secret("Password: ")?))),
            },
        }
    }
}

fn absolute(path: &str) -> Outcome<String> {
    let absolute = std::path::absolute(path).map_err(|error| Refusal::io(path, &error))?;
    Ok(absolute.to_string_lossy().into_owned())
}

fn read_pem(path: &str) -> Outcome<Vec<u8>> {
    let describe = |error| Failure::from(Refusal::io(format!("read {path}"), &error));
    if fs::metadata(path).map_err(describe)?.len() > PEM_MAX_BYTES {
        return Err(Failure::new(format!("{path} is too large for a certificate or key")));
    }
    fs::read(path).map_err(describe)
}

/// What to fetch.
#[derive(Debug, Args)]
pub struct What {
    /// How to talk to the registry.
    #[command(flatten)]
    registry: RegistryFlags,
    /// Labels for the image; KEY alone means KEY=true
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// For which platform instead of this machine's, such as linux/arm64; may be repeated
    #[arg(long = "platform", value_name = "PLATFORM", value_parser = Platform::parse)]
    platforms: Vec<Platform>,
    /// For all platforms
    #[arg(long)]
    all_platforms: bool,
    /// Manifests and configs of all platforms, without their layers
    #[arg(long)]
    all_metadata: bool,
    /// Its name, with registry and tag: docker.io/library/busybox:latest
    #[arg(value_name = "REF")]
    reference: String,
}

/// Pull an image.
#[derive(Debug, Args)]
pub struct Pull {
    /// What.
    #[command(flatten)]
    what: What,
    /// Where to unpack it; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Print the chain id: the name of the unpacked whole
    #[arg(long)]
    print_chainid: bool,
    /// Blobs fetched at once; 0 means the daemon's default
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_concurrent_downloads: u32,
}

/// Fetch an image's content.
#[derive(Debug, Args)]
pub struct Fetch {
    /// What.
    #[command(flatten)]
    what: What,
    /// Only manifests and configs
    #[arg(long)]
    metadata_only: bool,
}

/// The platforms that `--platform` and `--all-platforms` choose.
#[must_use]
pub fn choice(platforms: Vec<Platform>, all: bool) -> PlatformChoice {
    match (all, platforms.is_empty()) {
        (true, _) => PlatformChoice::All,
        (false, true) => PlatformChoice::Host,
        (false, false) => PlatformChoice::These(platforms),
    }
}

/// A snapshotter by name, where the empty name stands for the default.
///
/// # Errors
/// For a name that no snapshotter can have.
pub fn snapshotter(name: Option<&String>) -> Answer<Option<SnapshotterName>> {
    name.filter(|name| !name.is_empty()).map(SnapshotterName::new).transpose()
}

impl What {
    fn call(self, unpack: bool) -> Outcome<PullImage> {
        let registry = self.registry.options()?;
        Ok(PullImage {
            reference: self.reference,
            platforms: choice(self.platforms, self.all_platforms),
            all_metadata: self.all_metadata,
            labels: labels::read(&self.labels),
            unpack,
            name_image: true,
            snapshotter: None,
            max_concurrent_downloads: 0,
            registry,
        })
    }
}

impl Fetch {
    /// Fetches the content.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let mut call = self.what.call(false)?;
        if self.metadata_only {
            // No platform's layers, everybody's metadata.
            call.platforms = PlatformChoice::These(Vec::new());
            call.all_metadata = true;
        }
        let mut transfer = Transfer::of(&call.reference);
        let items = context.client().await?.items(call).await?;
        let mut screen = Screen::stdout();
        follow(items, &mut transfer, &mut screen, context.debug).await?;
        transfer.finish();
        Ok(screen.show(&transfer.draw(screen.style()))?)
    }
}

impl Pull {
    /// Pulls the image.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let requested = choice(self.what.platforms.clone(), self.what.all_platforms);
        let mut call = self.what.call(true)?;
        call.snapshotter = snapshotter(self.snapshotter.as_ref())?;
        call.max_concurrent_downloads = self.max_concurrent_downloads;
        let unpacked_by = call.snapshotter.clone();
        let client = context.client().await?;
        let mut transfer = Transfer::of(&call.reference);
        let mut screen = Screen::stdout();
        let items = client.items(call).await?;
        let image: Image = follow(items, &mut transfer, &mut screen, context.debug).await?;
        let since_fetched = transfer.since_fetched();
        transfer.finish();
        let mut text = if context.debug { String::new() } else { transfer.draw(screen.style()) };
        let platforms = match requested {
            PlatformChoice::These(platforms) => platforms,
            PlatformChoice::All if !transfer.unpacked().is_empty() => transfer.unpacked(),
            PlatformChoice::All | PlatformChoice::Host => vec![Platform::host()],
        };
        for platform in platforms {
            text.push_str(&unpacking_line(&platform, &image.target.digest));
            if self.print_chainid {
                let chain_id = chain_id(&client, &image, platform, unpacked_by.clone()).await?;
                // Writing to a String does not fail.
                let _ = writeln!(text, "image chain ID: {chain_id}");
            }
        }
        // The tab is ctr's.
        let _ = writeln!(text, "done: {}\t", duration(since_fetched));
        Ok(screen.show(&text)?)
    }
}

async fn chain_id(
    client: &Client,
    image: &Image,
    platform: Platform,
    snapshotter: Option<SnapshotterName>,
) -> Answer<String> {
    let resolve = ResolveImage { name: image.name.clone(), platform: Some(platform), snapshotter };
    Ok(client.call(resolve).await?.chain_id.to_string())
}

/// Takes a call's progress in, and shows it where it can be redrawn, until the call is over.
///
/// # Errors
/// The daemon's refusal.
pub async fn follow<C>(
    mut items: Items<C>,
    transfer: &mut Transfer,
    screen: &mut Screen,
    quiet: bool,
) -> Outcome<C::Reply>
where
    C: Call<Item = Progress>,
{
    let live = screen.is_live() && !quiet;
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick comes at once; nothing is known yet.
    redraw.tick().await;
    loop {
        tokio::select! {
            item = items.next() => match item? {
                Some(progress) => transfer.note(progress),
                None => return Ok(items.reply().await?),
            },
            _ = redraw.tick(), if live => screen.show(&transfer.draw_all(screen.style()))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::{Command, CommandFactory};

    fn under_heading(command: &Command) -> Vec<String> {
        let named = |arg: &clap::Arg| (arg.get_help_heading() == Some(HEADING)).then(|| arg.get_id().to_string());
        command.get_arguments().filter_map(named).collect()
    }

    #[test]
    fn only_what_is_about_the_registry_stands_under_its_heading() {
        let flags = under_heading(&RegistryFlags::augment_args(Command::new("x")));
        assert_eq!(flags.len(), 10, "{flags:?}");
        let (mut to_see, mut seen) = (vec![Cli::command()], 0);
        while let Some(command) = to_see.pop() {
            let found = under_heading(&command);
            if !found.is_empty() {
                assert_eq!(found, flags, "{}", command.get_name());
                seen += 1;
            }
            to_see.extend(command.get_subcommands().cloned());
        }
        assert!(seen >= 4, "pull, fetch, push and the objects: {seen}");
    }
}
