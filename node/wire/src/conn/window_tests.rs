//! Windows: what waits for them, and how they are given back.

use std::time::Duration;

use super::Role;
use super::testing::{End, Told, data, post, raw};
use crate::code::Code;
use crate::config::Config;
use crate::frame::{flag, kind};

const END: u8 = flag::END_STREAM;

#[test]
fn what_no_window_is_open_for_waits_in_line() {
    let mut end = End::ready(Role::Client, Config::default());
    let (one, two) = (end.open(false), end.open(false));
    let body = vec![0; 40_000];
    assert_eq!(end.conn.send_data(end.now, one, &body, false, &mut end.out), Ok(40_000));
    assert_eq!(end.conn.send_data(end.now, two, &body, true, &mut end.out), Ok(25_535));
    assert_eq!(end.conn.send_data(end.now, one, b"x", true, &mut end.out), Ok(0));
    end.pass(5000);
    let stalled: Vec<_> = end.conn.stalled(end.now, Duration::from_secs(4)).collect();
    assert_eq!(stalled, [(one, 9), (two, 9)]);
    assert_eq!(end.conn.stalled(end.now, Duration::from_secs(6)).count(), 0);
    let update = |stream, by: u32| raw(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    assert_eq!(end.feed(&update(1, 9)), Ok(Vec::new()));
    let told = end.feed(&update(0, 20_000)).expect("a window");
    assert_eq!(told, [Told::WindowOpened(3), Told::WindowOpened(1)]);
    end.out.clear();
    assert_eq!(end.conn.send_data(end.now, two, &body[25_535..], true, &mut end.out), Ok(14_465));
    assert_eq!(end.conn.send_data(end.now, one, b"x", true, &mut end.out), Ok(1));
    assert_eq!(end.conn.stalled(end.now, Duration::ZERO).count(), 0);
    let ends: Vec<_> = end.written().iter().map(|(head, _)| (head.stream, head.len, head.flags)).collect();
    assert_eq!(ends, [(3, 14_465, END), (1, 1, END)]);
}

#[test]
fn windows_may_go_below_zero() {
    let mut end = End::ready(Role::Client, Config::default());
    let stream = end.open(false);
    assert_eq!(end.conn.send_data(end.now, stream, &[0; 1000], false, &mut end.out), Ok(1000));
    let set = |window: u32| raw(kind::SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
    end.feed(&set(100)).expect("settings");
    assert_eq!(end.conn.send_data(end.now, stream, b"abc", true, &mut end.out), Ok(0));
    assert_eq!(end.feed(&raw(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 3, 132])), Ok(Vec::new()));
    assert_eq!(end.feed(&set(102)), Ok(vec![Told::Settings, Told::WindowOpened(1)]));
    assert_eq!(end.conn.send_data(end.now, stream, b"abc", true, &mut end.out), Ok(2));
}

#[test]
fn windows_are_given_back_by_halves() {
    let config = Config { stream_window: 65_535, connection_window: 100_000, ..Config::default() };
    let mut end = End::ready(Role::Server, config);
    end.feed(&post(1, 0)).expect("a request");
    end.feed(&data(1, 0, &[0; 10_000]).repeat(6)).expect("a body");
    let stream = end.stream(1);
    end.conn.release(stream, 30_000, &mut end.out);
    assert!(end.out.is_empty());
    end.conn.release(stream, 10_000, &mut end.out);
    assert_eq!(end.out, raw(kind::WINDOW_UPDATE, 0, 1, &40_000_u32.to_be_bytes()));
    end.out.clear();
    // What is released twice counts once, and what is over counts for the connection.
    end.conn.reset(stream, Code::CANCEL, &mut end.out);
    end.out.clear();
    end.conn.release(stream, 1 << 40, &mut end.out);
    assert_eq!(end.out, raw(kind::WINDOW_UPDATE, 0, 0, &60_000_u32.to_be_bytes()));
}

#[test]
fn what_is_lent_opens_the_connections_window_and_is_repaid() {
    let config = Config { stream_window: 65_535, connection_window: 100_000, ..Config::default() };
    let mut end = End::ready(Role::Server, config);
    let body = data(1, 0, &[0; 10_000]);
    end.feed(&[post(1, 0), body.repeat(2)].concat()).expect("a body");
    assert!(!end.conn.is_pressed());
    end.feed(&body.repeat(4)).expect("a body");
    assert!(end.conn.is_pressed());
    end.conn.lend(&mut end.out);
    assert_eq!(end.out, raw(kind::WINDOW_UPDATE, 0, 0, &60_000_u32.to_be_bytes()));
    end.out.clear();
    end.conn.lend(&mut end.out);
    assert!(end.out.is_empty() && !end.conn.is_pressed());
    // The stream may send no more for that, others may.
    let more = [post(3, 0), data(3, 0, &[0; 10_000]).repeat(6)].concat();
    end.feed(&more).expect("another body");
    let (first, second) = (end.stream(1), end.stream(3));
    // What others sent is given back whoever owes.
    end.conn.reset(second, Code::CANCEL, &mut end.out);
    end.out.clear();
    end.conn.release(second, 60_000, &mut end.out);
    assert_eq!(end.out, raw(kind::WINDOW_UPDATE, 0, 0, &60_000_u32.to_be_bytes()));
    end.out.clear();
    end.conn.release(first, 60_000, &mut end.out);
    assert_eq!(end.out, raw(kind::WINDOW_UPDATE, 0, 1, &60_000_u32.to_be_bytes()));
    assert_eq!((end.conn.held, end.conn.lent, end.conn.released), (0, 0, 0));
}
