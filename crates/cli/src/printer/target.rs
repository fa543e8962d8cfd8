//! Stdout and stderr as they are: full, gone, or set to non-blocking by somebody else.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use worksong_engine::output::Stream;

/// How much is collected before it is written.
const BUFFER: usize = 64 * 1024;

/// The two outputs, in step: what goes to one is written before anything goes to the other.
#[derive(Debug)]
pub(super) struct Targets {
    stdout: Target,
    stderr: Target,
}

impl Targets {
    /// Returns the outputs of this process.
    pub(super) fn standard() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(Self::new(stdout.into(), stderr.into()))
    }

    pub(super) fn new(stdout: File, stderr: File) -> Self {
        Self { stdout: Target::new(stdout), stderr: Target::new(stderr) }
    }

    /// Returns the buffer of a stream to append to; whole lines only, so that outputs never mix within a line.
    pub(super) fn buffer(&mut self, stream: Stream) -> &mut Vec<u8> {
        let (target, other) = match stream {
            Stream::Stdout => (&mut self.stdout, &mut self.stderr),
            Stream::Stderr => (&mut self.stderr, &mut self.stdout),
        };
        other.flush();
        if target.buffer.len() >= BUFFER {
            target.flush();
        }
        &mut target.buffer
    }

    /// Writes all that was collected.
    pub(super) fn flush(&mut self) {
        self.stdout.flush();
        self.stderr.flush();
    }
}

#[derive(Debug)]
struct Target {
    file: File,
    buffer: Vec<u8>,
    /// The reader is gone; from then on output is thrown away, because the workers go on.
    broken: bool,
}

impl Target {
    fn new(file: File) -> Self {
        Self { file, buffer: Vec::new(), broken: false }
    }

    fn flush(&mut self) {
        if !self.broken && write_fully(&mut self.file, &self.buffer).is_err() {
            self.broken = true;
        }
        self.buffer.clear();
        self.buffer.shrink_to(2 * BUFFER);
    }
}

fn write_fully(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The terminal is shared, and any program on it can have made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(file)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(file: &File) -> io::Result<()> {
    match poll(&mut [PollFd::new(file, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn a_non_blocking_output_gets_everything() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut target = Target::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let text = vec![b'x'; 4 * 1024 * 1024];
        target.buffer.clone_from(&text);
        let all = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        target.flush();
        assert!(!target.broken);
        drop(target);
        assert!(all.join().unwrap().unwrap() == text);
    }
}
