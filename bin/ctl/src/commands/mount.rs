//! `images mount` and `images unmount`: an image's root file system in a folder.

use crate::{
    commands::{
        leases::expiry,
        pull::{IdleFlags, snapshotter},
    },
    context::{Context, parse},
    failure::{Outcome, warn},
    output,
};
use clap::Args;
use std::time::Duration;
use wharf_client::{Client, mount};
use wharf_messages::{
    Answer, ImageName, Labels, LeaseId, Platform, Refusal, RefusalKind, SnapshotKey, SnapshotterName,
    image::{ResolveImage, ResolvedImage, UnpackImage},
    lease::{CreateLease, DeleteLease, EXPIRE_LABEL},
    snapshot::{GetSnapshotMounts, PrepareSnapshot, RemoveSnapshot, ViewSnapshot},
};

/// How long a mounted image is protected: the snapshot would be collected after that, mounted or not.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// What to mount where.
#[derive(Debug, Args)]
pub struct Mount {
    /// Where its layers are; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    #[command(flatten)]
    _idle: IdleFlags,
    /// Writable: changes go to a snapshot of the target's name
    #[arg(long)]
    rw: bool,
    /// For which platform instead of this machine's
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// A folder
    #[arg(value_name = "TARGET")]
    target: String,
}

/// What to unmount.
#[derive(Debug, Args)]
pub struct Unmount {
    /// Where its layers are; empty means the namespace's default
    #[arg(long, env = "CONTAINERD_SNAPSHOTTER", hide_env_values = true, value_name = "NAME")]
    snapshotter: Option<String>,
    #[command(flatten)]
    _idle: IdleFlags,
    /// Remove the snapshot too
    #[arg(long)]
    rm: bool,
    /// The folder
    #[arg(value_name = "TARGET")]
    target: String,
}

impl Mount {
    /// Mounts the image and prints its chain id and the folder.
    ///
    /// # Errors
    /// The daemon's refusal or the mount's error; then no snapshot is left.
    pub async fn run(self, context: &Context) -> Outcome {
        let name: ImageName = parse(&self.image)?;
        let key: SnapshotKey = parse(&self.target)?;
        let snapshotter = snapshotter(self.snapshotter.as_ref())?;
        let client = context.client().await?;
        let image = unpacked(&client, &name, self.platform, snapshotter.clone()).await?;
        output::line(&image.chain_id)?;

        // The lease has the target's name, so that `unmount` finds it.
        let lease = LeaseId::new(&self.target)?;
        let made_lease = lease_for(&client, &lease).await?;
        let leased = client.lease(lease.clone());
        let mounted = async {
            let mounts = snapshot(&leased, &key, &image, snapshotter.clone(), self.rw).await?;
            if let Err(refusal) = mount::mount(&mounts, self.target.as_ref()) {
                let remove = RemoveSnapshot { snapshotter, key: key.clone() };
                if let Err(left) = client.call(remove).await
                    && !left.is(RefusalKind::NotFound)
                {
                    warn(format!("snapshot {key} is left over: {left}"));
                }
                return Err(refusal);
            }
            Ok(())
        };
        if let Err(refusal) = mounted.await {
            if made_lease && let Err(left) = client.call(DeleteLease { id: lease, sync: false }).await {
                warn(format!("lease {:?} is left over: {left}", self.target));
            }
            return Err(refusal.into());
        }
        Ok(output::line(&self.target)?)
    }
}

/// Makes the lease; tells whether it was not there before.
///
/// # Errors
/// The daemon's refusal.
pub async fn lease_for(client: &Client, id: &LeaseId) -> Answer<bool> {
    let labels = Labels::from([(EXPIRE_LABEL.to_owned(), expiry(LEASE))]);
    match client.call(CreateLease { id: Some(id.clone()), labels }).await {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// Makes the snapshot, or takes the one that is there from an earlier mount, and answers how to mount it.
async fn snapshot(
    client: &Client,
    key: &SnapshotKey,
    image: &ResolvedImage,
    snapshotter: Option<SnapshotterName>,
    is_writable: bool,
) -> Answer<Vec<wharf_messages::Mount>> {
    let parent = Some(SnapshotKey::new(image.chain_id.as_str())?);
    let (key, labels) = (key.clone(), Labels::new());
    let made = if is_writable {
        let (snapshotter, key) = (snapshotter.clone(), key.clone());
        client.call(PrepareSnapshot { snapshotter, key, parent, labels }).await
    } else {
        let (snapshotter, key) = (snapshotter.clone(), key.clone());
        client.call(ViewSnapshot { snapshotter, key, parent, labels }).await
    };
    match made {
        Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => {
            client.call(GetSnapshotMounts { snapshotter, key }).await
        }
        other => other,
    }
}

/// The image for a platform, with its layers unpacked: unpacks them if they are not.
///
/// # Errors
/// The daemon's refusal.
pub async fn unpacked(
    client: &Client,
    name: &ImageName,
    platform: Option<Platform>,
    snapshotter: Option<SnapshotterName>,
) -> Answer<ResolvedImage> {
    let resolve = ResolveImage { name: name.clone(), platform: platform.clone(), snapshotter: snapshotter.clone() };
    let image = client.call(resolve).await?;
    if image.unpacked {
        return Ok(image);
    }
    let unpack = UnpackImage { name: name.clone(), platform, snapshotter };
    client.items(unpack).await?.reply().await
}

impl Unmount {
    /// Unmounts the folder and prints it.
    ///
    /// # Errors
    /// The unmount's error, or the daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let key: SnapshotKey = parse(&self.target)?;
        let snapshotter = snapshotter(self.snapshotter.as_ref())?;
        mount::unmount(self.target.as_ref(), false)?;
        if self.rm {
            let client = context.client().await?;
            let gone = |answer: Answer<()>, what: &str| match answer {
                Err(refusal) if !refusal.is(RefusalKind::NotFound) => {
                    Err(Refusal { detail: format!("error {what}: {}", refusal.detail), ..refusal })
                }
                _ => Ok(()),
            };
            let lease = DeleteLease { id: LeaseId::new(&self.target)?, sync: false };
            gone(client.call(lease).await, "deleting lease")?;
            gone(client.call(RemoveSnapshot { snapshotter, key }).await, "removing snapshot")?;
        }
        Ok(output::line(&self.target)?)
    }
}
