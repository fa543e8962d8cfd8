//! The bodies of the fuzz targets over the committed corpus, so that an ordinary test run sees old findings.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/bodies/decode_message.rs"]
mod decode_message;
#[path = "../../../fuzz/bodies/inbox.rs"]
mod inbox;
#[path = "../../../fuzz/bodies/outbox_pairing.rs"]
mod outbox_pairing;

fn over_corpus(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        let data = fs::read(&path).expect("a readable file");
        let passed = std::panic::catch_unwind(|| body(&data)).is_ok();
        assert!(passed, "{}", path.display());
        count += 1;
    }
    assert!(count >= 5, "{} has only {count} files", folder.display());
}

#[test]
fn decode_message_over_its_corpus() {
    over_corpus("decode_message", decode_message::run);
}

#[test]
fn inbox_over_its_corpus() {
    over_corpus("inbox", inbox::run);
}

#[test]
fn outbox_pairing_over_its_corpus() {
    over_corpus("outbox_pairing", outbox_pairing::run);
}
