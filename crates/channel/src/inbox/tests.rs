use proptest::prelude::*;

use super::*;
use crate::message::{Cluster, Message};

/// Two messages that want a descriptor, one that does not, text of more than one byte per letter, Bun's prefix.
const TRAFFIC: &str = concat!(
    "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n",
    "\"é 日本 😀\"\n",
    "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{\"n\":\"ü\"}}\n",
    "\n",
    "\u{2}{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"port\":80,\"addressType\":4}\n",
    "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":null}\n",
    "nonsense\n",
    "{\"cmd\":\"NODE_HANDLE_ACK\"}\n",
);

type Received = Vec<Result<Incoming<u32>, DecodeError>>;

fn feed_all(inbox: &mut Inbox<u32>, parts: &[&[u8]]) -> Received {
    let mut out = Vec::new();
    for part in parts {
        inbox.feed(part, &mut out);
    }
    out
}

fn only_user(received: &Received) -> Vec<String> {
    let text = |item: &Result<Incoming<u32>, DecodeError>| match item {
        Ok(Incoming { message: Message::User(value), .. }) => value.get().to_owned(),
        other => format!("{other:?}"),
    };
    received.iter().map(text).collect()
}

#[test]
fn a_read_with_many_messages() {
    let mut inbox = Inbox::default();
    inbox.take_handle(1);
    inbox.take_handle(2);
    let received = feed_all(&mut inbox, &[TRAFFIC.as_bytes()]);
    assert_eq!(received.len(), 7, "empty lines are no messages");
    let messages: Vec<_> = received.iter().filter_map(|item| item.as_ref().ok()).collect();
    assert!(matches!(messages[0].message, Message::Cluster(Cluster::Online { .. })));
    assert!(matches!(&messages[1].message, Message::User(value) if value.get() == "\"é 日本 😀\""));
    assert_eq!((messages[2].handle, messages[4].handle), (Some(1), Some(2)));
    assert!(messages[3].prefixed && !messages[2].prefixed);
    assert!(matches!(received[5], Err(DecodeError::NotJson { length: 8, .. })));
    assert!(matches!(messages[5].message, Message::HandleAck));
    assert!(!inbox.has_partial());
}

/// Every byte position, so also inside letters, escapes and between a line and its newline.
#[test]
fn where_a_read_ends_makes_no_difference() {
    let whole = format!("{:?}", feed_all(&mut Inbox::default(), &[TRAFFIC.as_bytes()]));
    for at in 0..=TRAFFIC.len() {
        let (head, tail) = TRAFFIC.as_bytes().split_at(at);
        assert_eq!(format!("{:?}", feed_all(&mut Inbox::default(), &[head, tail])), whole, "cut at {at}");
    }
    let single: Vec<&[u8]> = TRAFFIC.as_bytes().chunks(1).collect();
    assert_eq!(format!("{:?}", feed_all(&mut Inbox::default(), &single)), whole, "byte by byte");
}

#[test]
fn a_message_without_its_end_waits() {
    let mut inbox = Inbox::default();
    assert!(feed_all(&mut inbox, &[b"\"half"]).is_empty());
    assert!(inbox.has_partial());
    assert_eq!(only_user(&feed_all(&mut inbox, &[b" whole\"\n"])), ["\"half whole\""]);
    assert!(!inbox.has_partial());
}

#[test]
fn descriptors_go_to_handle_messages_in_order() {
    let handle = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n";
    let mut inbox = Inbox::default();
    // A descriptor that comes with the first bytes waits for the last ones, over plain messages too.
    inbox.take_handle(1);
    let mut received = feed_all(&mut inbox, &[b"\"plain\"\n", &handle[..9], &handle[9..]]);
    // One that was lost on the way is nobody else's.
    received.extend(feed_all(&mut inbox, &[handle]));
    inbox.take_handle(3);
    received.extend(feed_all(&mut inbox, &[handle]));
    let handles: Vec<_> = received.into_iter().map(|item| item.expect("a message").handle).collect();
    assert_eq!(handles, [None, Some(1), None, Some(3)]);
}

/// A handle message that cannot be understood must not pass its descriptor to the next one.
#[test]
fn malformed_handle_messages_use_up_their_descriptor() {
    for malformed in [
        r#"{"cmd":"NODE_HANDLE","type":7}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn"}}"#,
    ] {
        let mut inbox = Inbox::default();
        inbox.take_handle(1);
        let received = feed_all(&mut inbox, &[malformed.as_bytes(), b"\n"]);
        assert!(matches!(&received[..], [Err(error)] if error.is_handle()), "{received:?}");
        inbox.take_handle(2);
        let received = feed_all(&mut inbox, &[b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\"}\n"]);
        assert!(matches!(&received[..], [Ok(Incoming { handle: Some(2), .. })]), "{received:?}");
    }
}

#[test]
fn descriptors_without_a_message_do_not_pile_up() {
    let mut inbox = Inbox::default();
    let counted = std::rc::Rc::new(());
    for _ in 0..1000 {
        inbox.take_handle(std::rc::Rc::clone(&counted));
        inbox.feed(b"\"no handle\"\n", &mut Vec::new());
    }
    assert_eq!(std::rc::Rc::strong_count(&counted), 1 + MAX_UNPAIRED);
}

#[test]
fn lines_longer_than_the_limit_are_skipped() {
    // The limit counts without the newline: eight bytes pass, nine do not.
    for cut in 0..12 {
        let mut inbox = Inbox::with_max_line(8);
        let bytes = b"\"12345678\"\n\"123456\"\n1\n";
        let (head, tail) = bytes.split_at(cut);
        let received = feed_all(&mut inbox, &[head, tail]);
        assert!(matches!(received[0], Err(DecodeError::TooLong { limit: 8 })), "cut at {cut}: {received:?}");
        assert_eq!(only_user(&received)[1..], ["\"123456\"", "1"], "cut at {cut}");
    }
}

/// An endless line costs no memory and one report.
#[test]
fn an_endless_line_is_reported_once() {
    let mut inbox = Inbox::with_max_line(100);
    let part = [b'x'; 64];
    let received = feed_all(&mut inbox, &[&part[..]; 1000]);
    assert_eq!(received.len(), 1);
    assert!(inbox.has_partial() && inbox.partial.capacity() == 0);
    assert_eq!(only_user(&feed_all(&mut inbox, &[b"x\n7\n"])), ["7"]);
}

proptest! {
    #[test]
    fn any_bytes_in_any_parts(
        bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'"'), any::<u8>()], 0..400),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut whole = Inbox::with_max_line(64);
        let expected = feed_all(&mut whole, &[&bytes]);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(bytes.len());
        let mut split: Inbox<u32> = Inbox::with_max_line(64);
        let mut out = Vec::new();
        let mut start = 0;
        for end in ends {
            split.feed(&bytes[start..end], &mut out);
            start = end;
        }
        prop_assert_eq!(format!("{:?}", out), format!("{:?}", expected));
        prop_assert_eq!(split.has_partial(), whole.has_partial());
    }
}
