//! Floods at both of the relay's listeners: who sends one loses its connection, and nobody else loses a call.

use std::time::Duration;

use proxy::Flood;

use super::backend::Service;
use super::raw::{
    CANCEL, CONTINUATION, DATA, Door, END_HEADERS, END_STREAM, Goodbye, HEADERS, PING, PRIORITY, RST_STREAM,
    Raw, SETTINGS, WINDOW_UPDATE, begin, call, frame,
};
use super::street::{Client, House, Street};
use crate::town::within;

const ENHANCE_YOUR_CALM: u32 = 11;

/// Two nodes, one that floods, and others at both of its listeners that do not.
struct Scene {
    street: Street,
    pi: House,
    nas: House,
    _tv: House,
    service: Service,
    /// Beside the one that floods outbound, and one of another node beside that which floods inbound.
    others: [Client; 2],
}

impl Scene {
    async fn start() -> Self {
        let (mut street, pi, nas, service) = Street::pair().await;
        let tv = street.house("tv", "web", None, "").await;
        let mut others = [pi.client().await, tv.client().await];
        for other in &mut others {
            other.echo(b"before").await.is_ok();
        }
        Self { street, pi, nas, _tv: tv, service, others }
    }

    /// `first`, then `n` times what `one` makes, end the connection at either listener and are counted, while others
    /// are answered. Its count rises by as much as `counted` says.
    async fn flood(
        &mut self,
        flood: Flood,
        n: u32,
        counted: [u64; 2],
        first: &[u8],
        one: fn(u32) -> Vec<u8>,
    ) {
        for (at, door) in Door::BOTH.into_iter().enumerate() {
            let house = door.of(&self.pi, &self.nas);
            let (ended, frames) = (house.handle.floods(flood), house.handle.frames(flood));
            let mut raw = Raw::over(door.connect(&self.street, &self.pi, &self.nas).await, &[]).await;
            raw.send(first).await.unwrap();
            let flooding = within(flood.name(), raw.flood(n, one));
            let told = beside(&mut self.others[at], flooding).await;
            assert_eq!(house.handle.floods(flood) - ended, 1, "{flood} {door:?}");
            if let Some(told) = told {
                assert_eq!(told, (ENHANCE_YOUR_CALM, flood.name().to_owned()), "{door:?}");
            }
            let came = house.handle.frames(flood) - frames;
            assert!((counted[0]..=counted[1]).contains(&came), "{came} {flood} {door:?}");
            self.pi.settles().await;
            self.nas.settles().await;
        }
    }
}

/// What comes of a flood, while a well-behaved client calls all the time and is always answered.
async fn beside(other: &mut Client, flooding: impl Future<Output = Goodbye>) -> Goodbye {
    let mut flooding = std::pin::pin!(flooding);
    loop {
        let call = other.echo(b"meanwhile");
        let (told, answer) =
            tokio::join!(tokio::time::timeout(Duration::from_millis(1), &mut flooding), call);
        answer.is_ok();
        if let Ok(told) = told {
            return told;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cost_nothing_end_the_connection_that_is_flooded_with_them() {
    let mut scene = Scene::start().await;
    scene.flood(Flood::Pings, 20_000, [10_000, 40_000], &[], |_| frame(PING, 0, 0, &[0; 8])).await;
    scene.flood(Flood::Settings, 1000, [100, 1000], &[], |_| frame(SETTINGS, 0, 0, &[])).await;
    scene.flood(Flood::Priorities, 5000, [1000, 5000], &[], |_| frame(PRIORITY, 0, 9, &[0; 5])).await;
    scene.flood(Flood::Unknown, 5000, [1000, 5000], &[], |_| frame(0x99, 0, 0, &[])).await;
    scene.flood(Flood::EmptyData, 5000, [1000, 5000], &begin(1, "Hang"), |_| frame(DATA, 0, 1, &[])).await;
    let one = |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(10);
    scene.flood(Flood::WindowUpdates, 30_000, [20_000, 300_000], &begin(1, "Hang"), one).await;
    let over = [begin(1, "Hang"), frame(RST_STREAM, 0, 1, &CANCEL)].concat();
    let one = |_| frame(RST_STREAM, 0, 1, &CANCEL).repeat(10);
    scene.flood(Flood::Strays, 30_000, [20_000, 300_000], &over, one).await;
}

/// A request that is over at once, one way or the other.
fn rapid(n: u32) -> Vec<u8> {
    [begin(2 * n + 1, "Hang"), frame(RST_STREAM, 0, 2 * n + 1, &CANCEL)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_at_once_are_bounded_and_end_the_connection_of_who_resets_them() {
    let mut scene = Scene::start().await;
    scene.flood(Flood::Resets, 60_000, [10_000, 60_000], &[], rapid).await;
    // Calls that this end has to reset cost the same.
    let broken = |n| [begin(2 * n + 1, "Hang"), frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat();
    scene.flood(Flood::Resets, 60_000, [10_000, 60_000], &[], broken).await;
    assert_eq!(scene.pi.handle.count(proxy::Count::ConnectionPanicked), 0);
    assert_eq!(scene.nas.handle.count(proxy::Count::ConnectionPanicked), 0);
    assert!(scene.service.seen.n() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_and_header_bombs_end_the_connection() {
    let mut scene = Scene::start().await;
    let begun = frame(HEADERS, END_STREAM, 1, &call("Hang", &[]));
    scene.flood(Flood::Continuations, 1000, [17, 17], &begun, |_| frame(CONTINUATION, 0, 1, &[])).await;
    // Few and large: 16 of these would be 256 KiB.
    let one = |_| frame(CONTINUATION, 0, 1, &[0x82; 16_000]);
    scene.flood(Flood::Continuations, 1000, [8, 9], &begun, one).await;
    // An entry of 4,000 bytes, then references to it: 16 KB that mean 64 MB.
    let mut first = call("Hang", &[]);
    first.extend([0x40, 1, b'a', 0x7f, 0xa1, 0x1e]);
    first.extend([b'x'; 4000]);
    let begun = frame(HEADERS, END_STREAM | END_HEADERS, 1, &first);
    let bomb = |n| {
        let block = [call("Hang", &[]), vec![0xbe; 16_000]].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 3, &block)
    };
    scene.flood(Flood::HeaderLists, 2000, [101, 400], &begun, bomb).await;
}
