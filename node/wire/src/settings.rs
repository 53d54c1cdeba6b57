//! SETTINGS (RFC 9113, section 6.5): what each end tells the other that it takes.

use crate::config::Config;
use crate::error::Error;
use crate::frame;

/// The size of a dynamic table until SETTINGS say otherwise.
pub(crate) const TABLE_SIZE: u32 = 4096;
/// The size of every window until SETTINGS or WINDOW_UPDATE say otherwise.
pub(crate) const WINDOW: u32 = 65_535;
/// Bytes of one setting.
const LEN: usize = 6;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// What the peer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) table_size: u32,
    pub(crate) streams_max: u32,
    pub(crate) window: u32,
    pub(crate) frame_max: u32,
    pub(crate) header_list_max: u32,
}

impl Settings {
    /// What holds until the peer's SETTINGS came.
    pub(crate) const fn assumed(config: &Config) -> Self {
        Self {
            table_size: TABLE_SIZE,
            streams_max: config.streams_assumed,
            window: WINDOW,
            frame_max: frame::LEN_MIN,
            header_list_max: u32::MAX,
        }
    }

    /// Takes over what a frame says; `may_push` is what the peer is allowed to say about pushing.
    pub(crate) fn read(&mut self, payload: &[u8], may_push: bool) -> Result<(), Error> {
        let (settings, rest) = payload.as_chunks::<LEN>();
        if !rest.is_empty() {
            return Err(Error::frame_size("SETTINGS come in six bytes each"));
        }
        for [id_1, id_0, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*id_1, *id_0]) {
                HEADER_TABLE_SIZE => self.table_size = value,
                ENABLE_PUSH if value > u32::from(may_push) => {
                    return Err(Error::protocol("ENABLE_PUSH is 0, or 1 if a client says it"));
                }
                MAX_CONCURRENT_STREAMS => self.streams_max = value,
                INITIAL_WINDOW_SIZE if value > frame::WINDOW_MAX => {
                    return Err(Error::flow_control("no window exceeds 2^31-1"));
                }
                INITIAL_WINDOW_SIZE => self.window = value,
                MAX_FRAME_SIZE if !(frame::LEN_MIN..=frame::LEN_MAX).contains(&value) => {
                    return Err(Error::protocol("MAX_FRAME_SIZE is from 2^14 to 2^24-1"));
                }
                MAX_FRAME_SIZE => self.frame_max = value,
                MAX_HEADER_LIST_SIZE => self.header_list_max = value,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Appends this end's SETTINGS. Those of a client forbid pushing.
pub(crate) fn write(config: &Config, is_client: bool, out: &mut Vec<u8>) {
    let second = match is_client {
        true => (ENABLE_PUSH, 0),
        false => (MAX_CONCURRENT_STREAMS, config.streams_max),
    };
    frame::write_settings(
        &[
            (HEADER_TABLE_SIZE, config.decoder_table),
            second,
            (INITIAL_WINDOW_SIZE, config.stream_window),
            (MAX_FRAME_SIZE, config.frame_max),
            (MAX_HEADER_LIST_SIZE, config.header_list_max),
        ],
        out,
    );
}
