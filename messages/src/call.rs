//! Every call there is, in one table: its wire name, what it asks, what it answers and what it streams.
//!
//! [`for_each_call!`](crate::for_each_call) hands the table to a macro of the caller's, so that the native front end, the
//! client and the tests are all made from the same rows.

use crate::{
    Descriptor, Mount, Stored, container, content, cursor, event, gc, health, image, lease, namespace, restart,
    snapshot, supervision, system, task,
};
use serde::{Serialize, de::DeserializeOwned};

/// Whether a call changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// It may: not repeated on its own after a failure.
    Command,
    /// It does not: may be repeated.
    Query,
}

/// Which way bytes or items flow beside request and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallShape {
    /// None: one request, one reply.
    Unary,
    /// Items from the daemon, then the reply.
    Items,
    /// Bytes from the client, then the reply.
    Upload,
    /// Bytes from the client and items from the daemon, then the reply.
    UploadItems,
}

/// A call: a request that knows its reply.
pub trait Call: Serialize + DeserializeOwned + Send + 'static {
    /// What is answered.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// What is streamed before the answer; `()` if nothing is.
    type Item: Serialize + DeserializeOwned + Send + 'static;
    /// Its name on the wire: `noun.verb`.
    const NAME: &'static str;
    /// Whether it changes anything.
    const KIND: CallKind;
    /// What flows beside it.
    const SHAPE: CallShape;
}

/// A row of the table of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRow {
    /// Its name on the wire.
    pub name: &'static str,
    /// Whether it changes anything.
    pub kind: CallKind,
    /// What flows beside it.
    pub shape: CallShape,
    /// The request's type, for people.
    pub request: &'static str,
}

/// Calls `$with! { rows }` with the table of calls: `name kind shape request => reply, item;`.
#[macro_export]
macro_rules! for_each_call {
    ($with:ident) => {
        $with! {
            "namespaces.create"   Command Unary       namespace::CreateNamespace     => namespace::NamespaceRecord, ();
            "namespaces.update"   Command Unary       namespace::UpdateNamespace     => namespace::NamespaceRecord, ();
            "namespaces.delete"   Command Unary       namespace::DeleteNamespace     => (), ();
            "namespaces.get"      Query   Unary       namespace::GetNamespace        => namespace::NamespaceRecord, ();
            "namespaces.list"     Query   Unary       namespace::ListNamespaces      => Vec<namespace::NamespaceRecord>, ();

            "images.create"       Command Unary       image::CreateImage             => image::Image, ();
            "images.update"       Command Unary       image::UpdateImage             => image::Image, ();
            "images.delete"       Command Unary       image::DeleteImage             => (), ();
            "images.get"          Query   Unary       image::GetImage                => image::Image, ();
            "images.list"         Query   Unary       image::ListImages              => Vec<image::Image>, ();
            "images.summarize"    Query   Unary       image::SummarizeImages         => Vec<image::ImageSummary>, ();
            "images.resolve"      Query   Unary       image::ResolveImage            => image::ResolvedImage, ();
            "images.pull"         Command Items       image::PullImage               => image::Image, image::Progress;
            "images.push"         Command Items       image::PushImage               => Descriptor, image::Progress;
            "images.unpack"       Command Items       image::UnpackImage             => image::ResolvedImage, image::Progress;
            "images.import"       Command UploadItems image::ImportImages            => Vec<image::Image>, image::Progress;
            "images.export"       Query   Items       image::ExportImages            => (), Vec<u8>;
            "images.fetch-object" Query   Items       image::FetchObject             => Descriptor, Vec<u8>;
            "images.convert"      Command Unary       image::ConvertImage            => image::Image, ();
            "images.install"      Command Unary       image::InstallImage            => String, ();

            "content.get"         Query   Unary       content::GetContent            => content::ContentInfo, ();
            "content.update"      Command Unary       content::UpdateContent         => content::ContentInfo, ();
            "content.list"        Query   Unary       content::ListContent           => Vec<content::ContentInfo>, ();
            "content.delete"      Command Unary       content::DeleteContent         => (), ();
            "content.read"        Query   Items       content::ReadContent           => (), Vec<u8>;
            "content.write"       Command Upload      content::WriteContent          => content::Written, ();
            "content.ingest"      Query   Unary       content::GetIngest             => content::IngestStatus, ();
            "content.ingests"     Query   Unary       content::ListIngests           => Vec<content::IngestStatus>, ();
            "content.abort"       Command Unary       content::AbortIngest           => (), ();

            "snapshots.prepare"   Command Unary       snapshot::PrepareSnapshot      => Vec<Mount>, ();
            "snapshots.view"      Command Unary       snapshot::ViewSnapshot         => Vec<Mount>, ();
            "snapshots.mounts"    Query   Unary       snapshot::GetSnapshotMounts    => Vec<Mount>, ();
            "snapshots.commit"    Command Unary       snapshot::CommitSnapshot       => (), ();
            "snapshots.remove"    Command Unary       snapshot::RemoveSnapshot       => (), ();
            "snapshots.stat"      Query   Unary       snapshot::StatSnapshot         => snapshot::SnapshotInfo, ();
            "snapshots.update"    Command Unary       snapshot::UpdateSnapshot       => snapshot::SnapshotInfo, ();
            "snapshots.list"      Query   Unary       snapshot::ListSnapshots        => Vec<snapshot::SnapshotInfo>, ();
            "snapshots.usage"     Query   Unary       snapshot::GetSnapshotUsage     => snapshot::Usage, ();
            "snapshots.cleanup"   Command Unary       snapshot::CleanupSnapshots     => (), ();
            "diff.apply"          Command Unary       snapshot::ApplyDiff            => snapshot::AppliedDiff, ();
            "diff.make"           Command Unary       snapshot::MakeDiff             => Descriptor, ();

            "containers.create"   Command Unary       container::CreateContainer     => container::Container, ();
            "containers.update"   Command Unary       container::UpdateContainer     => container::Container, ();
            "containers.delete"   Command Unary       container::DeleteContainer     => (), ();
            "containers.get"      Query   Unary       container::GetContainer        => container::Container, ();
            "containers.list"     Query   Unary       container::ListContainers      => Vec<Stored<container::Container>>, ();

            "tasks.create"        Command Unary       task::CreateTask               => task::Process, ();
            "tasks.start"         Command Unary       task::StartTask                => task::Process, ();
            "tasks.delete"        Command Unary       task::DeleteTask               => task::DeletedProcess, ();
            "tasks.get"           Query   Unary       task::GetTask                  => task::Process, ();
            "tasks.list"          Query   Unary       task::ListTasks                => Vec<task::Process>, ();
            "tasks.kill"          Command Unary       task::KillTask                 => (), ();
            "tasks.exec"          Command Unary       task::ExecTask                 => (), ();
            "tasks.resize"        Command Unary       task::ResizePty                => (), ();
            "tasks.closeio"       Command Unary       task::CloseIo                  => (), ();
            "tasks.pause"         Command Unary       task::PauseTask                => (), ();
            "tasks.resume"        Command Unary       task::ResumeTask               => (), ();
            "tasks.pids"          Query   Unary       task::ListPids                 => Vec<task::PidInfo>, ();
            "tasks.checkpoint"    Command Unary       task::CheckpointTask           => Vec<Descriptor>, ();
            "tasks.update"        Command Unary       task::UpdateTask               => (), ();
            "tasks.metrics"       Query   Unary       task::GetMetrics               => Vec<task::TaskMetrics>, ();
            "tasks.wait"          Query   Unary       task::WaitTask                 => task::Exit, ();

            "restarts.get"        Query   Unary       restart::GetRestart            => Option<restart::RestartRecord>, ();
            "health.get"          Query   Unary       health::GetHealth              => Option<health::HealthRecord>, ();
            "health.list"         Query   Unary       health::ListHealth             => Vec<health::HealthRecord>, ();

            "leases.create"       Command Unary       lease::CreateLease             => lease::Lease, ();
            "leases.delete"       Command Unary       lease::DeleteLease             => (), ();
            "leases.list"         Query   Unary       lease::ListLeases              => Vec<lease::Lease>, ();
            "leases.add"          Command Unary       lease::AddLeaseResource        => (), ();
            "leases.remove"       Command Unary       lease::DeleteLeaseResource     => (), ();
            "leases.resources"    Query   Unary       lease::ListLeaseResources      => Vec<lease::LeaseResource>, ();

            "gc.collect"          Command Unary       gc::CollectGarbage            => gc::Collected, ();
            "gc.explain"          Query   Items       gc::ExplainGarbage             => (), gc::Verdict;

            "events.watch"        Query   Items       event::WatchEvents             => event::Seq, Vec<event::Delivery>;
            "events.publish"      Command Unary       event::PublishEvent            => event::Seq, ();
            "cursors.ack"         Command Unary       cursor::AckEvents              => (), ();
            "cursors.list"        Query   Unary       cursor::ListCursors            => Vec<cursor::CursorInfo>, ();
            "cursors.delete"      Command Unary       cursor::DeleteCursor           => (), ();

            "system.info"         Query   Unary       system::GetDaemonInfo          => system::DaemonInfo, ();
            "system.log-level"    Command Unary       system::SetLogLevel            => String, ();
            "system.plugins"      Query   Unary       system::ListPlugins            => Vec<system::PluginInfo>, ();
            "system.backup"       Query   Items       system::BackupMetadata         => (), Vec<u8>;
            "supervision.tree"    Query   Unary       supervision::GetSupervisionTree => Vec<supervision::ChildReport>, ();
            "supervision.restart" Command Unary       supervision::RestartChild      => (), ();
        }
    };
}

macro_rules! implement {
    ($($name:literal $kind:ident $shape:ident $request:ty => $reply:ty, $item:ty;)*) => {
        $(impl Call for $request {
            type Reply = $reply;
            type Item = $item;
            const NAME: &'static str = $name;
            const KIND: CallKind = CallKind::$kind;
            const SHAPE: CallShape = CallShape::$shape;
        })*

        /// The table of calls.
        pub const CALLS: &[CallRow] = &[
            $(CallRow { name: $name, kind: CallKind::$kind, shape: CallShape::$shape, request: stringify!($request) },)*
        ];
    };
}
for_each_call!(implement);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_nouns_and_verbs() {
        let mut names: Vec<_> = CALLS.iter().map(|row| row.name).collect();
        assert!(names.iter().all(|n| n.split('.').count() == 2));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CALLS.len());
    }
}
