//! Several writes, all or none.

use std::time::Duration;

use async_trait::async_trait;
use fusion_types::Result;
use mongodb::{
    ClientSession,
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{ReadConcern, TransactionOptions},
};

use super::{Mongo, durable, is_duplicate};
use crate::error::{StoreError, unavailable};

/// Tries of one transaction. Each failure means that another one got through, or that the primary changed.
const TRIES: u32 = 30;
const LONGEST_PAUSE: u32 = 100;

/// What is done in a transaction; run again from its start where another one came in between.
#[async_trait]
pub(super) trait Work: Sync {
    type Output: Send;

    async fn run(
        &self,
        store: &Mongo,
        session: &mut ClientSession,
    ) -> Result<Self::Output, StoreError>;
}

impl Mongo {
    pub(super) async fn transaction<W: Work>(&self, work: &W) -> Result<W::Output, StoreError> {
        let mut session = self.client.start_session().await?;
        for attempt in 1..=TRIES {
            let options = TransactionOptions::builder()
                .read_concern(ReadConcern::snapshot())
                .write_concern(durable())
                .build();
            session.start_transaction().with_options(options).await?;
            let done = match work.run(self, &mut session).await {
                Ok(output) => commit(&mut session).await.map(|()| output),
                Err(error) => {
                    // One that the server has ended already can't be aborted, and needn't be.
                    let _ = session.abort_transaction().await;
                    Err(error)
                }
            };
            match done {
                Err(StoreError::Mongo(error)) if is_worth_another_try(&error) => {
                    pause(attempt).await;
                }
                other => return other,
            }
        }
        Err(unavailable("the store is too busy").into())
    }
}

/// Whether it was committed is asked again until it is known.
async fn commit(session: &mut ClientSession) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        match session.commit_transaction().await {
            Err(error)
                if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && tries < TRIES =>
            {
                tries += 1;
                pause(tries).await;
            }
            other => return Ok(other?),
        }
    }
}

/// A duplicate key was put there by somebody who came in between: the next try sees it.
fn is_worth_another_try(error: &mongodb::error::Error) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR) || is_duplicate(error)
}

/// Rises with the tries, and differs between those who wait.
pub(super) async fn pause(tries: u32) {
    let most = (2 << tries.min(6)).min(LONGEST_PAUSE);
    let millis = rand::random_range(1..=u64::from(most));
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
