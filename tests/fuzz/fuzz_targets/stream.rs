//! Messages on a stream of the mesh: what is read was sent, and memory grows with what came, whatever was announced.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;

const LEN_MAX: usize = 1 << 20;
/// What reading may take beyond the message: a buffer that grows is twice as large at most.
const SPARE_BYTES_MAX: usize = 64;

fuzz_target!(
    init: sagemesh_fuzz::seed::write([b"\0\0\0\x03one\0\0\0\0".as_slice(), b"\0\x10\0\0short", b"\xff\xff\xff\xff"]),
    |bytes: &[u8]| {
        let mut rest = bytes;
        loop {
            let before = rest;
            match read(&mut rest) {
                Ok(Some(message)) => {
                    assert!(message.capacity() <= 2 * message.len() + SPARE_BYTES_MAX);
                    let len = u32::try_from(message.len()).expect("it is below the bound").to_be_bytes();
                    assert_eq!([len.as_slice(), &message, rest].concat(), before);
                }
                Ok(None) => return assert!(before.len() < 4),
                Err(err) => {
                    let len = before.first_chunk().map(|len| u32::from_be_bytes(*len) as usize);
                    let is_beyond = len.is_some_and(|len| len > LEN_MAX);
                    assert_eq!(is_beyond, err.kind() == std::io::ErrorKind::InvalidData);
                    return assert!(is_beyond || len.is_some_and(|len| before.len() - 4 < len));
                }
            }
        }
    }
);

fn read(from: &mut &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    match pin!(mesh::fuzz::frame(from, LEN_MAX)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => unreachable!("memory keeps nobody waiting"),
    }
}
