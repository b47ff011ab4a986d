//! Any sequence of what clients and workers do to jobs, against a simple model.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{Fence, Held, JobEvent, JobStatus, JobWrite, NewJob, Outcome, Seq},
    store::JobStore,
};
use proptest::prelude::*;
use serde_json::json;

use crate::{
    sqlite::new_store,
    suite::jobs::{HOUR, claim, failure, insert, new_job, owner},
};

const MAX_ATTEMPTS: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Insert,
    /// With a lease that holds, or one that has already run out.
    Claim {
        limit: u32,
        lapses: bool,
    },
    /// By the `pick`-th claim ever made, stale ones included.
    Write {
        pick: usize,
        what: What,
    },
    Renew {
        pick: usize,
        lapses: bool,
    },
    Cancel {
        pick: usize,
    },
    Retry {
        pick: usize,
    },
    ReleaseAll,
    Sweep,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Progress,
    Release,
    Return,
    Complete,
    Fail,
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pick = 0usize..64;
    let what = prop::sample::select(vec![
        What::Progress,
        What::Release,
        What::Return,
        What::Complete,
        What::Fail,
        What::Cancel,
    ]);
    let step = prop_oneof![
        3 => Just(Step::Insert),
        5 => (0u32..4, any::<bool>()).prop_map(|(limit, lapses)| Step::Claim { limit, lapses }),
        6 => (pick.clone(), what).prop_map(|(pick, what)| Step::Write { pick, what }),
        2 => (pick.clone(), any::<bool>()).prop_map(|(pick, lapses)| Step::Renew { pick, lapses }),
        2 => pick.clone().prop_map(|pick| Step::Cancel { pick }),
        2 => pick.prop_map(|pick| Step::Retry { pick }),
        1 => Just(Step::ReleaseAll),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..60)
}

/// What is to be true of one job.
#[derive(Clone, Debug, Default)]
struct Expected {
    id: Option<JobId>,
    status: Option<JobStatus>,
    attempt: u32,
    fence: u64,
    lapsed: bool,
    cancel_wanted: bool,
    events: Vec<JobEvent>,
}

impl Expected {
    fn enter(&mut self, status: JobStatus) {
        self.status = Some(status);
        self.events.push(status.into());
        self.cancel_wanted = false;
    }

    fn is(&self, status: JobStatus) -> bool {
        self.status == Some(status)
    }

    /// A worker's write that the store must take.
    fn write(&mut self, what: What) {
        match what {
            What::Progress => {}
            What::Release | What::Return if self.cancel_wanted => self.enter(JobStatus::Cancelled),
            What::Release if self.attempt >= MAX_ATTEMPTS => self.enter(JobStatus::Failed),
            What::Release => self.enter(JobStatus::Queued),
            What::Return => {
                self.attempt -= 1;
                self.enter(JobStatus::Queued);
            }
            What::Complete => self.enter(JobStatus::Completed),
            What::Fail => self.enter(JobStatus::Failed),
            What::Cancel => self.enter(JobStatus::Cancelled),
        }
    }
}

/// The queue as it should be: jobs by insertion, which is their order too, and every claim ever made.
#[derive(Default)]
struct Model {
    jobs: Vec<Expected>,
    claims: Vec<(usize, u64)>,
}

impl Model {
    /// The jobs that a claim is to hand out.
    fn claim(&mut self, limit: u32, lapses: bool) -> Vec<usize> {
        let mut handed_out = Vec::new();
        for (number, job) in self.jobs.iter_mut().enumerate() {
            if job.is(JobStatus::Processing) && job.lapsed {
                if job.cancel_wanted {
                    job.enter(JobStatus::Cancelled);
                } else if job.attempt >= MAX_ATTEMPTS {
                    job.enter(JobStatus::Failed);
                } else {
                    handed_out.push(number);
                }
            } else if job.is(JobStatus::Queued) {
                handed_out.push(number);
            }
        }
        handed_out.truncate(limit as usize);
        for number in &handed_out {
            let job = &mut self.jobs[*number];
            job.attempt += 1;
            job.fence += 1;
            job.lapsed = lapses;
            job.enter(JobStatus::Processing);
            self.claims.push((*number, job.fence));
        }
        handed_out
    }

    /// Whether the claim still holds its job.
    fn holds(&self, (number, fence): (usize, u64)) -> bool {
        self.jobs[number].is(JobStatus::Processing) && self.jobs[number].fence == fence
    }
}

/// What a server that starts does to the leases of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leases {
    /// It ends them: there is no other server.
    AreReleased,
    /// They run out: other servers are alive.
    RunOut,
}

#[test]
fn the_store_does_what_the_model_does() {
    check_cases(48, Leases::AreReleased, async || {
        let store = new_store().await;
        (Arc::clone(&store.storage.jobs), store)
    });
}

/// As many random sequences, each on a new store. What comes with a store goes after it.
pub(crate) fn check_cases<Rest>(
    cases: u32,
    leases: Leases,
    new_store: impl AsyncFn() -> (Arc<dyn JobStore>, Rest),
) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in steps())| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (jobs, _rest) = new_store().await;
            let mut model = Model::default();
            for step in steps {
                run(&*jobs, &mut model, leases, step).await;
            }
            check(&*jobs, &model).await;
            check_payloads(&*jobs, &model).await;
        });
    });
}

async fn run(jobs: &dyn JobStore, model: &mut Model, leases: Leases, step: Step) {
    match step {
        Step::Insert => {
            let sort_key = model.jobs.len() as i64;
            let job = insert(
                jobs,
                NewJob {
                    sort_key,
                    max_attempts: MAX_ATTEMPTS,
                    ..new_job()
                },
            )
            .await;
            let mut expected = Expected {
                id: Some(job.job_id),
                ..Expected::default()
            };
            expected.enter(JobStatus::Queued);
            model.jobs.push(expected);
        }
        Step::Claim { limit, lapses } => {
            let expected = model.claim(limit, lapses);
            let claimed = claim(jobs, limit, if lapses { Duration::ZERO } else { HOUR }).await;
            let claimed = claimed
                .iter()
                .map(|claimed| (Some(claimed.job.job_id.clone()), claimed.fence.0));
            let expected = expected
                .iter()
                .map(|number| &model.jobs[*number])
                .map(|job| (job.id.clone(), job.fence));
            assert_eq!(
                claimed.collect::<HashMap<_, _>>(),
                expected.collect::<HashMap<_, _>>()
            );
        }
        Step::Write { pick, what } if !model.claims.is_empty() => {
            write(jobs, model, pick, what).await
        }
        Step::Renew { pick, lapses } if !model.claims.is_empty() => {
            renew(jobs, model, pick, lapses).await
        }
        Step::Cancel { pick } if !model.jobs.is_empty() => cancel(jobs, model, pick).await,
        Step::Retry { pick } if !model.jobs.is_empty() => retry(jobs, model, pick).await,
        Step::ReleaseAll if leases == Leases::RunOut => {
            assert_eq!(jobs.release_all_leases().await.unwrap(), 0);
        }
        Step::ReleaseAll => {
            let running = model
                .jobs
                .iter_mut()
                .filter(|job| job.is(JobStatus::Processing));
            let running = running.map(|job| job.lapsed = true).count();
            assert_eq!(jobs.release_all_leases().await.unwrap(), running as u64);
        }
        Step::Sweep => assert_eq!(jobs.sweep().await.unwrap(), 0, "nothing has expired"),
        _ => {}
    }
}

async fn write(jobs: &dyn JobStore, model: &mut Model, pick: usize, what: What) {
    let claim = model.claims[pick % model.claims.len()];
    let run_at = Timestamp::from_millis(0);
    let write = match what {
        What::Progress => JobWrite::Progress(0.5),
        What::Release => JobWrite::Release {
            run_at,
            error: failure(ErrorCode::Timeout),
        },
        What::Return => JobWrite::Return,
        What::Complete => JobWrite::Finish(Outcome::Completed(json!({"fence": claim.1}))),
        What::Fail => JobWrite::Finish(Outcome::Failed(failure(ErrorCode::InternalError))),
        What::Cancel => JobWrite::Finish(Outcome::Cancelled),
    };
    let id = model.jobs[claim.0].id.clone().unwrap();
    let answer = jobs.write(&id, Fence(claim.1), write).await;
    if model.holds(claim) {
        model.jobs[claim.0].write(what);
        assert_eq!(Some(answer.unwrap().status), model.jobs[claim.0].status);
    } else {
        assert_eq!(
            answer.unwrap_err().code,
            ErrorCode::VersionConflict,
            "a stale fence"
        );
    }
}

async fn renew(jobs: &dyn JobStore, model: &mut Model, pick: usize, lapses: bool) {
    let claim = model.claims[pick % model.claims.len()];
    let id = model.jobs[claim.0].id.clone().unwrap();
    let lease = if lapses { Duration::ZERO } else { HOUR };
    let held = jobs
        .renew(&owner(), lease, &[(id, Fence(claim.1))])
        .await
        .unwrap();
    if model.holds(claim) {
        let job = &mut model.jobs[claim.0];
        job.lapsed = lapses;
        assert_eq!(
            held,
            [if job.cancel_wanted {
                Held::CancelWanted
            } else {
                Held::Kept
            }]
        );
    } else {
        assert_eq!(held, [Held::Lost]);
    }
}

async fn cancel(jobs: &dyn JobStore, model: &mut Model, pick: usize) {
    let number = pick % model.jobs.len();
    let job = &mut model.jobs[number];
    let answer = jobs
        .cancel(&Tenant::default(), job.id.as_ref().unwrap())
        .await;
    match job.status.unwrap() {
        JobStatus::Queued => {
            job.enter(JobStatus::Cancelled);
            assert_eq!(answer.unwrap().status, JobStatus::Cancelled);
        }
        JobStatus::Processing => {
            job.cancel_wanted = true;
            assert_eq!(answer.unwrap().status, JobStatus::Processing);
        }
        _ => assert_eq!(answer.unwrap_err().code, ErrorCode::JobFinished),
    }
}

/// A retried job takes a new place in the queue, which the model doesn't know: so it is cancelled at once.
async fn retry(jobs: &dyn JobStore, model: &mut Model, pick: usize) {
    let number = pick % model.jobs.len();
    let job = &mut model.jobs[number];
    let answer = jobs
        .retry(&Tenant::default(), job.id.as_ref().unwrap())
        .await;
    if !job.is(JobStatus::Failed) {
        assert_eq!(answer.unwrap_err().code, ErrorCode::InvalidValue);
        return;
    }
    assert_eq!(answer.unwrap().attempt, 0);
    job.enter(JobStatus::Queued);
    let cancelled = jobs
        .cancel(&Tenant::default(), job.id.as_ref().unwrap())
        .await
        .unwrap();
    assert_eq!(cancelled.status, JobStatus::Cancelled);
    job.attempt = 0;
    job.enter(JobStatus::Cancelled);
}

/// The records, the change log, and the counts.
async fn check(jobs: &dyn JobStore, model: &Model) {
    let mut events = HashMap::<JobId, Vec<JobEvent>>::new();
    let changes = jobs.changes(Seq(0), 1000).await.unwrap();
    for (place, change) in changes.iter().enumerate() {
        assert_eq!(change.seq.0, place as u64 + 1, "the log is dense");
        assert_eq!(change.event, JobEvent::from(change.job.status));
        events
            .entry(change.job.job_id.clone())
            .or_default()
            .push(change.event);
    }
    for expected in &model.jobs {
        let id = expected.id.as_ref().unwrap();
        let job = jobs.get(&Tenant::default(), id).await.unwrap().unwrap();
        assert_eq!(
            (Some(job.status), job.attempt),
            (expected.status, expected.attempt)
        );
        assert_eq!(events[id], expected.events);
        assert_eq!(job.result.is_some(), job.status == JobStatus::Completed);
        let last = changes
            .iter()
            .rev()
            .find(|change| change.job.job_id == *id)
            .unwrap();
        let progress = job.progress;
        let mut last = last.job.clone();
        if job.status == JobStatus::Processing {
            last.progress = progress;
        }
        assert_eq!(last, job, "the newest change is the job as it is");
    }
    let count = |status| model.jobs.iter().filter(|job| job.is(status)).count() as u64;
    let counts = jobs.counts().await.unwrap();
    assert_eq!(counts.queued, count(JobStatus::Queued));
    assert_eq!(counts.processing, count(JobStatus::Processing));
    assert_eq!(counts.completed, count(JobStatus::Completed));
    assert_eq!(counts.failed, count(JobStatus::Failed));
    assert_eq!(counts.cancelled, count(JobStatus::Cancelled));
}

/// The inputs of jobs that can still run are there; those of the rest can't be had.
async fn check_payloads(jobs: &dyn JobStore, model: &Model) {
    for expected in &model.jobs {
        let retried = jobs
            .retry(&Tenant::default(), expected.id.as_ref().unwrap())
            .await;
        assert_eq!(retried.is_ok(), expected.is(JobStatus::Failed));
    }
    jobs.release_all_leases().await.unwrap();
    for claimed in claim(jobs, 1000, HOUR).await {
        assert_eq!(claimed.input, new_job().input);
    }
}
