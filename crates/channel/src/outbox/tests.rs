use super::*;

fn queued(outbox: &mut Outbox<u32>, bytes: &[u8], handle: Option<u32>) {
    outbox.push(bytes.to_vec(), handle);
}

#[test]
fn messages_go_in_order_and_in_parts() {
    let mut outbox = Outbox::default();
    queued(&mut outbox, b"first\n", None);
    queued(&mut outbox, b"second\n", Some(2));
    assert_eq!(outbox.queued_bytes(), 13);
    assert_eq!(outbox.next(), Some((&b"first\n"[..], None)));
    outbox.wrote(4);
    assert_eq!(outbox.next(), Some((&b"t\n"[..], None)));
    outbox.wrote(2);
    assert_eq!(outbox.next(), Some((&b"second\n"[..], Some(&2))));
    assert_eq!(outbox.unanswered(), 0, "nothing of it was written yet");
    outbox.wrote(0);
    assert_eq!(
        outbox.next(),
        Some((&b"second\n"[..], Some(&2))),
        "the kernel took nothing, also no descriptor"
    );
    outbox.wrote(1);
    assert_eq!(outbox.next(), Some((&b"econd\n"[..], None)), "the descriptor went with the first byte");
    assert_eq!((outbox.unanswered(), outbox.queued_bytes()), (1, 6));
    outbox.wrote(6);
    assert!(outbox.is_empty() && outbox.next().is_none() && outbox.queued_bytes() == 0);
}

#[test]
fn the_rest_of_a_connection_goes_before_everything() {
    let mut outbox = Outbox::<u32>::default();
    outbox.sent_handle(b"message\n", 3);
    queued(&mut outbox, b"later\n", None);
    assert_eq!((outbox.next(), outbox.queued_bytes()), (Some((&b"sage\n"[..], None)), 11));
    outbox.wrote(5);
    assert_eq!(outbox.next(), Some((&b"later\n"[..], None)));
}

#[test]
fn user_messages_have_a_limit() {
    let mut outbox = Outbox::<u32>::with_max_queued(10);
    assert_eq!(outbox.push_bounded(vec![b'x'; 10], None), Ok(()));
    let refused = outbox.push_bounded(vec![b'x'], None);
    assert_eq!(refused, Err(Overfull { queued: 10, limit: 10 }));
    queued(&mut outbox, b"of the protocol\n", None);
    outbox.wrote(10);
    assert!(outbox.push_bounded(vec![b'x'], None).is_err(), "what waits of the protocol counts too");
    outbox.wrote(16);
    assert_eq!(outbox.push_bounded(vec![b'x'], None), Ok(()));
}

#[test]
fn answers_are_counted() {
    let mut outbox = Outbox::<u32>::default();
    assert!(!outbox.answered(), "none is owed");
    outbox.sent_handle(b"a\n", 2);
    outbox.sent_handle(b"b\n", 2);
    assert_eq!(outbox.unanswered(), 2);
    assert!(outbox.answered() && outbox.answered() && !outbox.answered());
}

#[test]
fn the_fence_holds_back_only_handle_messages() {
    let mut outbox = Outbox::default();
    queued(&mut outbox, &vec![b'x'; READ_WINDOW], None);
    outbox.wrote(READ_WINDOW);
    queued(&mut outbox, b"one\n", Some(1));
    queued(&mut outbox, b"plain\n", None);
    queued(&mut outbox, b"two\n", Some(2));
    outbox.wrote(4);
    assert_eq!(outbox.next(), Some((&b"plain\n"[..], None)));
    outbox.wrote(6);
    assert_eq!(outbox.next(), None, "the first handle message may still be cut");
    assert!(!outbox.is_empty() && !outbox.may_send_handle(1));
    assert!(outbox.answered());
    assert_eq!(outbox.next(), Some((&b"two\n"[..], Some(&2))));
}

/// The bytes that count are those since the last handle message, its successor's own included.
#[test]
fn the_window_counts_from_the_last_handle_message() {
    let plain = vec![b'x'; READ_WINDOW - 100];
    let mut outbox = Outbox::default();
    for _ in 0..3 {
        outbox.sent_handle(b"message\n", 8);
        queued(&mut outbox, &plain, None);
        outbox.wrote(plain.len());
        assert!(outbox.may_send_handle(100) && !outbox.may_send_handle(101));
    }
    while outbox.answered() {}
    assert!(outbox.may_send_handle(101), "alone it may be cut");
}
