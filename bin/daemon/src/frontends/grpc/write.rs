//! Content's `Write`: a conversation about one ingest, an answer for each message.
//!
//! The stream holds the reference from its first message to its end, however it ends; what was written stays for the
//! next stream to go on with, unless it was committed.

use super::{
    api::{Api, Reply, context},
    convert::{optional, size, size_in, time},
    proto::containerd::services::content::v1::{WriteAction, WriteContentRequest, WriteContentResponse},
    status::status,
};
use futures_util::{Stream, stream};
use std::pin::Pin;
use tonic::{Request, Response, Status, Streaming};
use wharf_actors::content::{IngestWriter, OpenIngest};
use wharf_messages::{
    Answer, Digest, IngestRef, Labels, Meta, Refusal, RefusalKind,
    content::{AbortIngest, GetContent, GetIngest},
};

type Messages = Pin<Box<dyn Stream<Item = Result<WriteContentResponse, Status>> + Send>>;

/// Starts the conversation.
pub fn write(api: Api, request: Request<Streaming<WriteContentRequest>>) -> Reply<Messages> {
    let meta = context(request.metadata(), request.extensions()).map_err(|refusal| status(&refusal))?;
    let session = Session { api, meta, messages: request.into_inner(), open: None, over: false };
    let answers =
        stream::try_unfold(session, |mut session| async { Ok(session.next().await?.map(|answer| (answer, session))) });
    Ok(Response::new(Box::pin(answers)))
}

struct Session {
    api: Api,
    meta: Meta,
    messages: Streaming<WriteContentRequest>,
    open: Option<Open>,
    over: bool,
}

/// What is known once the first message has come.
struct Open {
    reference: IngestRef,
    writer: IngestWriter,
    total_bytes: u64,
    expected: Option<Digest>,
}

impl Session {
    /// Takes a message and answers it; none when the conversation is over.
    async fn next(&mut self) -> Result<Option<WriteContentResponse>, Status> {
        if self.over {
            return Ok(None);
        }
        let message = self.api.unless_stopping("content.write", self.messages.message()).await;
        match message.map_err(|refusal| status(&refusal))?? {
            Some(message) => self.take(message).await.map(Some).map_err(|refusal| status(&refusal)),
            None => Ok(None),
        }
    }

    async fn take(&mut self, message: WriteContentRequest) -> Answer<WriteContentResponse> {
        let action = WriteAction::try_from(message.action)
            .map_err(|_| Refusal::invalid(format!("action {} is unknown", message.action)))?;
        let expected = optional(&message.expected, Digest::new)?;
        let total_bytes = size_in("total", message.total)?;
        let offset_bytes = size_in("offset", message.offset)?;
        let Open { reference, mut writer, total_bytes, expected } = match self.open.take() {
            None => self.open(&message, total_bytes, expected).await?,
            Some(open) => {
                if let Some(expected) = &expected
                    && self.has(expected).await?
                {
                    // Somebody else has finished it meanwhile; the reference is free again as soon as the writer is gone.
                    let reference = open.reference.clone();
                    drop(open);
                    self.api.call(self.meta.clone(), AbortIngest { reference }).await?;
                    return Err(Refusal::already_exists(format!("blob with expected digest {expected} exists")));
                }
                let total_bytes = if total_bytes > 0 { total_bytes } else { open.total_bytes };
                Open { total_bytes, expected: expected.or(open.expected), ..open }
            }
        };
        let mut answer = WriteContentResponse { action: action.into(), ..WriteContentResponse::default() };
        match action {
            WriteAction::Stat => {
                let ingest = self.api.call(self.meta.clone(), GetIngest { reference: reference.clone() }).await?;
                answer.started_at = time(ingest.started_at);
                answer.updated_at = time(ingest.updated_at);
                answer.total = size(total_bytes);
            }
            WriteAction::Write | WriteAction::Commit => {
                let now = writer.offset_bytes()?;
                if offset_bytes > 0 && offset_bytes != now {
                    return Err(Refusal::out_of_range(format!(
                        "ref {reference}: write at {offset_bytes} must occur at current offset {now}"
                    )));
                }
                if offset_bytes == 0 && now > 0 {
                    writer.truncate(0).await?;
                }
                if !message.data.is_empty() {
                    writer.write(vec![message.data]).await?;
                }
            }
        }
        if action == WriteAction::Commit {
            self.over = true;
            let blob = writer.commit(total_bytes, expected, message.labels).await?;
            (answer.offset, answer.digest) = (size(blob.size_bytes), blob.digest.into());
        } else {
            (answer.offset, answer.digest) = (size(writer.offset_bytes()?), writer.digest()?.into());
            self.open = Some(Open { reference, writer, total_bytes, expected });
        }
        Ok(answer)
    }

    async fn open(&self, first: &WriteContentRequest, total_bytes: u64, expected: Option<Digest>) -> Answer<Open> {
        if first.r#ref.is_empty() {
            return Err(Refusal::invalid("first message must have a reference"));
        }
        let reference = IngestRef::new(&first.r#ref)?;
        let open = OpenIngest {
            reference: reference.clone(),
            total_bytes,
            expected: expected.clone(),
            labels: Labels::new(),
            // As containerd does it: whoever names what another namespace has finds all of it written.
            shares: true,
        };
        let opening = self.api.wharf.actors.content.ask(self.meta.clone(), open);
        let writer = self.api.unless_stopping("content.write", opening).await??;
        Ok(Open { reference, writer, total_bytes, expected })
    }

    /// Whether a blob is here.
    async fn has(&self, digest: &Digest) -> Answer<bool> {
        match self.api.call(self.meta.clone(), GetContent { digest: digest.clone() }).await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(RefusalKind::NotFound) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}
