//! What comes, held against the rules.

use std::sync::Arc;

use wire::Code;
use wire::frame::{self, HEAD_LEN, Head, flag, kind};
use wire::hpack::Fields;

use super::{CALL, End, Field};

impl End {
    /// Takes what came.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        if !self.has_preface && rest.len() >= frame::PREFACE.len() {
            rest = rest.strip_prefix(frame::PREFACE).expect("a client begins with the preface");
            self.has_preface = true;
        }
        while self.has_preface
            && let Some(head) = Head::read(rest)
            && let Some(payload) = rest.get(HEAD_LEN..HEAD_LEN + head.len as usize)
        {
            rest = &rest[HEAD_LEN + payload.len()..];
            self.on_frame(head, payload);
        }
        self.input = rest.to_vec();
    }

    fn on_frame(&mut self, head: Head, payload: &[u8]) {
        assert!(head.len <= frame::LEN_MIN);
        assert!(self.partial.is_none() || head.kind == kind::CONTINUATION);
        let number = || u32::from_be_bytes(payload[..4].try_into().unwrap());
        match head.kind {
            kind::DATA => self.on_data(head, payload),
            kind::HEADERS | kind::CONTINUATION => {
                let payload = if head.kind == kind::HEADERS { unpadded(head, payload) } else { payload };
                let payload = &payload[if head.has(flag::PRIORITY) { 5 } else { 0 }..];
                let is_end = head.has(flag::END_STREAM);
                let (id, is_end, mut block) =
                    self.partial.take().unwrap_or((head.stream, is_end, Vec::new()));
                assert_eq!(id, head.stream);
                block.extend_from_slice(payload);
                match head.has(flag::END_HEADERS) {
                    true => self.on_block(id, is_end, &block),
                    false => self.partial = Some((id, is_end, block)),
                }
            }
            kind::RST_STREAM => {
                if let Some(stream) = self.streams.get_mut(&head.stream) {
                    stream.seen.reset = Some(Code(number()));
                    self.end_if_done(head.stream);
                }
            }
            kind::SETTINGS if head.has(flag::ACK) => {
                let by = self.shrinking.pop_front().expect("as many as were sent");
                self.initial += by;
                self.streams.values_mut().for_each(|stream| stream.receive_window += by);
            }
            kind::SETTINGS => self.on_settings(payload),
            kind::PING if !head.has(flag::ACK) => {
                frame::write_ping(u64::from_be_bytes(payload.try_into().unwrap()), true, &mut self.out);
            }
            kind::WINDOW_UPDATE if head.stream == 0 => self.send_window += i64::from(number()),
            kind::WINDOW_UPDATE => {
                if let Some(stream) = self.streams.get_mut(&head.stream) {
                    stream.send_window += i64::from(number());
                }
            }
            kind::GOAWAY => assert!(!self.is_client, "{}", String::from_utf8_lossy(&payload[8..])),
            _ => {}
        }
    }

    fn on_settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks(6) {
            let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
            match u16::from_be_bytes(setting[..2].try_into().unwrap()) {
                3 => self.peer_streams = value as usize,
                4 => {
                    let by = i64::from(value) - self.peer_initial;
                    self.peer_initial = i64::from(value);
                    self.streams.values_mut().for_each(|stream| stream.send_window += by);
                }
                _ => {}
            }
        }
        frame::write_settings_ack(&mut self.out);
    }

    fn on_data(&mut self, head: Head, payload: &[u8]) {
        self.receive_window -= i64::from(head.len);
        assert!(self.receive_window >= 0, "it keeps within the connection's window");
        if !payload.is_empty() {
            self.unreleased.push((head.stream, payload.len()));
        }
        let payload = unpadded(head, payload);
        let Some(stream) = self.streams.get_mut(&head.stream) else { return };
        stream.receive_window -= i64::from(head.len);
        let call = stream.plan.id;
        // SETTINGS may have made it negative; then only empty frames come.
        let is_within = stream.receive_window >= 0 || head.len == 0;
        assert!(is_within, "call {call} keeps within its stream's window");
        assert!(!stream.seen.is_over && !stream.seen.lists.is_empty(), "call {call} has DATA in its place");
        stream.seen.body.extend_from_slice(payload);
        stream.seen.is_over = head.has(flag::END_STREAM);
        self.end_if_done(head.stream);
    }

    fn on_block(&mut self, id: u32, is_end: bool, block: &[u8]) {
        let mut fields = Fields::new();
        self.decoder.decode(block, usize::MAX, &mut fields).expect("it can be decoded");
        let owned = |field: wire::hpack::Field<'_>| Field {
            name: field.name.to_vec(),
            value: field.value.to_vec(),
            is_secret: field.is_never_indexed,
        };
        let list: Vec<Field> = fields.iter().map(owned).collect();
        if !self.is_client && id >= self.next_id {
            self.next_id = id + 2;
            let named = list.iter().find(|field| field.name == CALL).expect("a call that is planned");
            let call: u64 = std::str::from_utf8(&named.value).unwrap().parse().unwrap();
            let mut ledger = self.ledger.lock().unwrap();
            assert!(ledger.begun.insert(call), "call {call} is made once");
            let plan = Arc::clone(&ledger.plans[&call]);
            drop(ledger);
            self.begin(id, plan);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        assert!(!stream.seen.is_over, "call {} goes on after its end", stream.plan.id);
        stream.seen.lists.push((stream.seen.body.len(), list));
        stream.seen.is_over = is_end;
        self.end_if_done(id);
    }
}

/// What a frame carries, without its padding.
fn unpadded(head: Head, payload: &[u8]) -> &[u8] {
    match payload.split_first() {
        Some((padding, rest)) if head.has(flag::PADDED) => &rest[..rest.len() - usize::from(*padding)],
        _ => payload,
    }
}
