//! Every suite, on the SQLite store and the indexes in memory.

use fusion_storage::{Config, Storage, open};
use tempfile::TempDir;

use crate::suite;

/// A store in a folder of its own, which goes when the value does.
pub(crate) struct TestStore {
    pub(crate) storage: Storage,
    pub(crate) folder: TempDir,
}

pub(crate) async fn new_store() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&Config::new(folder.path().to_owned())).await.unwrap();
    TestStore { storage, folder }
}

macro_rules! run {
    ($part:ident: $($suite:ident::$test:ident,)*) => {$(
        #[tokio::test]
        async fn $test() {
            let store = new_store().await;
            suite::$suite::$test(&*store.storage.$part).await;
        }
    )*};
}

run! { jobs:
    jobs::a_job_runs_from_queue_to_result,
    jobs::claims_are_exclusive_and_in_order,
    jobs::a_job_waits_for_its_time,
    jobs::a_stale_fence_is_refused,
    jobs::a_lapsed_lease_is_taken_over,
    job_ends::a_job_whose_workers_vanish_fails_in_the_end,
    jobs::a_released_job_is_tried_again,
    job_ends::a_release_of_the_last_attempt_fails_the_job,
    jobs::a_returned_job_was_not_counted,
    job_ends::a_queued_job_is_cancelled_at_once,
    job_ends::a_running_job_is_cancelled_by_its_worker,
    job_ends::a_cancelled_job_is_not_tried_again,
    job_ends::a_failed_job_can_be_retried,
    jobs::a_key_makes_one_job,
    jobs::a_group_of_jobs_is_inserted_whole_or_not_at_all,
    jobs::large_values_are_kept,
    job_views::lists_filter_sort_and_count,
    job_views::tenants_see_only_their_own,
    job_views::positions_and_counts_follow_the_queue,
    job_ends::expired_is_gone_at_once_and_swept_later,
    jobs::restart_makes_running_jobs_claimable,
    job_views::every_transition_is_in_the_change_log,
    job_views::waiting_for_changes_ends_with_one_or_with_time,
    job_groups::a_job_waits_for_those_it_depends_on,
    job_groups::a_failure_takes_those_that_depend_on_it_along,
    job_groups::a_cancellation_takes_those_that_depend_on_it_along,
    job_groups::a_dependency_must_be_there_and_may_complete,
    job_groups::a_retried_job_waits_again,
    job_groups::a_group_is_counted_and_cancelled,
    job_groups::lists_filter_by_metadata,
}

run! { records:
    records::versions_rise_with_each_write,
    records::an_expectation_that_fails_stops_the_whole_commit,
    records::lists_go_by_prefix_in_key_order,
    records::expired_records_are_hidden_then_swept,
}

run! { blobs:
    blobs::a_file_is_read_as_it_was_written,
    blobs::a_large_file_is_read_from_anywhere,
    blobs::an_empty_file_is_a_file,
    blobs::a_source_that_breaks_off_leaves_nothing,
    blobs::what_is_deleted_is_gone,
    blobs::no_path_is_an_id,
}

run! { documents:
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

run! { dense:
    indexes::dense_finds_the_nearest,
    indexes::replays_and_removals_leave_what_is_live,
    indexes::a_large_collection_gives_the_same_as_a_naive_search,
}

run! { keyword:
    indexes::keyword_finds_stemmed_words,
    indexes::keyword_takes_any_text_as_words,
    indexes::keyword_follows_changes,
}
