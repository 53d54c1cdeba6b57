//! Floods, each with a budget, and how generous the budgets are.

use super::Role;
use super::testing::{End, POST, block, data, fields, headers, post, raw};
use crate::code::Code;
use crate::config::Config;
use crate::error::Error;
use crate::flood::Flood;
use crate::frame::{flag, kind};

const END: u8 = flag::END_STREAM;

/// So many of these at once end the connection, and those before did not.
#[track_caller]
fn floods(flood: Flood, before: &[u8], one: impl Fn(u32) -> Vec<u8>) {
    let mut end = End::ready(Role::Server, Config::default());
    end.feed(before).expect("what comes before is fine");
    let burst = Config::default().floods.limit(flood).burst;
    for n in 0..burst * 3 {
        match end.feed(&one(n)) {
            Ok(_) => end.out.clear(),
            Err(err) => {
                assert_eq!(err, Error::Flood(flood));
                assert!(n + 2 >= burst, "after {n}");
                assert_eq!(end.codes().last(), Some(&(kind::GOAWAY, 0, Code::ENHANCE_YOUR_CALM)));
                return assert!(end.conn.take_counts().of(flood) >= u64::from(burst));
            }
        }
    }
    panic!("{flood} did not end the connection");
}

#[test]
fn floods_end_the_connection() {
    let cancel = [0, 0, 0, 8];
    floods(Flood::Resets, &[], |n| {
        [post(2 * n + 1, 0), raw(kind::RST_STREAM, 0, 2 * n + 1, &cancel)].concat()
    });
    // What makes this end reset streams costs the same.
    floods(Flood::Resets, &[], |n| {
        [post(2 * n + 1, 0), raw(kind::WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat()
    });
    floods(Flood::Resets, &[], |n| headers(2 * n + 1, END, &[]));
    floods(Flood::Pings, &[], |_| raw(kind::PING, 0, 0, &[0; 8]));
    floods(Flood::Settings, &[], |_| raw(kind::SETTINGS, 0, 0, &[]));
    floods(Flood::Priorities, &[], |_| raw(kind::PRIORITY, 0, 9, &[0; 5]));
    floods(Flood::Unknown, &[], |_| raw(0x99, 0, 0, &[]));
    floods(Flood::EmptyData, &post(1, 0), |_| data(1, 0, &[]));
    floods(Flood::EmptyData, &post(1, 0), |_| raw(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]));
    floods(Flood::WindowUpdates, &post(1, 0), |_| raw(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    floods(Flood::Strays, &[post(1, END), raw(kind::RST_STREAM, 0, 1, &cancel)].concat(), |_| {
        raw(kind::RST_STREAM, 0, 1, &cancel)
    });
}

#[test]
fn the_stream_that_is_one_too_many_is_not_forgotten() {
    let mut end = End::ready(Role::Server, Config::default());
    for n in 0..30_000 {
        end.feed(&post(2 * n + 1, 0)).expect("a request");
        match end.feed(&raw(kind::WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])) {
            Ok(told) => assert_eq!((told.len(), end.conn.n_streams()), (1, 0)),
            Err(_) => return assert_eq!(end.conn.n_streams(), 1, "its caller has not heard of its end"),
        }
        end.out.clear();
    }
    panic!("no end");
}

#[test]
fn continuations_end_the_connection() {
    let begin = raw(kind::HEADERS, END, 1, &[0x82]);
    let large = raw(kind::CONTINUATION, 0, 1, &[0x82; 16_000]);
    for more in [raw(kind::CONTINUATION, 0, 1, &[]).repeat(17), large.repeat(9)] {
        let mut end = End::ready(Role::Server, Config::default());
        end.feed(&begin).expect("a beginning");
        assert!(end.conn.is_amid_block());
        assert_eq!(end.feed(&more), Err(Error::Flood(Flood::Continuations)));
        assert_eq!(end.codes(), [(kind::GOAWAY, 0, Code::ENHANCE_YOUR_CALM)]);
    }
}

#[test]
fn header_bombs_end_the_connection() {
    // An entry of 4,000 bytes, then references to it.
    let mut first = block(&POST);
    first.extend([0x40, 1, b'a', 0x7f, 0xa1, 0x1e]);
    first.extend([b'x'; 4000]);
    let begin = raw(kind::HEADERS, END | flag::END_HEADERS, 1, &first);
    let bomb = [&block(&POST)[..], &[0xbe; 16_000]].concat();
    floods(Flood::HeaderLists, &begin, |n| {
        let id = 2 * n + 3;
        let request = raw(kind::HEADERS, END | flag::END_HEADERS, id, &bomb);
        [request, raw(kind::RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
    });
}

#[test]
fn budgets_grow_with_time_and_with_use() {
    let mut end = End::ready(Role::Server, Config::default());
    let ping = raw(kind::PING, 0, 0, &[0; 8]);
    for _ in 0..30 {
        end.feed(&ping.repeat(1000)).expect("a thousand a second are fine");
        end.pass(1000);
    }
    // A ping for each piece of a body, as those send who measure bandwidth.
    let mut end = End::ready(Role::Server, Config::default());
    end.feed(&post(1, 0)).expect("a request");
    let stream = end.stream(1);
    for _ in 0..50_000 {
        end.feed(&data(1, 0, b"a")).expect("a piece");
        end.feed(&ping).expect("a ping");
        end.conn.release(stream, 1, &mut end.out);
        end.out.clear();
    }
}

#[test]
fn calls_that_end_pay_for_calls_that_are_cancelled() {
    let mut end = End::ready(Role::Server, Config::default());
    let answer = fields(&[(":status", "200")]);
    for n in 0..50_000 {
        let id = 2 * n + 1;
        end.feed(&post(id, END)).expect("a call");
        if n % 2 == 0 {
            end.feed(&raw(kind::RST_STREAM, 0, id, &[0, 0, 0, 8])).expect("it is cancelled");
        } else {
            let stream = end.stream(id);
            end.conn.send_headers(stream, &answer, true, &mut end.out).expect("it is open");
        }
        end.out.clear();
    }
}

#[test]
fn interim_answers_without_end_end_the_connection() {
    let mut end = End::ready(Role::Client, Config::default());
    end.open(true);
    let interim = headers(1, 0, &[(":status", "103")]);
    let n = (0..2000).find(|_| end.feed(&interim) == Err(Error::Flood(Flood::Interim)));
    assert_eq!(n, Some(1000));
}
