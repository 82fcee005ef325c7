//! What a collection would do now, and why: the same mark, and nothing is swept.

use super::GcDeps;
use crate::{
    Wharf,
    runtime::waiting,
    serve::{CallIo, Serve},
};
use wharf_messages::{
    Answer, Call, Meta, Refusal,
    gc::{ExplainGarbage, Verdict},
};

impl Serve for ExplainGarbage {
    async fn serve(self, wharf: Wharf, meta: Meta, io: CallIo<Verdict>) -> Answer<()> {
        let namespace = meta.namespace()?.clone();
        waiting(Self::NAME, move || {
            let (reader, in_use) = GcDeps::new(&wharf).moment()?;
            for verdict in reader.mark(&namespace, wharf.clock.now(), &in_use)?.verdicts() {
                io.items.blocking_send(verdict).map_err(|_| Refusal::canceled("the client went away"))?;
            }
            Ok(())
        })
        .await
    }
}
