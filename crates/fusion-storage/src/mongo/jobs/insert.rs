//! Taking jobs in.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use fusion_types::{
    Error, Tenant, Timestamp,
    job::{Inserted, NewJob},
};
use mongodb::{
    ClientSession,
    bson::{Document, RawDocumentBuf, doc},
};

use super::{
    super::{Mongo, blobs::Blob, clock_offset, is_duplicate, schema::JOBS, transaction::Work},
    Jobs, dependencies,
    row::JobRow,
    sweep, too_busy,
};
use crate::error::StoreError;

/// Others may bring the same keys in meanwhile.
const TRIES: u32 = 20;

/// What is to become of the jobs of one call, as far as it can be told before they are stored.
struct Plan {
    answers: Vec<Planned>,
    rows: Vec<(JobRow, Document)>,
}

enum Planned {
    /// That row of the plan.
    New(usize),
    Known(Box<Inserted>),
}

/// All documents or none.
struct InsertAll<'a> {
    documents: &'a [Document],
}

#[async_trait]
impl Work for InsertAll<'_> {
    type Output = ();

    async fn run(&self, store: &Mongo, session: &mut ClientSession) -> Result<(), StoreError> {
        store
            .collection(JOBS)
            .insert_many(self.documents)
            .session(session)
            .await?;
        Ok(())
    }
}

impl Jobs {
    /// 1. Who has the key already, and what is waited for?
    /// 2. Inputs are put beside the jobs.
    /// 3. The jobs are stored: one alone, or several in a transaction. From 1 again where somebody took a key in between.
    /// 4. What ended since step 1 is not waited for.
    pub(super) async fn insert_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError> {
        check_ids(&jobs)?;
        let mut inputs = HashMap::new();
        let inserted = self.try_insert(&jobs, &mut inputs).await;
        let kept: HashSet<&str> = match &inserted {
            Ok(inserted) => inserted.iter().filter_map(new_id).collect(),
            Err(StoreError::Refused(_)) => HashSet::new(),
            // Nobody knows whether the jobs are stored: the sweep finds the inputs of those that aren't.
            Err(_) => return inserted,
        };
        let unused = inputs
            .iter()
            .filter(|(id, _)| !kept.contains(id.as_str()))
            .map(|(_, blob)| blob.blob);
        self.store.delete_blobs(&unused.collect::<Vec<_>>()).await?;
        inserted
    }

    async fn try_insert(
        &self,
        jobs: &[NewJob],
        inputs: &mut HashMap<String, Blob>,
    ) -> Result<Vec<Inserted>, StoreError> {
        for _ in 0..TRIES {
            let now = self.store.now().await?;
            let plan = self.plan(jobs, inputs, now).await?;
            let (rows, documents): (Vec<_>, Vec<_>) = plan.rows.into_iter().unzip();
            match self.store_all(&documents).await {
                Err(StoreError::Mongo(error)) if is_duplicate(&error) => {
                    if !self.are_stored(&rows).await? {
                        continue;
                    }
                }
                stored => stored?,
            }
            if !rows.is_empty() {
                self.wake.written();
            }
            dependencies::recheck(self, &rows).await?;
            let answers = plan.answers.into_iter().map(|planned| match planned {
                Planned::Known(known) => *known,
                Planned::New(index) => Inserted::New(rows[index].state.job.clone()),
            });
            return Ok(answers.collect());
        }
        Err(too_busy())
    }

    /// A database that was cut off may be told of the same jobs twice: then it has them.
    async fn are_stored(&self, rows: &[JobRow]) -> Result<bool, StoreError> {
        let ids: Vec<&str> = rows
            .iter()
            .map(|row| row.state.job.job_id.as_str())
            .collect();
        let stored = self
            .store
            .collection(JOBS)
            .count_documents(doc! { "job_id": { "$in": ids } })
            .await?;
        Ok(stored == rows.len() as u64)
    }

    async fn store_all(&self, documents: &[Document]) -> Result<(), StoreError> {
        match documents {
            [] => Ok(()),
            [one] => {
                self.store.collection(JOBS).insert_one(one).await?;
                Ok(())
            }
            documents => self.store.transaction(&InsertAll { documents }).await,
        }
    }

    async fn plan(
        &self,
        jobs: &[NewJob],
        inputs: &mut HashMap<String, Blob>,
        now: Timestamp,
    ) -> Result<Plan, StoreError> {
        let mut plan = Plan {
            answers: Vec::new(),
            rows: Vec::new(),
        };
        let mut keys: HashMap<(Tenant, &str), (usize, &str)> = HashMap::new();
        for new in jobs {
            if let Some(known) = self.holder_of_key(new, now).await? {
                plan.answers.push(Planned::Known(Box::new(known)));
                continue;
            }
            if let Some(idempotency) = &new.idempotency {
                let key = (new.tenant.clone(), idempotency.key.as_str());
                if let Some((index, body_hash)) = keys.get(&key) {
                    let same = *body_hash == idempotency.body_hash;
                    let known = if same {
                        Inserted::Existing(plan.rows[*index].0.state.job.clone())
                    } else {
                        Inserted::KeyReused
                    };
                    plan.answers.push(Planned::Known(Box::new(known)));
                    continue;
                }
                keys.insert(key, (plan.rows.len(), &idempotency.body_hash));
            }
            let earlier = plan.rows.iter().map(|(row, _)| &row.state.job);
            let waits_for = dependencies::unfinished(self, new, earlier).await?;
            let input = self.input(new, inputs).await?;
            let row = JobRow::new(&by_store_time(new, now), input, waits_for, now);
            let document = row.document(new)?;
            plan.answers.push(Planned::New(plan.rows.len()));
            plan.rows.push((row, document));
        }
        Ok(plan)
    }

    /// Kept apart, and once however often the insertion is tried.
    async fn input(
        &self,
        new: &NewJob,
        inputs: &mut HashMap<String, Blob>,
    ) -> Result<Blob, StoreError> {
        if let Some(blob) = inputs.get(new.id.as_str()) {
            return Ok(*blob);
        }
        let bytes = serde_json::to_vec(&new.input)?;
        let blob = self.store.put_blob(new.id.as_str(), &bytes).await?;
        inputs.insert(new.id.as_str().to_owned(), blob);
        Ok(blob)
    }

    /// The job that came with the same key; one that has expired makes room.
    async fn holder_of_key(
        &self,
        new: &NewJob,
        now: Timestamp,
    ) -> Result<Option<Inserted>, StoreError> {
        let Some(idempotency) = &new.idempotency else {
            return Ok(None);
        };
        let key = doc! { "tenant": new.tenant.as_str(), "idempotency_key": &idempotency.key };
        let found: Option<RawDocumentBuf> = self.store.raw(JOBS).find_one(key).await?;
        let Some(row) = found.map(|found| JobRow::read(&found)).transpose()? else {
            return Ok(None);
        };
        if row.state.is_expired(now) {
            self.move_pending().await?;
            sweep::remove(self, &[row]).await?;
            return Ok(None);
        }
        if row.body_hash.as_ref() != Some(&idempotency.body_hash) {
            return Ok(Some(Inserted::KeyReused));
        }
        let job = self.store.with_result(row).await?;
        Ok(Some(Inserted::Existing(job)))
    }
}

/// A server whose clock is off would put its jobs before or behind everybody else's, and let them wait for their time.
fn by_store_time(new: &NewJob, now: Timestamp) -> NewJob {
    let mut new = new.clone();
    if new.run_at <= new.created_at {
        new.run_at = now;
    }
    new.sort_key = new.sort_key.saturating_add(clock_offset(now));
    new
}

fn check_ids(jobs: &[NewJob]) -> Result<(), StoreError> {
    let mut ids = HashSet::new();
    match jobs.iter().find(|job| !ids.insert(&job.id)) {
        Some(twin) => {
            let message = format!("job {} was handed in twice", twin.id);
            Err(Error::internal(message).into())
        }
        None => Ok(()),
    }
}

fn new_id(inserted: &Inserted) -> Option<&str> {
    match inserted {
        Inserted::New(job) => Some(job.job_id.as_str()),
        Inserted::Existing(_) | Inserted::KeyReused => None,
    }
}
