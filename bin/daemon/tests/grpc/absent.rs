//! What containerd may serve and wharf does not: clients that look for it are told so, as by a containerd without it.

use crate::client::Daemon;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

#[tokio::test]
async fn a_service_that_is_not_there_is_unimplemented() {
    let daemon = Daemon::start();
    for (path, told) in [
        // A kubelet's first question.
        ("/runtime.v1.RuntimeService/Version", "unknown service runtime.v1.RuntimeService"),
        ("/runtime.v1.ImageService/ImageFsInfo", "unknown service runtime.v1.ImageService"),
        ("/containerd.services.version.v1.Version/Other", ""),
    ] {
        let mut client = Grpc::with_origin(daemon.connect().await, "http://localhost".parse().unwrap());
        client.ready().await.unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let status = client.unary(Request::new(()), PathAndQuery::from_static(path), codec).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, told), "{path}");
    }
}
