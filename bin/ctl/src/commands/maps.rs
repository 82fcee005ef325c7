//! A user namespace for a container, and a root file system that belongs to its root.

use crate::failure::{Outcome, warn};
use clap::Args;
use wharf_client::{Client, owners, spec::IdMap};
use wharf_messages::{
    Answer, Labels, Mount, Refusal, RefusalKind, SnapshotKey,
    snapshot::{CommitSnapshot, GID_MAPPING_LABEL, PrepareSnapshot, RemoveSnapshot, UID_MAPPING_LABEL},
};

/// The flags of a user namespace.
#[derive(Debug, Args)]
pub struct MapFlags {
    /// Run in a user namespace with these user ids; together with --gidmap
    #[arg(long, value_name = "CONTAINER-UID:HOST-UID:LENGTH", help_heading = "Isolation options")]
    uidmap: Option<String>,
    /// And with these group ids
    #[arg(long, value_name = "CONTAINER-GID:HOST-GID:LENGTH", help_heading = "Isolation options")]
    gidmap: Option<String>,
    /// Have the snapshotter give the files to whom the maps say, by labels; not every one can
    #[arg(long, help_heading = "Isolation options")]
    pub remap_labels: bool,
}

/// Which ids of a user namespace are whose outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps {
    /// Users.
    pub uids: IdMap,
    /// Groups.
    pub gids: IdMap,
}

impl MapFlags {
    /// What they say; nothing unless both are given, as in `ctr`.
    ///
    /// # Errors
    /// For a map of another form.
    pub fn maps(&self) -> Outcome<Option<Maps>> {
        match self.given() {
            (Some(uids), Some(gids)) => Ok(Some(Maps { uids: IdMap::parse(uids)?, gids: IdMap::parse(gids)? })),
            (None, None) => Ok(None),
            _ => {
                warn("without both --uidmap and --gidmap there is no user namespace");
                Ok(None)
            }
        }
    }

    /// Tells that they are without effect, if they are given.
    pub fn pass_over(&self) {
        if self.given() != (None, None) {
            warn("user namespaces are for containers that are made from an image: --uidmap and --gidmap do nothing");
        }
    }

    /// The user and the group that own the standard streams: the namespace's root. 0 is the daemon's to choose.
    #[must_use]
    pub fn io_owner(&self) -> (u32, u32) {
        let host_id = |text: Option<&str>| text.and_then(|text| IdMap::parse(text).ok()).map_or(0, |map| map.host_id);
        let (uids, gids) = self.given();
        (host_id(uids), host_id(gids))
    }

    fn given(&self) -> (Option<&str>, Option<&str>) {
        let [uids, gids] = [&self.uidmap, &self.gidmap].map(|text| text.as_deref().filter(|text| !text.is_empty()));
        (uids, gids)
    }
}

impl Maps {
    /// The labels by which a snapshotter is told. Both have the length of the user ids' map.
    ///
    /// # Spec
    /// containerd `WithRemapperLabels`, as `ctr` calls it.
    #[must_use]
    pub fn labels(&self) -> Labels {
        let label = |key: &str, map: &IdMap| (key.to_owned(), format!("0:{}:{}", map.host_id, self.uids.size));
        Labels::from([label(UID_MAPPING_LABEL, &self.uids), label(GID_MAPPING_LABEL, &self.gids)])
    }

    /// Makes a snapshot on the image's layers as the namespace's root would own them, and these if they are not there.
    /// The client has to have a lease, for nothing refers to them until then.
    ///
    /// # Errors
    /// The daemon's refusal, or what mounting and changing owners refuse; then nothing is left.
    ///
    /// # Spec
    /// containerd `WithRemappedSnapshot`: the names of the snapshots.
    pub async fn prepare(&self, client: &Client, prepare: PrepareSnapshot) -> Answer<Vec<Mount>> {
        let layers =
            prepare.parent.clone().ok_or_else(|| Refusal::internal("a snapshot without the layers it stands on"))?;
        let name = SnapshotKey::new(format!("{layers}-{}-{}", self.uids.host_id, self.gids.host_id))?;
        let on_mapped = PrepareSnapshot { parent: Some(name.clone()), ..prepare.clone() };
        match client.call(on_mapped.clone()).await {
            Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
            other => return other,
        }
        self.map(client, &prepare, &name).await?;
        client.call(on_mapped).await
    }

    /// Makes the layers that the namespace's root owns.
    async fn map(&self, client: &Client, container: &PrepareSnapshot, name: &SnapshotKey) -> Answer<()> {
        let PrepareSnapshot { snapshotter, key: own, parent, .. } = container.clone();
        let prepare = async |key: SnapshotKey| {
            let (snapshotter, parent, labels) = (snapshotter.clone(), parent.clone(), Labels::new());
            let mounts = client.call(PrepareSnapshot { snapshotter, key: key.clone(), parent, labels }).await?;
            Answer::Ok((key, mounts))
        };
        let (key, mounts) = match prepare(SnapshotKey::new(format!("{name}-remap"))?).await {
            // Another client is making the same, or has died over it: who is done first is as good.
            Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => {
                prepare(SnapshotKey::new(format!("{name}-remap-{own}"))?).await?
            }
            other => other?,
        };
        let commit = CommitSnapshot {
            snapshotter: snapshotter.clone(),
            name: name.clone(),
            key: key.clone(),
            labels: Labels::new(),
            parent: None,
        };
        let made = match owners::shift(&mounts, self.uids.host_id, self.gids.host_id) {
            Ok(()) => client.call(commit).await.map(drop),
            Err(refusal) => Err(refusal),
        };
        if made.is_err()
            && let Err(left) = client.call(RemoveSnapshot { snapshotter, key: key.clone() }).await
        {
            warn(format!("snapshot {key} is left over: {left}"));
        }
        match made {
            Err(refusal) if refusal.is(RefusalKind::AlreadyExists) => Ok(()),
            made => made,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: MapFlags,
    }

    fn flags(line: &str) -> MapFlags {
        Line::try_parse_from(std::iter::once("run").chain(line.split_whitespace())).unwrap().flags
    }

    #[test]
    fn maps_are_a_pair() {
        let both = flags("--uidmap 0:1000:10 --gidmap 0:2000:20");
        let maps = both.maps().unwrap().unwrap();
        assert_eq!((maps.uids.host_id, maps.gids.host_id), (1000, 2000));
        assert_eq!(both.io_owner(), (1000, 2000));
        let labels = maps.labels();
        assert_eq!(labels["containerd.io/snapshot/uidmapping"], "0:1000:10");
        assert_eq!(labels["containerd.io/snapshot/gidmapping"], "0:2000:10");
        for line in ["", "--uidmap 0:1:2", "--gidmap 0:1:2", "--uidmap 0:1:2 --gidmap=", "--remap-labels"] {
            assert_eq!(flags(line).maps().unwrap(), None, "{line}");
        }
        assert_eq!(flags("--uidmap 0:7:2").io_owner(), (7, 0));
        assert!(flags("--uidmap nonsense --gidmap 0:1:2").maps().is_err());
    }
}
