//! Frames of RFC 6455, section 5.2, as far as an echo needs them.

use bytes::{Buf, BytesMut};

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The longest payload whose length stands in the second byte; ours are all shorter.
const SHORT: usize = 125;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Text,
    Close,
    Ping,
    Other(u8),
}

impl Opcode {
    pub(super) const PONG: Self = Self::Other(PONG);

    fn of(number: u8) -> Self {
        match number {
            TEXT => Self::Text,
            CLOSE => Self::Close,
            PING => Self::Ping,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Text => TEXT,
            Self::Close => CLOSE,
            Self::Ping => PING,
            Self::Other(number) => number,
        }
    }
}

/// A frame that is a whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn text(text: &str) -> Self {
        Self { opcode: Opcode::Text, payload: text.as_bytes().to_vec() }
    }

    pub(super) fn close(code: u16) -> Self {
        Self { opcode: Opcode::Close, payload: code.to_be_bytes().to_vec() }
    }

    /// Returns the code of a close frame that has one.
    pub(super) fn close_code(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.payload.first_chunk().copied()?))
    }

    /// Returns the bytes of this frame as a client sends it.
    pub(super) fn masked(&self, mask: u32) -> Vec<u8> {
        let length = self.payload.len().min(SHORT);
        let mask = mask.to_be_bytes();
        let mut bytes = vec![FINAL | self.opcode.number(), MASKED | length as u8];
        bytes.extend(mask);
        bytes.extend(self.payload[..length].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Takes the next frame of a server from what was read; `None` when it is not there in whole.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, String> {
        let &[first, second, ..] = &buffer[..] else { return Ok(None) };
        if first & FINAL == 0 || usize::from(second) > SHORT {
            return Err(format!("a frame that is not a short whole message: {first:02x} {second:02x}"));
        }
        let length = usize::from(second);
        if buffer.len() < 2 + length {
            return Ok(None);
        }
        buffer.advance(2);
        let payload = buffer.split_to(length).to_vec();
        Ok(Some(Self { opcode: Opcode::of(first & 0x0f), payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let mut buffer = BytesMut::from(&b"\x81"[..]);
        assert_eq!(Frame::take(&mut buffer), Ok(None));
        buffer.extend_from_slice(b"\x02h");
        assert_eq!(Frame::take(&mut buffer), Ok(None));
        buffer.extend_from_slice(b"i\x88\x02\x03\xe9");
        assert_eq!(Frame::take(&mut buffer), Ok(Some(Frame::text("hi"))));
        let close = Frame::take(&mut buffer).unwrap().unwrap();
        assert_eq!((close.opcode, close.close_code()), (Opcode::Close, Some(1001)));
    }

    #[test]
    fn what_a_client_sends_is_masked() {
        assert_eq!(Frame::text("Hi").masked(0x0102_0304), [0x81, 0x82, 1, 2, 3, 4, b'H' ^ 1, b'i' ^ 2]);
    }

    #[test]
    fn masked_and_long_frames_of_a_server_are_wrong() {
        for bytes in [&b"\x81\xff"[..], b"\x81\x7e", b"\x01\x00"] {
            assert!(Frame::take(&mut BytesMut::from(bytes)).is_err());
        }
    }
}
