//! A running program, the lines that it writes, and its end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::patience::{eventually, patience, within};
use crate::process::{kill, with_variable};

/// Where a program wrote a line to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line that a program wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where.
    pub stream: Stream,
    /// What, without the end of line; invalid UTF-8 is replaced.
    pub text: String,
}

/// How many characters of a line are shown when a test failed.
const LONGEST: usize = 1000;
/// The variable by which everything that a program started is found again, wherever it was re-parented to.
const MARK: &str = "WORKSONG_TESTKIT";

/// A child process whose lines are collected as entries of type `E`.
///
/// Dropping it kills the process and everything that it started, and prints the lines when the test panicked.
#[derive(Debug)]
pub(crate) struct Running<E> {
    name: String,
    pid: u32,
    /// The value of [`MARK`] in the environment of this program and of no other.
    mark: String,
    child: Mutex<Child>,
    log: Arc<Log<E>>,
}

#[derive(Debug)]
struct Log<E> {
    content: Mutex<Content<E>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Content<E> {
    lines: Vec<Line>,
    entries: Vec<E>,
    open_streams: usize,
}

impl<E: Clone + Send + 'static> Running<E> {
    /// Starts a program in a process group of its own; `read` makes an entry of each line as soon as it is there.
    pub(crate) fn start(command: &mut Command, read: fn(&Line) -> E) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.env(MARK, &mark);
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("could not start {name}: {error}"));
        let content = Content { lines: Vec::new(), entries: Vec::new(), open_streams: 2 };
        let log = Arc::new(Log { content: Mutex::new(content), changed: Condvar::new() });
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        collect(Stream::Stdout, stdout, Arc::clone(&log), read);
        collect(Stream::Stderr, stderr, Arc::clone(&log), read);
        Self { name, pid: child.id(), mark, child: Mutex::new(child), log }
    }

    /// Waits until `ask` has an answer. It is given the entries that it has not seen yet, again and again.
    #[track_caller]
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut ask: impl FnMut(&[E]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        let mut seen = 0;
        let mut content = self.log.lock();
        loop {
            if let Some(answer) = ask(&content.entries[seen..]) {
                return answer;
            }
            seen = content.entries.len();
            if content.open_streams == 0 {
                drop(content);
                panic!("{} wrote its last line before {what}", self.name);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(content);
                panic!("waited {patience:?} in vain for {what}");
            };
            (content, _) =
                self.log.changed.wait_timeout(content, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns all entries until now.
    pub(crate) fn entries(&self) -> Vec<E> {
        self.log.lock().entries.clone()
    }
}

impl<E> Running<E> {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns all lines until now.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.log.lock().lines.clone()
    }

    /// Sends the process a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let mut child = self.child();
        let ended = child.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "{} has ended and gets no signal: {ended:?}", self.name);
        kill(self.pid, signal);
    }

    /// Waits for the end of the process and of everything that it wrote.
    #[track_caller]
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        let status = eventually(&format!("the end of {}", self.name), || {
            self.child().try_wait().expect("a child can be waited for")
        });
        eventually(&format!("the end of what {} writes", self.name), || {
            (self.log.lock().open_streams == 0).then_some(())
        });
        status
    }

    /// Kills the process alone, if it has not ended.
    pub(crate) fn kill(&self) {
        let mut child = self.child();
        // An error means that it has ended.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        self.kill();
        // Again, until nothing is left that could start something between the look and the kill.
        within(patience(), || {
            let rest = with_variable(MARK, &self.mark);
            for process in &rest {
                process.signal(Signal::KILL);
            }
            rest.is_empty().then_some(())
        });
        if thread::panicking() {
            let ended = || (self.log.lock().open_streams == 0).then_some(());
            within(patience().min(Duration::from_secs(1)), ended);
            print(&self.name, &self.log.lock().lines);
        }
    }
}

impl<E> Log<E> {
    fn lock(&self) -> MutexGuard<'_, Content<E>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads lines on a thread of its own until the last holder of the stream closes it.
fn collect<E: Send + 'static>(
    stream: Stream,
    source: impl Read + Send + 'static,
    log: Arc<Log<E>>,
    read: fn(&Line) -> E,
) {
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut bytes = Vec::new();
        while source.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
            let line = Line { stream, text };
            let entry = read(&line);
            let mut content = log.lock();
            content.lines.push(line);
            content.entries.push(entry);
            log.changed.notify_all();
            bytes.clear();
        }
        log.lock().open_streams -= 1;
        log.changed.notify_all();
    });
}

#[expect(clippy::print_stderr, reason = "the test runner shows it beside the panic")]
fn print(name: &str, lines: &[Line]) {
    eprintln!("--- what {name} wrote:");
    for Line { stream, text } in lines {
        let mark = match stream {
            Stream::Stdout => ' ',
            Stream::Stderr => '!',
        };
        // A megabyte in one line helps nobody.
        eprintln!("{mark} {text:.LONGEST$}");
    }
    eprintln!("--- end of {name}");
}
