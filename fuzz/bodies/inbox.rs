//! Any bytes in any parts with any descriptors: the parts make no difference, descriptors are neither lost nor doubled.
//!
//! The first byte says how the rest is cut; a `0xff` byte is a descriptor that comes with what follows it.

use worksong_channel::inbox::Inbox;

const MAX_LINE: usize = 4096;

pub(crate) fn run(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = feed(bytes, usize::MAX);
    let parts = feed(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, parts);
}

/// Feeds the bytes in parts of at most `limit`, and returns what came out.
fn feed(bytes: &[u8], limit: usize) -> Vec<String> {
    let mut inbox = Inbox::with_max_line(MAX_LINE);
    let mut out = Vec::new();
    for (number, part) in bytes.split(|byte| *byte == 0xff).enumerate() {
        if number > 0 {
            inbox.take_handle(number);
        }
        for piece in part.chunks(limit) {
            inbox.feed(piece, &mut out);
        }
    }
    let paired: Vec<usize> = out.iter().flatten().filter_map(|incoming| incoming.handle).collect();
    assert!(paired.is_sorted_by(|a, b| a < b), "in order, each once: {paired:?}");
    out.iter().map(|item| format!("{item:?}")).collect()
}
