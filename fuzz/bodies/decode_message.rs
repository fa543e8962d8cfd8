//! Any line: the decoder answers, and what it takes for a program's own message comes out as it went in.

use worksong_channel::Message;
use worksong_channel::message::encode;

pub(crate) fn run(line: &[u8]) {
    match Message::decode(line) {
        Ok(Message::User(value)) => {
            let sent = encode::user(&value);
            let again = Message::decode(sent.trim_ascii_end()).expect("what we send can be decoded");
            assert!(matches!(again, Message::User(_)), "{again:?}");
            assert_eq!(sent.iter().position(|byte| *byte == b'\n'), Some(sent.len() - 1), "one line");
        }
        Ok(message) => drop(format!("{message:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
