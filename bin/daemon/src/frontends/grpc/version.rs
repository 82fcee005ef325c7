//! `containerd.services.version.v1.Version`.

use super::{
    api::{Api, Reply},
    proto::containerd::services::version::v1::{VersionResponse, version_server::Version},
};
use tonic::{Request, async_trait};
use wharf_messages::system::GetDaemonInfo;

#[async_trait]
impl Version for Api {
    async fn version(&self, request: Request<()>) -> Reply<VersionResponse> {
        self.unary(
            request,
            |()| Ok(GetDaemonInfo {}),
            |info| VersionResponse { version: info.version, revision: info.revision },
        )
        .await
    }
}
