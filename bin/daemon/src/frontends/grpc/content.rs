//! `containerd.services.content.v1.Content`; its bidirectional `Write` is in `write.rs`.

use super::{
    api::{Api, Reply, Streamed},
    convert::{paths, required, size, time},
    proto::containerd::services::content::v1::{
        AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
        ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, Status, StatusRequest,
        StatusResponse, UpdateRequest, UpdateResponse, WriteContentRequest, WriteContentResponse,
        content_server::Content,
    },
    write,
};
use tonic::{Request, Streaming, async_trait};
use wharf_messages::{
    Digest, IngestRef,
    content::{
        AbortIngest, ContentInfo, DeleteContent, GetContent, GetIngest, IngestStatus, ListContent, ListIngests,
        ReadContent, UpdateContent,
    },
};

fn info(info: ContentInfo) -> Info {
    Info {
        digest: info.digest.into(),
        size: size(info.size_bytes),
        created_at: time(info.created_at),
        updated_at: time(info.updated_at),
        labels: info.labels,
    }
}

fn ingest(status: IngestStatus) -> Status {
    Status {
        started_at: time(status.started_at),
        updated_at: time(status.updated_at),
        r#ref: status.reference.into(),
        offset: size(status.offset_bytes),
        total: size(status.total_bytes),
        expected: status.expected.map(String::from).unwrap_or_default(),
    }
}

#[async_trait]
impl Content for Api {
    async fn info(&self, request: Request<InfoRequest>) -> Reply<InfoResponse> {
        self.unary(
            request,
            |wire| Ok(GetContent { digest: Digest::new(wire.digest)? }),
            |found| InfoResponse { info: Some(info(found)) },
        )
        .await
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Reply<UpdateResponse> {
        self.unary(
            request,
            |wire| {
                let Info { digest, labels, .. } = required("info", wire.info)?;
                Ok(UpdateContent { digest: Digest::new(digest)?, labels, mask: paths(wire.update_mask) })
            },
            |changed| UpdateResponse { info: Some(info(changed)) },
        )
        .await
    }

    type ListStream = Streamed<ListContentResponse>;

    async fn list(&self, request: Request<ListContentRequest>) -> Reply<Self::ListStream> {
        self.batches(
            request,
            |wire| Ok(ListContent { filters: wire.filters }),
            |batch: Vec<ContentInfo>| ListContentResponse { info: batch.into_iter().map(info).collect() },
        )
        .await
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Reply<()> {
        self.unary(request, |wire| Ok(DeleteContent { digest: Digest::new(wire.digest)? }), |()| ()).await
    }

    type ReadStream = Streamed<ReadContentResponse>;

    async fn read(&self, request: Request<ReadContentRequest>) -> Reply<Self::ReadStream> {
        // containerd counts the offsets of the answer from the first byte that is sent, and takes a negative number for none.
        let mut offset = 0;
        self.items(
            request,
            |wire| {
                Ok(ReadContent {
                    digest: Digest::new(wire.digest)?,
                    offset_bytes: u64::try_from(wire.offset).unwrap_or(0),
                    size_bytes: u64::try_from(wire.size).unwrap_or(0),
                })
            },
            move |data: Vec<u8>| {
                let message = ReadContentResponse { offset: size(offset), data: data.into() };
                offset += message.data.len() as u64;
                Some(message)
            },
        )
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        self.unary(
            request,
            |wire| Ok(GetIngest { reference: IngestRef::new(wire.r#ref)? }),
            |found| StatusResponse { status: Some(ingest(found)) },
        )
        .await
    }

    async fn list_statuses(&self, request: Request<ListStatusesRequest>) -> Reply<ListStatusesResponse> {
        self.unary(
            request,
            |wire| Ok(ListIngests { filters: wire.filters }),
            |found| ListStatusesResponse { statuses: found.into_iter().map(ingest).collect() },
        )
        .await
    }

    type WriteStream = Streamed<WriteContentResponse>;

    async fn write(&self, request: Request<Streaming<WriteContentRequest>>) -> Reply<Self::WriteStream> {
        write::write(self.clone(), request)
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Reply<()> {
        self.unary(request, |wire| Ok(AbortIngest { reference: IngestRef::new(wire.r#ref)? }), |()| ()).await
    }
}
