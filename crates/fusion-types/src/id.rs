//! Ids: a prefix that names the kind, then a UUIDv7, so that ids sort by creation and can't be guessed.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub const PREFIX: &str = $prefix;

            /// A fresh id.
            pub fn generate() -> Self {
                let mut digits = [0; uuid::fmt::Simple::LENGTH];
                let own = uuid::Uuid::now_v7().simple().encode_lower(&mut digits);
                Self([Self::PREFIX, own].concat().into())
            }

            /// An id that came from outside; whether it exists is the store's to say.
            pub fn from_text(text: &str) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    JobId = "job-";
    GroupId = "grp-";
    WorkflowId = "wf-";
    RunId = "run-";
    WebhookId = "wh-";
    DeliveryId = "dlv-";
    DocumentId = "doc-";
    ChunkId = "chunk-";
    FileId = "file-";
    /// Names a file's bytes in a [`crate::blob::BlobStore`]; never from a client.
    BlobId = "blob-";
    /// With an underscore, as OpenAI's clients know it.
    BatchId = "batch_";
    /// Echoed in `X-Request-ID`; may come from the client.
    RequestId = "req-";
}
