//! `containerd.services.containers.v1.Containers`.

use super::{
    api::{Api, Reply, Streamed},
    convert::{any, any_in, optional, paths, required, time},
    lent::lend,
    proto::containerd::services::containers::v1::{
        Container as Wire, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
        GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest, ListContainersResponse,
        UpdateContainerRequest, UpdateContainerResponse, container, containers_server::Containers,
    },
    status::status,
};
use futures_util::stream;
use tonic::{Request, Response, Status, async_trait};
use wharf_messages::{
    Answer, ContainerId, Refusal, SnapshotKey, SnapshotterName, Stored, Timestamp,
    container::{Container, CreateContainer, DeleteContainer, GetContainer, ListContainers, Runtime, UpdateContainer},
};

fn container(container: Container) -> Wire {
    let Runtime { name, options } = container.runtime;
    Wire {
        id: container.id.into(),
        labels: container.labels,
        image: container.image,
        runtime: Some(container::Runtime { name, options: options.map(any) }),
        spec: container.spec.map(any),
        snapshotter: container.snapshotter.map(String::from).unwrap_or_default(),
        snapshot_key: container.snapshot_key.map(String::from).unwrap_or_default(),
        created_at: time(container.created_at),
        updated_at: time(container.updated_at),
        extensions: container.extensions.into_iter().map(|(name, value)| (name, any(value))).collect(),
        sandbox: container.sandbox,
    }
}

fn stored(found: &Stored<Container>) -> Result<Wire, Status> {
    found.get().map(container).map_err(|refusal| status(&refusal))
}

fn list(wire: ListContainersRequest) -> Answer<ListContainers> {
    Ok(ListContainers { filters: wire.filters })
}

fn container_in(wire: Option<Wire>) -> Answer<Container> {
    let wire = required("container", wire)?;
    let container::Runtime { name, options } = wire.runtime.unwrap_or_default();
    Ok(Container {
        id: ContainerId::new(wire.id).map_err(|refusal| refusal.context("container.ID"))?,
        labels: wire.labels,
        image: wire.image,
        runtime: Runtime { name, options: options.map(any_in) },
        spec: wire.spec.map(any_in),
        snapshotter: optional(&wire.snapshotter, SnapshotterName::new)?,
        snapshot_key: optional(&wire.snapshot_key, SnapshotKey::new)?,
        // The daemon's own to set.
        created_at: Timestamp::ZERO,
        updated_at: Timestamp::ZERO,
        extensions: wire.extensions.into_iter().map(|(name, value)| (name, any_in(value))).collect(),
        sandbox: wire.sandbox,
    })
}

#[async_trait]
impl Containers for Api {
    async fn get(&self, request: Request<GetContainerRequest>) -> Reply<GetContainerResponse> {
        self.unary(
            request,
            |wire| Ok(GetContainer { id: ContainerId::new(wire.id)? }),
            |found| GetContainerResponse { container: Some(container(found)) },
        )
        .await
    }

    async fn list(&self, request: Request<ListContainersRequest>) -> Reply<ListContainersResponse> {
        let listed = self.unary(request, list, |found| found).await?;
        let containers = listed.into_inner().iter().map(stored).collect::<Result<_, _>>()?;
        Ok(Response::new(ListContainersResponse { containers }))
    }

    type ListStreamStream = Streamed<ListContainerMessage>;

    async fn list_stream(&self, request: Request<ListContainersRequest>) -> Reply<Self::ListStreamStream> {
        let listed = self.unary(request, list, |found| found).await?;
        let message = |found| Ok(ListContainerMessage { container: Some(stored(&found)?) });
        Ok(Response::new(Box::pin(stream::iter(lend(listed.into_inner(), Stored::apart).map(message)))))
    }

    async fn create(&self, request: Request<CreateContainerRequest>) -> Reply<CreateContainerResponse> {
        self.unary(
            request,
            |wire| {
                let container = container_in(wire.container).and_then(|container| {
                    if container.snapshot_key.is_some() && container.snapshotter.is_none() {
                        // In the vocabulary that means the namespace's default; containerd's clients have to say.
                        let why = "container.Snapshotter must be set if container.SnapshotKey is set";
                        return Err(Refusal::invalid(why));
                    }
                    Ok(container)
                });
                let container = container.map_err(|refusal| refusal.context("create container failed validation"))?;
                Ok(CreateContainer { container })
            },
            |made| CreateContainerResponse { container: Some(container(made)) },
        )
        .await
    }

    async fn update(&self, request: Request<UpdateContainerRequest>) -> Reply<UpdateContainerResponse> {
        self.unary(
            request,
            |wire| Ok(UpdateContainer { container: container_in(wire.container)?, mask: paths(wire.update_mask) }),
            |changed| UpdateContainerResponse { container: Some(container(changed)) },
        )
        .await
    }

    async fn delete(&self, request: Request<DeleteContainerRequest>) -> Reply<()> {
        let delete =
            |wire: DeleteContainerRequest| Ok(DeleteContainer { id: ContainerId::new(wire.id)?, with_snapshot: false });
        self.unary(request, delete, |()| ()).await
    }
}
