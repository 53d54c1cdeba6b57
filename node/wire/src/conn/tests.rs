//! Each rule of RFC 9113: bytes in; event, code or silence out.

use super::testing::{End, POST, Told, block, data, fields, headers, opening, post, raw, request};
use super::{Conn, Role};
use crate::code::Code;
use crate::config::Config;
use crate::error::SendError;
use crate::flood::Flood;
use crate::frame::{self, PREFACE, flag, kind};
use crate::{Cause, Message};

const END: u8 = flag::END_STREAM;

/// `input` after `before`, which is fine, ends the connection with a code.
#[track_caller]
fn kills(role: Role, before: &[u8], input: &[u8], code: Code) {
    let mut end = End::ready(role, Config::default());
    if role == Role::Client {
        end.open(false);
    }
    end.feed(before).expect("what comes before is fine");
    end.out.clear();
    let err = end.feed(input).expect_err("it breaks a rule");
    assert_eq!(err.code(), code, "{err}");
    assert_eq!(end.codes().last(), Some(&(kind::GOAWAY, 0, code)));
    assert_eq!(end.feed(&[]), Err(err));
    assert!(end.out.is_empty());
}

/// `input` after `before`, which is fine, ends stream 1 with a code, and nothing else.
#[track_caller]
fn resets(role: Role, before: &[u8], input: &[u8], code: Code) {
    let mut end = End::ready(role, Config::default());
    if role == Role::Client {
        end.open(false);
    }
    end.feed(before).expect("what comes before is fine");
    end.out.clear();
    let told = end.feed(input).expect("the connection goes on");
    assert_eq!(end.codes(), [(kind::RST_STREAM, 1, code)]);
    for event in told {
        assert!(matches!(event, Told::Reset(1, it, Cause::Rule(_)) if it == code), "{event:?}");
    }
    assert_eq!(end.conn.n_streams(), 0);
    assert_eq!(end.feed(&raw(kind::PING, 0, 0, &[7; 8])), Ok(Vec::new()));
    assert_eq!(end.out, raw(kind::PING, flag::ACK, 0, &[7; 8]));
}

/// Nothing but these events comes of `input`, and no stream is reset.
#[track_caller]
fn tells(role: Role, before: &[u8], input: &[u8], expected: &[Told]) -> End {
    let mut end = End::ready(role, Config::default());
    if role == Role::Client {
        end.open(false);
    }
    end.feed(before).expect("what comes before is fine");
    end.out.clear();
    assert_eq!(end.feed(input).as_deref(), Ok(expected));
    let out = end.out.clone();
    assert_eq!(end.codes(), []);
    end.out = out;
    end
}

#[test]
fn a_client_begins_with_the_preface_and_settings() {
    let mut end = End::fresh(Role::Server, Config::default());
    for byte in opening(Role::Server) {
        // The preface is used byte by byte, a frame only when it is whole.
        let mut input = vec![byte];
        if end.conn.opening == super::Opening::Settings {
            input = raw(kind::SETTINGS, 0, 0, &[]);
        }
        end.feed(&input).expect("it is right");
        if end.conn.is_ready() {
            break;
        }
    }
    assert!(end.conn.is_ready());
    for wrong in [&b"GET / HTTP/1.1\r\n"[..], &PREFACE[..23]] {
        let mut end = End::fresh(Role::Server, Config::default());
        let told = end.feed(&[wrong, b"x"].concat());
        assert_eq!(told.map_err(|err| err.code()), Err(Code::PROTOCOL_ERROR));
    }
    let ack = raw(kind::SETTINGS, flag::ACK, 0, &[]);
    for first in [raw(kind::PING, 0, 0, &[0; 8]), post(1, END), data(1, 0, b"a"), ack] {
        let mut end = End::fresh(Role::Server, Config::default());
        let told = end.feed(&[&PREFACE[..], &first].concat());
        assert_eq!(told.map_err(|err| err.code()), Err(Code::PROTOCOL_ERROR));
    }
}

#[test]
fn frames_have_bounds() {
    let long = frame::LEN_MIN as usize + 1;
    kills(Role::Server, &post(1, 0), &data(1, 0, &vec![0; long]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::HEADERS, 4, 1, &vec![0; long]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::PING, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::SETTINGS, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &post(1, 0), &raw(kind::RST_STREAM, 0, 1, &[0; 3]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::WINDOW_UPDATE, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::GOAWAY, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &post(1, 0), &raw(kind::DATA, flag::PADDED, 1, &[]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::HEADERS, flag::PADDED, 1, &[]), Code::FRAME_SIZE_ERROR);
    kills(Role::Server, &[], &raw(kind::HEADERS, flag::PRIORITY, 1, &[0; 4]), Code::FRAME_SIZE_ERROR);
    resets(Role::Server, &post(1, 0), &raw(kind::PRIORITY, 0, 1, &[0; 4]), Code::FRAME_SIZE_ERROR);
}

#[test]
fn frames_are_for_the_connection_or_for_a_stream() {
    for kind in [kind::DATA, kind::HEADERS, kind::PRIORITY, kind::RST_STREAM, kind::CONTINUATION] {
        kills(Role::Server, &[], &raw(kind, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR);
    }
    for kind in [kind::SETTINGS, kind::PING, kind::GOAWAY] {
        kills(Role::Server, &post(1, 0), &raw(kind, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR);
    }
    kills(Role::Server, &post(1, 0), &raw(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), Code::PROTOCOL_ERROR);
    kills(Role::Client, &[], &raw(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), Code::PROTOCOL_ERROR);
}

#[test]
fn padding_is_taken_off_and_bounded() {
    let padded = raw(kind::DATA, flag::PADDED | END, 1, &[&[3][..], b"body", &[0; 3]].concat());
    tells(Role::Server, &post(1, 0), &padded, &[Told::Data(1, b"body".to_vec(), true)]);
    let padded = [&[2][..], &block(&POST), &[0; 2]].concat();
    let request = raw(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 1, &padded);
    tells(Role::Server, &[], &request, &[Told::Headers(1, Message::Request, false)]);
    kills(Role::Server, &post(1, 0), &raw(kind::DATA, flag::PADDED, 1, &[4, 0, 0, 0]), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &raw(kind::HEADERS, flag::PADDED | 4, 1, &[4, 0, 0, 0]), Code::PROTOCOL_ERROR);
    let all = raw(kind::DATA, flag::PADDED | END, 1, &[3, 0, 0, 0]);
    tells(Role::Server, &post(1, 0), &all, &[Told::Data(1, Vec::new(), true)]);
}

#[test]
fn idle_streams_take_headers_only() {
    kills(Role::Server, &[], &data(1, END, b"a"), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &raw(kind::RST_STREAM, 0, 1, &[0; 4]), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &raw(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &raw(kind::CONTINUATION, 4, 1, &[0x82]), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &post(2, 0), Code::PROTOCOL_ERROR);
    kills(Role::Client, &[], &headers(3, 0, &[(":status", "200")]), Code::PROTOCOL_ERROR);
    kills(Role::Client, &[], &headers(2, 0, &[(":status", "200")]), Code::PROTOCOL_ERROR);
    kills(Role::Client, &[], &data(3, 0, b"a"), Code::PROTOCOL_ERROR);
    tells(Role::Server, &[], &raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), &[]);
}

#[test]
fn half_closed_streams_take_no_more() {
    resets(Role::Server, &post(1, END), &data(1, END, b"a"), Code::STREAM_CLOSED);
    resets(Role::Server, &post(1, END), &post(1, END), Code::STREAM_CLOSED);
    kills(Role::Server, &post(1, END), &raw(kind::CONTINUATION, 4, 1, &[0x82]), Code::PROTOCOL_ERROR);
    let window = raw(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]);
    tells(Role::Server, &post(1, END), &window, &[]);
}

#[test]
fn closed_streams_take_nothing() {
    let cancelled = [post(1, 0), raw(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat();
    resets(Role::Server, &cancelled, &data(1, 0, b"a"), Code::STREAM_CLOSED);
    kills(Role::Server, &cancelled, &post(1, END), Code::STREAM_CLOSED);
    // Streams that were passed over are closed, too.
    kills(Role::Server, &post(5, END), &post(3, END), Code::STREAM_CLOSED);
    for frame in [raw(kind::RST_STREAM, 0, 1, &[0; 4]), raw(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])] {
        tells(Role::Server, &cancelled, &frame, &[]);
    }
}

#[test]
fn what_was_on_its_way_when_a_stream_was_reset_is_dropped() {
    let mut end = End::ready(Role::Server, Config::default());
    end.feed(&post(1, 0)).expect("a request");
    let stream = end.stream(1);
    end.conn.reset(stream, Code::CANCEL, &mut end.out);
    assert_eq!(end.codes(), [(kind::RST_STREAM, 1, Code::CANCEL)]);
    end.conn.reset(stream, Code::CANCEL, &mut end.out);
    let late = [data(1, 0, b"late"), headers(1, END, &[("a", "b")])].concat();
    assert_eq!(end.feed(&late), Ok(Vec::new()));
    assert_eq!(end.codes(), []);
    assert_eq!(end.conn.take_counts().of(Flood::Strays), 2);
    assert_eq!(end.conn.released, 4);
}

#[test]
fn a_block_is_not_interrupted() {
    let begin = raw(kind::HEADERS, END, 1, &block(&POST)[..3]);
    for between in [
        raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]),
        raw(kind::PING, 0, 0, &[0; 8]),
        raw(0x16, 0, 0, &[]),
        post(3, END),
        data(1, 0, b"a"),
        raw(kind::CONTINUATION, 4, 3, &[0x82]),
    ] {
        kills(Role::Server, &begin, &between, Code::PROTOCOL_ERROR);
    }
    let rest = block(&POST).split_off(3);
    let go_on = [
        raw(kind::CONTINUATION, 0, 1, &rest[..1]),
        raw(kind::CONTINUATION, 0, 1, &[]),
        raw(kind::CONTINUATION, flag::END_HEADERS, 1, &rest[1..]),
    ];
    tells(Role::Server, &begin, &go_on.concat(), &[Told::Headers(1, Message::Request, true)]);
    kills(Role::Server, &[begin, go_on.concat()].concat(), &go_on[2], Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &raw(kind::HEADERS, 4, 1, &[0x80]), Code::COMPRESSION_ERROR);
}

#[test]
fn settings_are_checked() {
    #[track_caller]
    fn check(role: Role, id: u8, value: u32, code: Code) {
        let payload = [&[0, id][..], &value.to_be_bytes()].concat();
        kills(role, &[], &raw(kind::SETTINGS, 0, 0, &payload), code);
    }
    check(Role::Server, 2, 2, Code::PROTOCOL_ERROR);
    check(Role::Client, 2, 1, Code::PROTOCOL_ERROR);
    check(Role::Server, 4, 1 << 31, Code::FLOW_CONTROL_ERROR);
    check(Role::Server, 5, (1 << 14) - 1, Code::PROTOCOL_ERROR);
    check(Role::Server, 5, 1 << 24, Code::PROTOCOL_ERROR);
    let fine = [0, 0x99, 1, 2, 3, 4, 0, 2, 0, 0, 0, 1, 0, 3, 0, 0, 0, 7];
    let end = tells(Role::Server, &[], &raw(kind::SETTINGS, 0, 0, &fine), &[Told::Settings]);
    assert_eq!(end.out, raw(kind::SETTINGS, flag::ACK, 0, &[]));
    tells(Role::Server, &[], &raw(kind::SETTINGS, flag::ACK, 0, &[]), &[]);
}

#[test]
fn windows_are_checked() {
    let update = |stream, by: u32| raw(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    kills(Role::Server, &[], &update(0, 0), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &update(0, 1 << 31), Code::PROTOCOL_ERROR);
    kills(Role::Server, &[], &update(0, (1 << 31) - 1), Code::FLOW_CONTROL_ERROR);
    resets(Role::Server, &post(1, 0), &update(1, 0), Code::PROTOCOL_ERROR);
    resets(Role::Server, &post(1, 0), &update(1, (1 << 31) - 1), Code::FLOW_CONTROL_ERROR);
    let largest = raw(kind::SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    kills(Role::Server, &[post(1, 0), update(1, 1)].concat(), &largest, Code::FLOW_CONTROL_ERROR);
    // More than this end has room for: on a stream, and on all of them.
    let much = data(1, 0, &[0; 16_000]).repeat(17);
    let mut end = End::ready(Role::Server, Config::default());
    end.feed(&post(1, 0)).expect("a request");
    let told = end.feed(&much).expect("the connection goes on");
    assert!(matches!(told.last(), Some(Told::Reset(1, Code::FLOW_CONTROL_ERROR, Cause::Rule(_)))));
    let config = Config { connection_window: 65_535, ..Config::default() };
    let mut end = End::ready(Role::Server, config);
    end.feed(&post(1, 0)).expect("a request");
    let err = end.feed(&data(1, 0, &[0; 16_000]).repeat(5)).expect_err("it is too much");
    assert_eq!(err.code(), Code::FLOW_CONTROL_ERROR);
}

#[test]
fn a_stream_does_not_depend_on_itself() {
    resets(Role::Server, &post(1, 0), &raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 9]), Code::PROTOCOL_ERROR);
    let with = [&[0x80, 0, 0, 1, 9][..], &block(&POST)].concat();
    resets(Role::Server, &[], &raw(kind::HEADERS, flag::PRIORITY | 4, 1, &with), Code::PROTOCOL_ERROR);
    let with = [&[0x80, 0, 0, 3, 9][..], &block(&POST)].concat();
    let request = raw(kind::HEADERS, flag::PRIORITY | 4, 1, &with);
    tells(Role::Server, &[], &request, &[Told::Headers(1, Message::Request, false)]);
}

#[test]
fn malformed_messages_are_reset() {
    let with = |more: &[(&'static str, &'static str)]| headers(1, 0, &[&POST[..], more].concat());
    for bad in [
        with(&[("Upper", "a")]),
        with(&[("a b", "c")]),
        with(&[("", "c")]),
        with(&[(":unknown", "a")]),
        with(&[("a", "b\r\nc")]),
        with(&[("a", " b")]),
        with(&[("connection", "close")]),
        with(&[("te", "gzip")]),
        with(&[("content-length", "x")]),
        with(&[(":status", "200")]),
        headers(1, 0, &POST[..2]),
        headers(1, 0, &[]),
        headers(1, END, &[&POST[..], &[("content-length", "4")]].concat()),
    ] {
        resets(Role::Server, &[], &bad, Code::PROTOCOL_ERROR);
    }
    for bad in [
        headers(1, 0, &[]),
        headers(1, 0, &[(":status", "2000")]),
        headers(1, 0, &[(":status", "101")]),
        headers(1, END, &[(":status", "100")]),
        headers(1, END, &[(":status", "200"), ("content-length", "4")]),
        headers(1, 0, &[(":status", "200"), (":path", "/")]),
        data(1, 0, b"before any fields"),
    ] {
        resets(Role::Client, &[], &bad, Code::PROTOCOL_ERROR);
    }
    resets(Role::Server, &post(1, 0), &headers(1, 0, &[("a", "b")]), Code::PROTOCOL_ERROR);
    resets(Role::Server, &post(1, 0), &headers(1, END, &[(":path", "/")]), Code::PROTOCOL_ERROR);
}

#[test]
fn bodies_are_as_long_as_they_say() {
    let request = headers(1, 0, &[&POST[..], &[("content-length", "4")]].concat());
    let told = [Told::Data(1, b"ab".to_vec(), false), Told::Data(1, b"cd".to_vec(), true)];
    tells(Role::Server, &request, &[data(1, 0, b"ab"), data(1, END, b"cd")].concat(), &told);
    resets(Role::Server, &request, &data(1, END, b"ab"), Code::PROTOCOL_ERROR);
    resets(Role::Server, &request, &data(1, 0, b"abcde"), Code::PROTOCOL_ERROR);
    resets(Role::Server, &request, &headers(1, END, &[("a", "b")]), Code::PROTOCOL_ERROR);
    let mut end = End::ready(Role::Client, Config::default());
    let head = fields(&[(":method", "HEAD"), (":scheme", "http"), (":path", "/")]);
    end.conn.open(0, &head, true, &mut end.out).expect("there is room");
    let answer = headers(1, END, &[(":status", "200"), ("content-length", "4")]);
    assert_eq!(end.feed(&answer), Ok(vec![Told::Headers(1, Message::Response { status: 200 }, true)]));
    let answer = headers(1, END, &[(":status", "304"), ("content-length", "4")]);
    tells(Role::Client, &[], &answer, &[Told::Headers(1, Message::Response { status: 304 }, true)]);
}

#[test]
fn a_call_goes_through() {
    let mut end = End::ready(Role::Client, Config::default());
    let stream = end.open(false);
    let n = end.conn.send_data(end.now, stream, b"question", true, &mut end.out);
    assert_eq!(n, Ok(8));
    assert_eq!(end.conn.send_data(end.now, stream, b"more", true, &mut end.out), Err(SendError::Ended));
    let answer = [
        headers(1, 0, &[(":status", "103")]),
        headers(1, 0, &[(":status", "200")]),
        data(1, 0, b"answer"),
        headers(1, END, &[("grpc-status", "0")]),
    ];
    let told = vec![
        Told::Headers(1, Message::Interim { status: 103 }, false),
        Told::Headers(1, Message::Response { status: 200 }, false),
        Told::Data(1, b"answer".to_vec(), false),
        Told::Headers(1, Message::Trailers, true),
    ];
    assert_eq!(end.feed(&answer.concat()), Ok(told));
    assert_eq!(end.conn.n_streams(), 0);
    assert!(!end.conn.is_open(stream));
    assert_eq!(end.conn.send_headers(stream, &request(), true, &mut end.out), Err(SendError::Gone));
}

#[test]
fn data_is_told_as_it_comes() {
    let mut end = End::ready(Role::Server, Config::default());
    end.feed(&post(1, 0)).expect("a request");
    let frame = data(1, END, b"0123456789");
    assert_eq!(end.feed(&frame[..13]), Ok(vec![Told::Data(1, b"0123".to_vec(), false)]));
    assert_eq!(end.feed(&frame[13..18]), Ok(vec![Told::Data(1, b"45678".to_vec(), false)]));
    assert_eq!(end.feed(&frame[18..]), Ok(vec![Told::Data(1, b"9".to_vec(), true)]));
}

#[test]
fn streams_beyond_the_bound_are_refused() {
    let mut end = End::ready(Role::Server, Config { streams_max: 2, ..Config::default() });
    let told = end.feed(&[post(1, 0), post(3, END), post(5, 0)].concat()).expect("the connection goes on");
    assert_eq!(told.len(), 2);
    assert_eq!(end.codes(), [(kind::RST_STREAM, 5, Code::REFUSED_STREAM)]);
    // Its body was on its way.
    assert_eq!(end.feed(&data(5, END, b"late")), Ok(Vec::new()));
    let mut end = End::ready(Role::Client, Config::default());
    let few = raw(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
    end.feed(&few).expect("settings");
    end.open(true);
    assert!(!end.conn.has_room());
    assert_eq!(end.conn.open(0, &request(), true, &mut end.out), Err(SendError::Full));
    end.feed(&headers(1, END, &[(":status", "200")])).expect("an answer");
    assert!(end.conn.has_room());
}

#[test]
fn a_server_takes_leave_in_two_steps() {
    let mut end = End::ready(Role::Server, Config::default());
    end.feed(&post(1, 0)).expect("a request");
    end.conn.leave(&mut end.out);
    let (goaway, ping) = (end.written(), raw(kind::PING, flag::ACK, 0, &super::send::LEAVE.to_be_bytes()));
    assert_eq!(goaway[0].1[..4], frame::WINDOW_MAX.to_be_bytes());
    end.feed(&post(3, 0)).expect("it was on its way");
    assert_eq!(end.feed(&ping), Ok(Vec::new()));
    assert_eq!(end.written()[0].1[..4], 3_u32.to_be_bytes());
    assert_eq!(end.feed(&post(5, END)), Ok(Vec::new()));
    assert_eq!(end.codes(), [(kind::RST_STREAM, 5, Code::REFUSED_STREAM)]);
    assert!(end.conn.is_closing() && !end.conn.is_drained());
    for id in [1, 3] {
        end.conn.reset(end.stream(id), Code::CANCEL, &mut end.out);
    }
    assert!(end.conn.is_drained());
}

#[test]
fn streams_that_a_server_will_not_answer_are_told() {
    let mut end = End::ready(Role::Client, Config::default());
    for _ in 0..3 {
        end.open(true);
    }
    let goaway = raw(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0, b'h', b'i']);
    let unseen = |id| Told::Reset(id, Code::REFUSED_STREAM, Cause::GoAway);
    assert_eq!(end.feed(&goaway), Ok(vec![Told::GoAway(1, Code::NO_ERROR), unseen(3), unseen(5)]));
    assert_eq!(end.conn.open(0, &request(), true, &mut end.out), Err(SendError::Closed));
    end.feed(&headers(1, END, &[(":status", "200")])).expect("the first is answered");
    assert_eq!(end.conn.n_streams(), 0);
    end.conn.leave(&mut end.out);
    assert!(end.conn.is_drained());
}

#[test]
fn lists_that_are_too_long_can_be_answered() {
    let value = "x".repeat(8000);
    let long: Vec<_> = POST.into_iter().chain([("a", &value[..]); 5]).collect();
    let block = block(&long);
    let pieces: Vec<_> = block.chunks(16_000).collect();
    let request = [
        raw(kind::HEADERS, END, 1, pieces[0]),
        raw(kind::CONTINUATION, 0, 1, pieces[1]),
        raw(kind::CONTINUATION, flag::END_HEADERS, 1, pieces[2]),
    ];
    let mut end = tells(Role::Server, &[], &request.concat(), &[Told::TooLarge(1, true)]);
    let stream = end.stream(1);
    let answer = fields(&[(":status", "431")]);
    assert_eq!(end.conn.send_headers(stream, &answer, true, &mut end.out), Ok(()));
    assert_eq!(end.conn.n_streams(), 0);
    assert_eq!(end.conn.take_counts().of(Flood::HeaderLists), 1);
    resets(Role::Client, &[], &request.concat(), Code::ENHANCE_YOUR_CALM);
}

#[test]
fn an_idle_connection_costs_little() {
    let mut end = End::ready(Role::Server, Config::default());
    assert!(size_of::<Conn>() <= 1024, "{}", size_of::<Conn>());
    assert!(end.conn.memory() <= 1024);
    let answer = fields(&[(":status", "200"), ("content-type", "application/grpc")]);
    let mut encoder = crate::hpack::Encoder::new(4096);
    for n in 0..100 {
        let mut call = raw(kind::HEADERS, END | flag::END_HEADERS, 2 * n + 1, &[]);
        encoder.encode(&fields(&[&POST[..], &[("te", "trailers")]].concat()), &mut call);
        let len = call.len() - frame::HEAD_LEN;
        call[2] = u8::try_from(len).expect("short");
        end.feed(&call).expect("a call");
        let stream = end.stream(2 * n + 1);
        end.conn.send_headers(stream, &answer, true, &mut end.out).expect("it is open");
        end.out.clear();
    }
    let used = end.conn.memory();
    end.conn.shrink();
    assert!(used <= 4096 && end.conn.memory() <= 1536, "{used}, then {}", end.conn.memory());
}
