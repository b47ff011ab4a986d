//! A few connections that only read, so that no read waits for a write.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fusion_types::{Error, Result};
use rusqlite::{Connection, OpenFlags};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::error::{StoreError, closed, unavailable};

const MOST: u32 = 4;
/// How long a read may wait for one of the connections.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long closing waits for reads that run.
const LONGEST_CLOSE: Duration = Duration::from_secs(5);

pub(super) struct Readers {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
}

/// Connections are opened when first needed: most servers are happy with one.
struct Pool {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        let pool = Arc::new(Pool {
            file,
            idle: Mutex::new(Vec::new()),
        });
        Self {
            pool,
            permits: Arc::new(Semaphore::new(MOST as usize)),
        }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T> {
        let permit = timeout(LONGEST_WAIT, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| unavailable("the store has too many reads waiting"))?
            .map_err(|_| closed())?;
        let pool = Arc::clone(&self.pool);
        let answer = spawn_blocking(move || {
            let answer = pool.read(work);
            drop(permit);
            answer
        });
        Ok(answer
            .await
            .map_err(|_| Error::internal("a read of the store failed"))??)
    }

    /// Waits for reads that run, refuses new ones, and closes the connections.
    pub(super) async fn close(&self) {
        let ended = timeout(LONGEST_CLOSE, self.permits.acquire_many(MOST)).await;
        self.permits.close();
        if ended.is_err() {
            tracing::warn!("the store is closed while reads still run");
        }
        self.pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Pool {
    fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = read_snapshot(&connection, work);
        if connection.is_autocommit() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
        answer
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(connection)
    }
}

fn read_snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let snapshot = connection.unchecked_transaction()?;
    let answer = work(&snapshot)?;
    snapshot.commit()?;
    Ok(answer)
}
