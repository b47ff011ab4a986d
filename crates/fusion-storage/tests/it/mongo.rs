//! Every suite, on MongoDB. One server for the tests of a part, a database for each.

use fusion_storage::{Config, MongoConfig, Storage, open};
use mongodb::bson::oid::ObjectId;
use tempfile::TempDir;

use crate::{
    job_model,
    servers::{self, Server},
    suite,
};

/// A database of its own, which goes with [`TestDatabase::drop`], and as many servers' stores on it as a test wants.
pub(crate) struct TestDatabase {
    config: MongoConfig,
}

impl TestDatabase {
    pub(crate) fn new(server: &Server) -> Self {
        Self {
            config: MongoConfig {
                uri: server.uri.clone(),
                database: format!("fusiond_test_{}", ObjectId::new()),
            },
        }
    }

    /// With the folder that it locks.
    pub(crate) async fn open(&self) -> (Storage, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&self.store_config(&folder)).await.unwrap();
        (storage, folder)
    }

    pub(crate) fn store_config(&self, folder: &TempDir) -> Config {
        Config {
            mongo: Some(self.config.clone()),
            ..Config::new(folder.path())
        }
    }

    pub(crate) async fn raw(&self) -> mongodb::Database {
        let client = mongodb::Client::with_uri_str(&self.config.uri)
            .await
            .unwrap();
        client.database(&self.config.database)
    }

    pub(crate) async fn drop(self) {
        self.raw().await.drop().await.unwrap();
    }
}

macro_rules! run {
    ($name:ident, $part:ident: $($suite:ident::$test:ident,)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let Some(server) = servers::mongo() else { return };
            $(
                eprintln!("{}", stringify!($test));
                let database = TestDatabase::new(&server);
                let (storage, _folder) = database.open().await;
                suite::$suite::$test(&*storage.$part).await;
                storage.close().await.unwrap();
                database.drop().await;
            )*
        }
    };
}

run! { files_run, blobs:
    blobs::a_file_is_read_as_it_was_written,
    blobs::a_large_file_is_read_from_anywhere,
    blobs::an_empty_file_is_a_file,
    blobs::a_source_that_breaks_off_leaves_nothing,
    blobs::what_is_deleted_is_gone,
    blobs::no_path_is_an_id,
}

run! { jobs_run, jobs:
    jobs::a_job_runs_from_queue_to_result,
    jobs::a_claim_takes_what_is_held_first_and_leaves_what_is_unknown,
    jobs::claims_are_exclusive_and_in_order,
    jobs::a_job_waits_for_its_time,
    jobs::a_stale_fence_is_refused,
    jobs::a_lapsed_lease_is_taken_over,
    jobs::a_released_job_is_tried_again,
    jobs::a_returned_job_was_not_counted,
    jobs::a_key_makes_one_job,
    jobs::a_group_of_jobs_is_inserted_whole_or_not_at_all,
    jobs::large_values_are_kept,
}

run! { jobs_end, jobs:
    job_ends::a_job_whose_workers_vanish_fails_in_the_end,
    job_ends::a_release_of_the_last_attempt_fails_the_job,
    job_ends::a_queued_job_is_cancelled_at_once,
    job_ends::a_running_job_is_cancelled_by_its_worker,
    job_ends::a_cancelled_job_is_not_tried_again,
    job_ends::a_failed_job_can_be_retried,
    job_ends::expired_is_gone_at_once_and_swept_later,
}

run! { jobs_are_looked_at, jobs:
    job_views::lists_filter_sort_and_count,
    job_views::tenants_see_only_their_own,
    job_views::positions_and_counts_follow_the_queue,
    job_views::every_transition_is_in_the_change_log,
    job_views::waiting_for_changes_ends_with_one_or_with_time,
}

run! { jobs_belong_together, jobs:
    job_groups::a_job_waits_for_those_it_depends_on,
    job_groups::a_failure_takes_those_that_depend_on_it_along,
    job_groups::a_cancellation_takes_those_that_depend_on_it_along,
    job_groups::a_dependency_must_be_there_and_may_complete,
    job_groups::a_retried_job_waits_again,
    job_groups::a_group_is_counted_and_cancelled,
    job_groups::lists_filter_by_metadata,
}

run! { records_are_kept, records:
    records::versions_rise_with_each_write,
    records::an_expectation_that_fails_stops_the_whole_commit,
    records::lists_go_by_prefix_in_key_order,
    records::expired_records_are_hidden_then_swept,
}

run! { documents_are_kept, documents:
    documents::a_collection_is_made_once,
    documents::a_version_replaces_the_one_before,
    documents::a_vector_of_another_model_changes_nothing,
    documents::a_chunk_id_is_used_once,
    documents::the_log_tells_what_changed,
    documents::the_log_can_be_read_in_steps,
    documents::deleted_documents_are_gone,
    documents::deleted_collections_are_gone,
    documents::known_vectors_are_found_by_text,
    documents::lists_come_in_pages,
}

/// Short by default; `MONGO_CASES=50` is the long form.
#[test]
fn the_store_does_what_the_model_does() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let cases = std::env::var("MONGO_CASES").map_or(4, |cases| cases.parse().unwrap());
    job_model::check_cases(cases, job_model::Leases::RunOut, async || {
        let database = TestDatabase::new(&server);
        let (storage, folder) = database.open().await;
        let jobs = std::sync::Arc::clone(&storage.jobs);
        (jobs, (storage, folder, database))
    });
}
