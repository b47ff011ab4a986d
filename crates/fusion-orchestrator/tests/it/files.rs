//! Files: their pages, their ends, and what is left of uploads that broke off.

use std::time::Duration;

use fusion_orchestrator::{
    files::{ListFiles, NewFile},
    jobs::Order,
};
use fusion_types::{Call, Error, ErrorCode, Tenant, id::RequestId};
use futures::{StreamExt, stream};
use tokio::time::advance;

use crate::{
    batch_setup::{Setup, many, request},
    jobs_setup::call,
};

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_either_way() {
    let setup = Setup::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        let purpose = if n == 2 { "user_data" } else { "batch" };
        ids.push(setup.upload("text", purpose).await.to_string());
    }
    let list = async |params: ListFiles| {
        let page = setup.files.list(&call(), params).await.unwrap();
        let found: Vec<String> = page.data.iter().map(|file| file.id.to_string()).collect();
        assert_eq!(page.first_id.as_ref(), found.first());
        assert_eq!(page.last_id.as_ref(), found.last());
        (found, page.has_more)
    };
    let newest: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(list(ListFiles::default()).await, (newest.clone(), false));
    for (order, all) in [(Order::Desc, &newest), (Order::Asc, &ids)] {
        let page = |after| ListFiles {
            limit: Some(2),
            after,
            order: Some(order),
            purpose: None,
        };
        assert_eq!(list(page(None)).await, (all[..2].to_vec(), true));
        let next = page(Some(all[1].clone()));
        assert_eq!(list(next).await, (all[2..4].to_vec(), true));
        let last = page(Some(all[3].clone()));
        assert_eq!(list(last).await, (all[4..].to_vec(), false));
    }
    let of_users = ListFiles {
        purpose: Some("user_data".to_owned()),
        ..ListFiles::default()
    };
    assert_eq!(list(of_users).await, (vec![ids[2].clone()], false));
    let none = ListFiles {
        limit: Some(0),
        ..ListFiles::default()
    };
    let refused = setup.files.list(&call(), none).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidValue);
}

#[tokio::test(start_paused = true)]
async fn tenants_see_only_their_own() {
    let setup = Setup::new();
    let id = setup.upload("text", "batch").await;
    let other = Call::interactive(RequestId::generate(), Tenant::new("other"));
    let found = setup.files.get(&other, &id).await.unwrap_err();
    assert_eq!(found.code, ErrorCode::FileNotFound);
    let listed = setup
        .files
        .list(&other, ListFiles::default())
        .await
        .unwrap();
    assert!(listed.data.is_empty());
    let refused = setup
        .batches
        .create(&other, request(&id))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::FileNotFound);
}

#[tokio::test(start_paused = true)]
async fn what_expires_is_gone_then_swept() {
    let setup = Setup::new();
    let batch = setup.upload("text", "batch").await;
    let other = setup.upload("text", "user_data").await;
    advance(Duration::from_secs(30 * 24 * 3600)).await;
    let found = setup.files.get(&call(), &batch).await.unwrap_err();
    assert_eq!(found.code, ErrorCode::FileNotFound);
    assert_eq!(setup.blobs.count(), 2);
    assert_eq!(setup.files.sweep().await.unwrap(), 1);
    assert_eq!(setup.files.sweep().await.unwrap(), 0);
    assert_eq!(setup.blobs.count(), 1);
    setup.files.get(&call(), &other).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_input_outlives_its_time_while_it_is_read() {
    let setup = Setup::new();
    let text = many(3).into_bytes().into();
    let upload = setup.files.upload(stream::iter([Ok(text)]).boxed()).await;
    let new = NewFile {
        filename: "a".to_owned(),
        purpose: "batch".to_owned(),
        expires_after_seconds: Some(3600),
    };
    let file = setup.files.create(&call(), upload.unwrap(), new).await;
    let file = file.unwrap();
    assert_eq!(file.expires_at, Some(file.created_at + 3600));
    let id = setup
        .batches
        .create(&call(), request(&file.id))
        .await
        .unwrap()
        .id;
    advance(Duration::from_secs(3600)).await;
    assert_eq!(setup.files.sweep().await.unwrap(), 0);
    let setup = setup.start();
    let batch = setup.ended(&id).await;
    assert_eq!(setup.outcomes(&batch).await.0.len(), 3);
    advance(Duration::from_secs(3601)).await;
    assert_eq!(setup.files.sweep().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_an_upload_that_broke_off() {
    let setup = Setup::new();
    let broken = || stream::iter([Ok("abc".into()), Err(Error::internal("gone"))]).boxed();
    setup.files.upload(broken()).await.unwrap_err();
    setup.records.count("blob_ends", 0).await;
    // A server that dies between the bytes and the file.
    let kept = setup.files.upload(stream::iter([Ok("abc".into())]).boxed());
    drop(kept.await.unwrap());
    assert_eq!(setup.blobs.count(), 1);
    assert_eq!(setup.files.sweep().await.unwrap(), 0);
    advance(Duration::from_secs(2 * 3600)).await;
    assert_eq!(setup.files.sweep().await.unwrap(), 1);
    assert_eq!(setup.blobs.count(), 0);
    setup.records.count("blob_ends", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_with_a_purpose_that_is_none_is_not_kept() {
    let setup = Setup::new();
    for new in [
        ("homework", None),
        ("batch_output", None),
        ("batch", Some(1)),
    ] {
        let upload = setup.files.upload(stream::iter([Ok("abc".into())]).boxed());
        let new = NewFile {
            filename: "a".to_owned(),
            purpose: new.0.to_owned(),
            expires_after_seconds: new.1,
        };
        let refused = setup
            .files
            .create(&call(), upload.await.unwrap(), new)
            .await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::InvalidValue);
    }
    assert_eq!(setup.blobs.count(), 0);
}
