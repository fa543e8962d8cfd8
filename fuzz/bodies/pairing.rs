//! An outbox that writes to a model of Node's receiving end, which pairs descriptors with messages.
//!
//! Descriptors are numbers here. A handle message names the descriptor that belongs to it, so that a pairing
//! can be judged; the rules of the receiver are those of Linux (`unix_stream_read_generic`) and libuv
//! (`uv__read`, `uv__stream_recv_cmsg`) with Node's `pendingHandle`.

use std::collections::VecDeque;

use worksong_channel::outbox::{MAX_UNCUT, Outbox, READ_WINDOW};

/// The shortest message: a letter, a number, a newline.
pub(crate) const SHORTEST: usize = 12;

/// What can happen to a channel, in any order.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A connection is handed over, now or not at all. The kernel takes `room` bytes of it.
    HandOver { length: usize, room: usize },
    /// A message is queued.
    Queue { length: usize, handle: bool },
    /// What waits is written, as far as the kernel takes it.
    Flush { room: usize },
    /// The receiver reads once.
    Read,
    /// The oldest answer of the receiver arrives.
    Answer,
}

/// A handle message that the receiver completed, and the descriptor that it paired with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) wanted: u32,
    pub(crate) got: Option<u32>,
}

/// Whether the sender heeds the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    On,
    /// Every handle message counts as answered at once.
    Off,
}

/// Both ends of a channel.
pub(crate) struct Simulation {
    outbox: Outbox<u32>,
    fence: Fence,
    handles: u32,
    sent: u32,
    receiver: Receiver,
    answers: usize,
}

impl Simulation {
    pub(crate) fn new(fence: Fence) -> Self {
        Self {
            outbox: Outbox::default(),
            fence,
            handles: 0,
            sent: 0,
            receiver: Receiver::default(),
            answers: 0,
        }
    }

    /// Does one step; `false` when it was a connection that had to be refused.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::HandOver { length, room } => return self.hand_over(length, room),
            Step::Queue { length, handle: true } => {
                let handle = self.next_handle();
                self.outbox.push(handle_message(handle, length), Some(handle));
            }
            Step::Queue { length, handle: false } => self.outbox.push(plain_message(length), None),
            Step::Flush { room } => self.flush(room),
            Step::Read => self.answers += self.receiver.read(),
            Step::Answer => self.answer(),
        }
        true
    }

    /// Lets everything arrive, and returns what was paired with what.
    pub(crate) fn finish(mut self) -> Vec<Delivery> {
        while !self.outbox.is_empty() || !self.receiver.socket.is_empty() || self.answers > 0 {
            let before = (self.outbox.queued_bytes(), self.receiver.socket.len(), self.answers);
            self.flush(usize::MAX);
            self.answers += self.receiver.read();
            self.answer();
            let after = (self.outbox.queued_bytes(), self.receiver.socket.len(), self.answers);
            assert!(before != after || self.fence == Fence::Off, "the channel is stuck: {after:?}");
        }
        assert_eq!(self.receiver.delivered.len(), self.sent as usize, "every handle message arrives");
        self.receiver.delivered
    }

    fn hand_over(&mut self, length: usize, room: usize) -> bool {
        if !self.outbox.is_empty() || !self.outbox.may_send_handle(length) || room == 0 {
            return false;
        }
        let handle = self.next_handle();
        let message = handle_message(handle, length);
        let written = room.min(length);
        self.receiver.arrive(&message[..written], Some(handle));
        self.outbox.sent_handle(&message, written);
        self.sent_one();
        true
    }

    fn flush(&mut self, mut room: usize) {
        while let Some((bytes, handle)) = self.outbox.next() {
            let written = room.min(bytes.len());
            if written == 0 {
                return;
            }
            let handle = handle.copied();
            self.receiver.arrive(&bytes[..written], handle);
            self.outbox.wrote(written);
            room -= written;
            if handle.is_some() {
                self.sent_one();
            }
        }
    }

    fn sent_one(&mut self) {
        self.sent += 1;
        if self.fence == Fence::Off {
            assert!(self.outbox.answered());
        }
    }

    fn answer(&mut self) {
        if self.answers > 0 {
            self.answers -= 1;
            assert_eq!(self.outbox.answered(), self.fence == Fence::On, "answers are counted");
        }
    }

    fn next_handle(&mut self) -> u32 {
        self.handles += 1;
        self.handles
    }
}

/// True when each handle message got its own descriptor.
pub(crate) fn all_paired(deliveries: &[Delivery]) -> bool {
    deliveries.iter().all(|delivery| delivery.got == Some(delivery.wanted))
}

/// The socket's queue and the process behind it.
#[derive(Default)]
struct Receiver {
    socket: VecDeque<Buffer>,
    pending: Option<u32>,
    partial: Vec<u8>,
    delivered: Vec<Delivery>,
}

/// What the kernel keeps of one write, or of a part of it.
struct Buffer {
    bytes: Vec<u8>,
    /// How many of them were read.
    read: usize,
    handle: Option<u32>,
}

impl Receiver {
    /// The kernel cuts long writes into buffers; the descriptor is in the first.
    fn arrive(&mut self, bytes: &[u8], mut handle: Option<u32>) {
        for part in bytes.chunks(MAX_UNCUT) {
            self.socket.push_back(Buffer { bytes: part.to_vec(), read: 0, handle: handle.take() });
        }
    }

    /// Reads once and returns how many answers the peer is owed for it.
    fn read(&mut self) -> usize {
        let before = self.partial.len();
        while let Some(buffer) = self.socket.front_mut() {
            let room = READ_WINDOW - (self.partial.len() - before);
            let unread = &buffer.bytes[buffer.read..];
            let count = unread.len().min(room);
            self.partial.extend_from_slice(&unread[..count]);
            buffer.read += count;
            let handle = buffer.handle.take();
            if buffer.read == buffer.bytes.len() {
                self.socket.pop_front();
            }
            if handle.is_some() {
                // Whatever waited is overwritten, and a read ends behind a buffer with descriptors.
                self.pending = handle;
                break;
            }
            if count == room {
                break;
            }
        }
        self.complete_messages(before)
    }

    /// Delivers the messages that end behind the first `old` bytes, and returns how many want an answer.
    fn complete_messages(&mut self, old: usize) -> usize {
        let before = self.delivered.len();
        let Some(end) = self.partial[old..].iter().rposition(|byte| *byte == b'\n') else { return 0 };
        let rest = self.partial.split_off(old + end + 1);
        for line in std::mem::replace(&mut self.partial, rest).split(|byte| *byte == b'\n') {
            if let Some(number) = line.strip_prefix(b"H") {
                let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
                let wanted = digits.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
                self.delivered.push(Delivery { wanted, got: self.pending.take() });
            }
        }
        self.delivered.len() - before
    }
}

fn handle_message(handle: u32, length: usize) -> Vec<u8> {
    message(format!("H{handle} "), length)
}

fn plain_message(length: usize) -> Vec<u8> {
    message("P".to_owned(), length)
}

fn message(head: String, length: usize) -> Vec<u8> {
    let mut message = head.into_bytes();
    message.resize(length.max(SHORTEST) - 1, b'.');
    message.push(b'\n');
    message
}
