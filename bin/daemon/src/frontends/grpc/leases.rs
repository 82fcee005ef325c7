//! `containerd.services.leases.v1.Leases`.

use super::{
    api::{Api, Reply},
    convert::{optional, required, time},
    proto::containerd::services::leases::v1::{
        AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest, Lease as Wire,
        ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse, Resource, leases_server::Leases,
    },
};
use tonic::{Request, async_trait};
use wharf_messages::{
    Answer, LeaseId,
    lease::{
        AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource, Lease, LeaseResource, ListLeaseResources,
        ListLeases,
    },
};

fn lease(lease: Lease) -> Wire {
    Wire { id: lease.id.into(), created_at: time(lease.created_at), labels: lease.labels }
}

fn resource(resource: Option<Resource>) -> Answer<LeaseResource> {
    let Resource { id, r#type: kind } = required("resource", resource)?;
    Ok(LeaseResource { kind, id })
}

#[async_trait]
impl Leases for Api {
    async fn create(&self, request: Request<CreateRequest>) -> Reply<CreateResponse> {
        self.unary(
            request,
            |wire| Ok(CreateLease { id: optional(&wire.id, LeaseId::new)?, labels: wire.labels }),
            |made| CreateResponse { lease: Some(lease(made)) },
        )
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Reply<()> {
        self.unary(request, |wire| Ok(DeleteLease { id: LeaseId::new(wire.id)?, sync: wire.sync }), |()| ()).await
    }

    async fn list(&self, request: Request<ListRequest>) -> Reply<ListResponse> {
        self.unary(
            request,
            |wire| Ok(ListLeases { filters: wire.filters }),
            |leases| ListResponse { leases: leases.into_iter().map(lease).collect() },
        )
        .await
    }

    async fn add_resource(&self, request: Request<AddResourceRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| Ok(AddLeaseResource { id: LeaseId::new(wire.id)?, resource: resource(wire.resource)? }),
            |()| (),
        )
        .await
    }

    async fn delete_resource(&self, request: Request<DeleteResourceRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| Ok(DeleteLeaseResource { id: LeaseId::new(wire.id)?, resource: resource(wire.resource)? }),
            |()| (),
        )
        .await
    }

    async fn list_resources(&self, request: Request<ListResourcesRequest>) -> Reply<ListResourcesResponse> {
        self.unary(
            request,
            |wire| Ok(ListLeaseResources { id: LeaseId::new(wire.id)? }),
            |resources| {
                let resource = |LeaseResource { kind, id }| Resource { id, r#type: kind };
                ListResourcesResponse { resources: resources.into_iter().map(resource).collect() }
            },
        )
        .await
    }
}
