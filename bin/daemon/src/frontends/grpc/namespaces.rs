//! `containerd.services.namespaces.v1.Namespaces`.

use super::{
    api::{Api, Reply},
    convert::{paths, required},
    proto::containerd::services::namespaces::v1::{
        CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest,
        GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, Namespace as Wire, UpdateNamespaceRequest,
        UpdateNamespaceResponse, namespaces_server::Namespaces,
    },
};
use tonic::{Request, async_trait};
use wharf_messages::{
    Namespace,
    namespace::{CreateNamespace, DeleteNamespace, GetNamespace, ListNamespaces, NamespaceRecord, UpdateNamespace},
};

fn namespace(record: NamespaceRecord) -> Wire {
    Wire { name: record.name.into(), labels: record.labels }
}

#[async_trait]
impl Namespaces for Api {
    async fn get(&self, request: Request<GetNamespaceRequest>) -> Reply<GetNamespaceResponse> {
        self.unary(
            request,
            |wire| Ok(GetNamespace { name: Namespace::new(wire.name)? }),
            |record| GetNamespaceResponse { namespace: Some(namespace(record)) },
        )
        .await
    }

    async fn list(&self, request: Request<ListNamespacesRequest>) -> Reply<ListNamespacesResponse> {
        self.unary(
            request,
            |wire| Ok(ListNamespaces { filters: vec![wire.filter] }),
            |records| ListNamespacesResponse { namespaces: records.into_iter().map(namespace).collect() },
        )
        .await
    }

    async fn create(&self, request: Request<CreateNamespaceRequest>) -> Reply<CreateNamespaceResponse> {
        self.unary(
            request,
            |wire| {
                let Wire { name, labels } = required("namespace", wire.namespace)?;
                Ok(CreateNamespace { name: Namespace::new(name)?, labels })
            },
            |record| CreateNamespaceResponse { namespace: Some(namespace(record)) },
        )
        .await
    }

    async fn update(&self, request: Request<UpdateNamespaceRequest>) -> Reply<UpdateNamespaceResponse> {
        self.unary(
            request,
            |wire| {
                let Wire { name, labels } = required("namespace", wire.namespace)?;
                Ok(UpdateNamespace { name: Namespace::new(name)?, labels, mask: paths(wire.update_mask) })
            },
            |record| UpdateNamespaceResponse { namespace: Some(namespace(record)) },
        )
        .await
    }

    async fn delete(&self, request: Request<DeleteNamespaceRequest>) -> Reply<()> {
        self.unary(request, |wire| Ok(DeleteNamespace { name: Namespace::new(wire.name)? }), |()| ()).await
    }
}
