//! Events: their order, how long they are kept, and cursors.

use std::collections::BTreeSet;

use store::Durability::{Batched, Durable};
use store::{Config, EVENTS_PER_READ_MAX, Handle, Seq, Store};
use types::event::Priority;

use crate::fixture::{Home, event, flush};

async fn tell(handle: &Handle, numbers: std::ops::Range<u64>, priority: Priority) {
    for n in numbers {
        handle.commit(Batched, vec![], vec![event(n, priority)]).await.expect("taken");
    }
    flush(handle).await;
}

#[tokio::test]
async fn events_come_back_as_they_went_in() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    let mut told = vec![event(1, Priority::Info), event(2, Priority::Notice), event(3, Priority::Audit)];
    told[1].data = serde_json::json!({ "text": "\u{0} \" é", "list": [null, 1.5] });
    handle.commit(Durable, vec![], told.clone()).await.expect("made");
    let stored = handle.events_after(Seq::default(), 10).await.expect("read");
    assert_eq!(stored.iter().map(|stored| stored.event.clone()).collect::<Vec<_>>(), told);
}

#[tokio::test]
async fn a_consumer_pages_through_all_events_from_its_cursor() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    tell(&handle, 0..2500, Priority::Notice).await;
    let mut read = Vec::new();
    loop {
        let cursor = handle.cursor("sink").await.expect("read");
        let page = handle.events_after(cursor, usize::MAX).await.expect("read");
        assert!(page.len() <= EVENTS_PER_READ_MAX);
        let Some(last) = page.last() else { break };
        handle.set_cursor("sink", last.seq).await.expect("taken");
        flush(&handle).await;
        read.extend(page.iter().map(|stored| stored.event.time.as_millis()));
    }
    assert!(read.into_iter().eq(0..2500));
}

#[tokio::test]
async fn each_consumer_has_a_cursor_of_its_own_that_outlives_the_process() {
    let home = Home::new();
    let store = home.open();
    store.handle().set_cursor("web", Seq(7)).await.expect("taken");
    store.handle().set_cursor("sink", Seq(9)).await.expect("taken");
    store.handle().set_cursor("sink", Seq(8)).await.expect("taken");
    store.close().await.expect("closed");
    let store = home.open();
    for (consumer, seq) in [("web", Seq(7)), ("sink", Seq(8)), ("new", Seq::default())] {
        assert_eq!(store.handle().cursor(consumer).await.expect("read"), seq, "{consumer}");
    }
}

#[tokio::test]
async fn old_info_and_notice_make_room_apart_and_audit_stays() {
    let home = Home::new();
    let config = Config { info_rows_max: 100, notice_rows_max: 150, ..home.config() };
    let store = Store::open(&config, &[]).expect("opens");
    let handle = store.handle();
    tell(&handle, 0..200, Priority::Audit).await;
    tell(&handle, 200..400, Priority::Notice).await;
    tell(&handle, 400..700, Priority::Info).await;
    store.close().await.expect("closed");

    // Counted afresh after a start, and kept to when many arrive at once.
    let store = Store::open(&config, &[]).expect("opens");
    let handle = store.handle();
    tell(&handle, 700..1200, Priority::Info).await;
    let stored = handle.events_after(Seq::default(), 1000).await.expect("read");
    let times: Vec<u64> = stored.iter().map(|stored| stored.event.time.as_millis()).collect();
    assert!(times.into_iter().eq((0..200).chain(250..400).chain(1100..1200)));
}

#[tokio::test]
async fn a_sequence_number_is_never_used_again() {
    let home = Home::new();
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        let store = home.open();
        let handle = store.handle();
        tell(&handle, round * 10..round * 10 + 10, Priority::Info).await;
        let latest = seen.last().copied().unwrap_or_default();
        let page = handle.events_after(latest, 100).await.expect("read");
        assert_eq!(page.len(), 10);
        for stored in page {
            assert!(stored.seq > latest && seen.insert(stored.seq));
        }
        // What pruning would do to the newest.
        let erase = store::Change::Execute { sql: "DELETE FROM events", params: vec![] };
        handle.commit(Durable, vec![erase], vec![]).await.expect("made");
        store.close().await.expect("closed");
    }
}
