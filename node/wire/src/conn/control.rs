//! Frames about streams and the connection that carry nothing: windows, resets, settings, pings, leave.

use crate::code::Code;
use crate::error::Error;
use crate::flood::Flood;
use crate::frame::{self, Head, flag};
use crate::streams::{state, widened};

use super::blocks::parent;
use super::receive::{Cause, Event, Lent};
use super::send::LEAVE;
use super::{Conn, Leaving, Opening, Role};

/// Most streams that this end opens at once, whatever the peer takes.
const STREAMS_MAX: u32 = 1 << 16;

impl Conn {
    pub(super) fn read_window_update(
        &mut self,
        head: Head,
        payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let Ok(by) = <[u8; 4]>::try_from(payload) else {
            return Err(Error::frame_size("WINDOW_UPDATE has four bytes"));
        };
        let by = u32::from_be_bytes(by) & frame::WINDOW_MAX;
        self.spend(Flood::WindowUpdates, lent.now)?;
        if head.stream == 0 {
            if by == 0 {
                return Err(Error::protocol("a window is opened by nothing"));
            }
            self.send_window = widened(self.send_window, by)
                .ok_or(Error::flow_control("the connection's window exceeds 2^31-1"))?;
            return Ok(None);
        }
        if self.is_idle(head.stream) {
            return Err(Error::protocol("WINDOW_UPDATE came for a stream that nobody has opened"));
        }
        let Some(stream) = self.streams.find(head.stream) else { return Ok(None) };
        let Some(slot) = self.streams.get_mut(stream) else { return Ok(None) };
        if by == 0 {
            return self.reset_own(stream, Code::PROTOCOL_ERROR, "a window is opened by nothing", lent);
        }
        let Some(window) = widened(slot.send_window, by) else {
            return self.reset_own(
                stream,
                Code::FLOW_CONTROL_ERROR,
                "a stream's window exceeds 2^31-1",
                lent,
            );
        };
        slot.send_window = window;
        if window > 0 && slot.is(state::BLOCKED) {
            self.streams.line_up(stream);
        }
        Ok(None)
    }

    pub(super) fn read_reset(
        &mut self,
        head: Head,
        payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let Ok(code) = <[u8; 4]>::try_from(payload) else {
            return Err(Error::frame_size("RST_STREAM has four bytes"));
        };
        if self.is_idle(head.stream) {
            return Err(Error::protocol("RST_STREAM came for a stream that nobody has opened"));
        }
        let Some(stream) = self.streams.find(head.stream) else {
            return self.spend(Flood::Strays, lent.now).map(|()| None);
        };
        if self.role == Role::Server {
            self.spend(Flood::Resets, lent.now)?;
        }
        let Some(slot) = self.streams.remove(stream) else { return Ok(None) };
        let code = Code(u32::from_be_bytes(code));
        Ok(Some(Event::Reset { stream, token: slot.token, code, cause: Cause::Peer }))
    }

    pub(super) fn read_settings(
        &mut self,
        head: Head,
        payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        self.spend(Flood::Settings, lent.now)?;
        if head.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Error::frame_size("an answer to SETTINGS is empty"));
            }
            self.decoder.set_limit(self.config.decoder_table as usize);
            return Ok(None);
        }
        let before = self.peer;
        if self.opening != Opening::Done {
            self.opening = Opening::Done;
            self.peer.streams_max = STREAMS_MAX;
        }
        self.peer.read(payload, self.role == Role::Server)?;
        self.peer.streams_max = self.peer.streams_max.min(STREAMS_MAX);
        if self.peer.table_size != before.table_size {
            self.encoder.set_limit(self.peer.table_size as usize);
        }
        let by = i64::from(self.peer.window) - i64::from(before.window);
        if by != 0 && !self.streams.shift_windows(by) {
            return Err(Error::flow_control("SETTINGS make a stream's window exceed 2^31-1"));
        }
        frame::write_settings_ack(lent.out);
        Ok(Some(Event::Settings))
    }

    pub(super) fn read_ping(
        &mut self,
        head: Head,
        payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let Ok(bytes) = <[u8; 8]>::try_from(payload) else {
            return Err(Error::frame_size("PING has eight bytes"));
        };
        let payload = u64::from_be_bytes(bytes);
        self.spend(Flood::Pings, lent.now)?;
        if !head.has(flag::ACK) {
            frame::write_ping(payload, true, lent.out);
            return Ok(None);
        }
        if payload == LEAVE && self.leaving == Leaving::Asked {
            self.tell_leave(Code::NO_ERROR, lent.out);
            return Ok(None);
        }
        Ok(Some(Event::Pong(payload)))
    }

    pub(super) fn read_goaway<'a>(&mut self, payload: &'a [u8]) -> Result<Event<'a>, Error> {
        let (Some((last, rest)), true) = (payload.split_first_chunk::<4>(), payload.len() >= 8) else {
            return Err(Error::frame_size("GOAWAY has eight bytes at least"));
        };
        let (code, debug) = rest.split_at(4);
        let code = code.try_into().map_or(Code::NO_ERROR, |code| Code(u32::from_be_bytes(code)));
        let last = u32::from_be_bytes(*last) & frame::WINDOW_MAX;
        // It may only go down. A peer that raises it is not believed.
        let last = self.peer_last.map_or(last, |before| before.min(last));
        self.peer_last = Some(last);
        if self.role == Role::Client {
            self.sweep = Some(0);
        }
        Ok(Event::GoAway { last, code, debug })
    }

    pub(super) fn read_priority(
        &mut self,
        head: Head,
        payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        self.spend(Flood::Priorities, lent.now)?;
        let (code, rule) = match payload.try_into() {
            Ok(priority) if parent(priority) != head.stream => return Ok(None),
            Ok(_) => (Code::PROTOCOL_ERROR, "a stream depends on itself"),
            Err(_) => (Code::FRAME_SIZE_ERROR, "PRIORITY has five bytes"),
        };
        match self.streams.find(head.stream) {
            Some(stream) => self.reset_own(stream, code, rule, lent),
            // What is not open cannot be reset.
            None => Err(Error::Protocol { code, rule }),
        }
    }

    /// Names the last stream that this end answers.
    pub(super) fn tell_leave(&mut self, code: Code, out: &mut Vec<u8>) {
        let last = self.last_answered();
        frame::write_goaway(last, code, &[], out);
        self.leaving = Leaving::Told(last);
    }

    /// The longest frame to be sent.
    pub(super) const fn frame_max(&self) -> u32 {
        // Longer frames save little and make others wait.
        if self.peer.frame_max < SENT_MAX { self.peer.frame_max } else { SENT_MAX }
    }
}

/// The longest frame that this end sends.
const SENT_MAX: u32 = frame::LEN_MIN;
