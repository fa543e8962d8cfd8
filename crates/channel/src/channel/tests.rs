use std::io::{PipeReader, Read, Write, pipe};

use rustix::io::{FdFlags, fcntl_getfd};

use super::*;
use crate::message::Message;
use crate::outbox::MAX_QUEUED;

type Messages = Vec<Result<Incoming<OwnedFd>, DecodeError>>;

fn channels() -> (Channel, Channel) {
    let (ours, theirs) = pair().expect("a socketpair");
    rustix::io::ioctl_fionbio(&theirs, true).expect("non-blocking");
    (Channel::new(ours), Channel::new(theirs))
}

/// Reads until nothing is there now; `true` when the other end closed.
fn receive_all(channel: &mut Channel, out: &mut Messages) -> bool {
    let mut scratch = vec![0; READ_BUFFER];
    loop {
        match channel.receive(&mut scratch, out).expect("a working socket") {
            Progress::Read | Progress::ReadAll => {}
            Progress::WouldBlock => return false,
            Progress::Closed => return true,
        }
    }
}

fn received(channel: &mut Channel) -> Vec<Incoming<OwnedFd>> {
    let mut out = Vec::new();
    receive_all(channel, &mut out);
    out.into_iter().map(|item| item.expect("a message")).collect()
}

fn socket_message(number: usize) -> Vec<u8> {
    format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{number}}}\n").into_bytes()
}

/// A descriptor that can be recognised: whoever reads from it reads the number.
fn marked(number: usize) -> OwnedFd {
    let (reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(number.to_string().as_bytes()).expect("room for a number");
    reader.into()
}

fn mark_of(handle: OwnedFd) -> usize {
    let mut text = String::new();
    PipeReader::from(handle).read_to_string(&mut text).expect("a marked pipe");
    text.parse().expect("a number")
}

fn number_of(message: &Message) -> usize {
    let value = match message {
        Message::Handle(handle) => return number_of(&handle.message),
        Message::User(value) => value.get(),
        other => panic!("{other:?}"),
    };
    value.trim_matches(['"', 'x']).parse().expect("a number")
}

/// A pipe ends when the last copy of its writing end is closed.
fn assert_no_writer_is_left(reader: &mut PipeReader) {
    rustix::io::ioctl_fionbio(&*reader, true).expect("non-blocking");
    assert_eq!(reader.read(&mut [0]).expect("the end of the pipe"), 0);
}

/// A user message of a given length that carries a number.
fn long_message(number: usize, length: usize) -> Vec<u8> {
    let mut message = format!("\"{number}").into_bytes();
    message.resize(length - 2, b'x');
    message.extend_from_slice(b"\"\n");
    message
}

#[test]
fn descriptors_arrive_with_their_message() {
    let (mut ours, mut theirs) = channels();
    for number in 0..20 {
        ours.send(format!("\"plain {number}\"\n"), None).expect("sent");
        ours.hand_over(&socket_message(number), marked(number).as_fd()).expect("room");
    }
    ours.send(socket_message(20), Some(marked(20))).expect("sent");
    let mut handles = 0;
    for incoming in received(&mut theirs) {
        let Message::Handle(_) = incoming.message else { continue };
        let handle = incoming.handle.expect("a descriptor");
        assert!(fcntl_getfd(&handle).expect("open").contains(FdFlags::CLOEXEC), "no child may inherit it");
        assert_eq!((number_of(&incoming.message), mark_of(handle)), (handles, handles));
        handles += 1;
    }
    assert_eq!((handles, ours.outbox().unanswered()), (21, 21));
}

#[test]
fn both_ends_are_closed_on_exec() {
    let (ours, theirs) = pair().expect("a socketpair");
    for end in [&ours, &theirs] {
        assert!(fcntl_getfd(end).expect("open").contains(FdFlags::CLOEXEC));
    }
}

#[test]
fn a_peer_that_does_not_read_gets_no_more_connections() {
    let (mut ours, mut theirs) = channels();
    let connection = marked(0);
    let mut sent = 0;
    let refused = loop {
        match ours.hand_over(&socket_message(sent), connection.as_fd()) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, NotSent::Full), "{refused:?}");
    assert!((100..10_000).contains(&sent), "{sent} fit into the socket");
    assert!(ours.outbox().is_empty() && !ours.wants_write(), "a connection never waits here");
    let numbers: Vec<_> = received(&mut theirs).iter().map(|incoming| number_of(&incoming.message)).collect();
    assert_eq!(numbers, (0..sent).collect::<Vec<_>>(), "what was refused did not arrive in part");
    assert!(ours.hand_over(&socket_message(sent), connection.as_fd()).is_ok());
}

#[test]
fn messages_wait_up_to_the_limit_and_drain_in_order() {
    const LENGTH: usize = 100_000;
    let (mut ours, mut theirs) = channels();
    let mut sent = 0;
    let refused = loop {
        match ours.send_bounded(long_message(sent, LENGTH), None) {
            Ok(result) => result.expect("a working socket"),
            Err(refused) => break refused,
        }
        sent += 1;
    };
    assert_eq!(refused.limit, MAX_QUEUED);
    assert!(refused.queued > MAX_QUEUED - LENGTH && refused.queued <= MAX_QUEUED, "{refused}");
    assert!(ours.wants_write());
    assert!(matches!(ours.hand_over(&socket_message(0), marked(0).as_fd()), Err(NotSent::Full)));
    // A message of the protocol is never dropped.
    ours.send(format!("{sent}\n"), None).expect("queued");

    let mut out = Vec::new();
    while out.len() <= sent {
        let before = out.len();
        receive_all(&mut theirs, &mut out);
        ours.flush().expect("a working socket");
        assert!(out.len() > before || ours.wants_write(), "stuck with {before} of {sent}");
    }
    let numbers: Vec<_> =
        out.iter().map(|item| number_of(&item.as_ref().expect("a message").message)).collect();
    assert_eq!(numbers, (0..=sent).collect::<Vec<_>>());
    assert_eq!(ours.outbox().queued_bytes(), 0);
    assert!(ours.hand_over(&socket_message(0), marked(0).as_fd()).is_ok());
}

#[test]
fn a_queued_descriptor_waits_for_its_message() {
    let (mut ours, mut theirs) = channels();
    ours.send(long_message(0, 1_000_000), None).expect("queued");
    ours.send(socket_message(1), Some(marked(1))).expect("queued");
    ours.send(socket_message(2), Some(marked(2))).expect("queued");
    let mut out = Vec::new();
    for _ in 0..100 {
        receive_all(&mut theirs, &mut out);
        ours.flush().expect("a working socket");
    }
    // The second could be cut from the first by a read of Node's, so it waits for the answer.
    assert_eq!((out.len(), ours.wants_write()), (2, false));
    assert!(ours.answered());
    ours.flush().expect("a working socket");
    receive_all(&mut theirs, &mut out);
    for (number, item) in out.into_iter().enumerate().skip(1) {
        let incoming = item.expect("a message");
        assert_eq!(number_of(&incoming.message), number);
        assert_eq!(mark_of(incoming.handle.expect("a descriptor")), number);
    }
}

#[test]
fn the_fence_refuses_connections_until_the_answer() {
    let (mut ours, mut theirs) = channels();
    let connection = marked(0);
    ours.send(long_message(0, READ_BUFFER), None).expect("sent");
    ours.hand_over(&socket_message(1), connection.as_fd()).expect("nothing else is unanswered");
    let refused = ours.hand_over(&socket_message(2), connection.as_fd());
    assert!(matches!(refused, Err(NotSent::Fenced)), "{refused:?}");
    assert_eq!(received(&mut theirs).len(), 2);
    theirs.answer_handle(HandleAnswer::Ack).expect("sent");
    assert!(matches!(received(&mut ours)[..], [Incoming { message: Message::HandleAck, .. }]));
    assert!(ours.answered());
    assert!(ours.hand_over(&socket_message(2), connection.as_fd()).is_ok());
}

#[test]
fn a_peer_that_left() {
    let (mut ours, mut theirs) = channels();
    theirs.send("\"last words\"\n", None).expect("sent");
    drop(theirs);
    let mut out = Vec::new();
    assert!(receive_all(&mut ours, &mut out), "closed");
    assert_eq!(out.len(), 1, "what it said before still counts");
    let refused = ours.hand_over(&socket_message(0), marked(0).as_fd());
    assert!(matches!(&refused, Err(NotSent::Broken(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    assert!(ours.send("\"anyone?\"\n", None).is_err());
}

#[test]
fn a_peer_that_left_with_unread_messages() {
    let (mut ours, theirs) = channels();
    ours.send("\"unread\"\n", None).expect("sent");
    drop(theirs);
    assert!(receive_all(&mut ours, &mut Vec::new()), "closed, not an error");
}

#[test]
fn a_peer_that_only_stopped_writing() {
    let (mut ours, mut theirs) = channels();
    rustix::net::shutdown(&theirs, rustix::net::Shutdown::Write).expect("shut down");
    assert!(receive_all(&mut ours, &mut Vec::new()));
    ours.send("\"bye\"\n", None).expect("it can read still");
    assert_eq!(received(&mut theirs).len(), 1);
}

/// The socket has room again, but a connection must not land in the middle of another message.
#[test]
fn a_connection_never_overtakes_half_a_message() {
    let (mut ours, mut theirs) = channels();
    ours.send(long_message(0, 1_000_000), None).expect("queued");
    let mut out = Vec::new();
    receive_all(&mut theirs, &mut out);
    assert!(out.is_empty() && ours.wants_write());
    let refused = ours.hand_over(&socket_message(1), marked(1).as_fd());
    assert!(matches!(refused, Err(NotSent::Full)), "{refused:?}");
    while ours.wants_write() {
        ours.flush().expect("a working socket");
        receive_all(&mut theirs, &mut out);
    }
    assert_eq!(number_of(&out.pop().expect("a result").expect("a message").message), 0);
}

/// Whoever sends many descriptors at once hurts only its own channel: it goes on, and they are closed with it.
#[test]
fn a_flood_of_descriptors() {
    const COUNT: usize = 200;
    let (mut ours, theirs) = channels();
    let (mut reader, writer) = pipe().expect("a pipe");
    let writer = OwnedFd::from(writer);
    for _ in 0..20 {
        let copies = [writer.as_fd(); COUNT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(COUNT))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&copies)));
        let bytes = [IoSlice::new(b"\"flood\"\n")];
        sendmsg(&theirs, &bytes, &mut control, SendFlags::empty()).expect("sent");
    }
    drop(writer);
    assert_eq!(received(&mut ours).len(), 20, "the messages are read");
    drop(ours);
    assert_no_writer_is_left(&mut reader);
}

#[test]
fn our_copy_of_a_sent_descriptor_is_closed() {
    let (mut ours, mut theirs) = channels();
    let (mut reader, writer) = pipe().expect("a pipe");
    ours.send(socket_message(0), Some(writer.into())).expect("sent");
    drop(received(&mut theirs));
    assert_no_writer_is_left(&mut reader);
}

#[test]
fn what_the_other_end_has_not_read_is_seen() {
    let (ours, theirs) = pair().expect("a channel");
    let mut channel = Channel::new(ours);
    assert!(!channel.has_unread());
    channel.send("a message\n", None).expect("send");
    assert!(channel.has_unread());
    let mut buffer = [0; 64];
    assert_eq!(rustix::io::read(&theirs, &mut buffer[..4]), Ok(4));
    assert!(channel.has_unread(), "half of it is left");
    assert_eq!(rustix::io::read(&theirs, &mut buffer), Ok(6));
    assert!(!channel.has_unread());
}
