//! Nothing leaks. The only test of its process, because it counts the descriptors of the whole process.

use std::fs;
use std::io::pipe;
use std::os::fd::{AsFd, OwnedFd};

use worksong_channel::channel::{Channel, Progress, READ_BUFFER, pair};
use worksong_channel::inbox::MAX_UNPAIRED;

const HANDLE: &[u8] = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n";

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Every way that a descriptor can go: delivered, refused, queued and never sent, unread, without a message.
fn exchange() {
    let (ours, theirs) = pair().expect("a socketpair");
    rustix::io::ioctl_fionbio(&theirs, true).expect("non-blocking");
    let (mut ours, mut theirs) = (Channel::new(ours), Channel::new(theirs));
    let (_reader, writer) = pipe().expect("a pipe");
    let copy = || OwnedFd::from(writer.try_clone().expect("a copy"));

    while ours.hand_over(HANDLE, writer.as_fd()).is_ok() {}
    for _ in 0..50 {
        ours.send(HANDLE, Some(copy())).expect("queued");
        theirs.send("\"no handle message\"\n", Some(copy())).expect("sent");
        theirs.send("{\"cmd\":\"NODE_HANDLE\",\"type\":7}\n", Some(copy())).expect("sent");
    }
    let mut scratch = vec![0; READ_BUFFER];
    let mut out = Vec::new();
    for _ in 0..20 {
        assert_eq!(theirs.receive(&mut scratch, &mut out).expect("readable"), Progress::Read);
    }
    out.clear();
    while matches!(
        ours.receive(&mut scratch, &mut out).expect("readable"),
        Progress::Read | Progress::ReadAll
    ) {}
}

#[test]
fn every_descriptor_is_closed() {
    let before = open_descriptors();
    for _ in 0..20 {
        exchange();
    }
    assert_eq!(open_descriptors(), before);

    // While a channel lives, what it keeps is bounded.
    let (ours, theirs) = pair().expect("a socketpair");
    rustix::io::ioctl_fionbio(&theirs, true).expect("non-blocking");
    let (mut ours, mut theirs) = (Channel::new(ours), Channel::new(theirs));
    let (_reader, writer) = pipe().expect("a pipe");
    let with_channel = open_descriptors();
    let mut scratch = vec![0; READ_BUFFER];
    for _ in 0..1000 {
        theirs.send("1\n", Some(OwnedFd::from(writer.try_clone().expect("a copy")))).expect("sent");
        ours.receive(&mut scratch, &mut Vec::new()).expect("readable");
    }
    assert_eq!(open_descriptors(), with_channel + MAX_UNPAIRED);
}
