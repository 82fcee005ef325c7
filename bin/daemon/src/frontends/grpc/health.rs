//! `grpc.health.v1.Health`: a daemon that takes the question serves.

use super::{
    api::{Api, Reply, Streamed},
    proto::grpc::health::v1::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
    },
};
use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl Health for Api {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Reply<HealthCheckResponse> {
        // Only the whole is watched; its parts have the supervision tree.
        if !request.into_inner().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    type WatchStream = Streamed<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Reply<Self::WatchStream> {
        let known = request.into_inner().service.is_empty();
        let first = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let last = ServingStatus::NotServing;
        let stopping = self.stopping.clone();
        let told = stream::iter([first])
            .chain(stream::once(async move {
                stopping.cancelled().await;
                last
            }))
            .map(|status| Ok(HealthCheckResponse { status: status.into() }));
        Ok(Response::new(Box::pin(told)))
    }
}
