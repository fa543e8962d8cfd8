//! Questions that cannot be answered at once: the system is short of something, for a moment mostly.
//!
//! Who asks waits meanwhile, as it may wait for any answer of the kernel: a worker that could not bind would end, and be
//! started again, which takes more of what there is too little of.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::answer::Outcome;
use super::notify::{Answer, Call, Question};
use super::{CaptureFact, Watched};

/// How soon it is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// For how long it is tried, before the call fails for want of what is short.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delayed {
    question: Question,
    asked_at: Instant,
    retry_at: Instant,
}

impl Watched {
    /// Takes the next question and answers it, or puts it off; an error when nobody will ask any more.
    pub(super) fn serve(&mut self, tell: &dyn Fn(CaptureFact)) -> io::Result<()> {
        if let Some(question) = self.notifier.receive()? {
            self.settle(question, Instant::now(), tell);
        }
        Ok(())
    }

    /// Returns when a question that was put off is tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.delayed.iter().map(|delayed| delayed.retry_at).min()
    }

    /// Tries those questions again whose time has come.
    pub(super) fn try_again(&mut self, tell: &dyn Fn(CaptureFact)) {
        let now = Instant::now();
        let due: Vec<Delayed> = self.delayed.extract_if(.., |delayed| delayed.retry_at <= now).collect();
        for Delayed { question, asked_at, .. } in due {
            self.settle(question, asked_at, tell);
        }
    }

    fn settle(&mut self, question: Question, asked_at: Instant, tell: &dyn Fn(CaptureFact)) {
        match self.decide(&question) {
            Outcome::Silent(answer) => self.notifier.answer(&question, answer),
            Outcome::Told(answer, fact) => {
                self.notifier.answer(&question, answer);
                tell(fact);
            }
            Outcome::Short(of, errno) => {
                tell(CaptureFact::Short(of));
                let now = Instant::now();
                if now.saturating_duration_since(asked_at) < PATIENCE {
                    self.delayed.push(Delayed { question, asked_at, retry_at: now + RETRY });
                } else {
                    self.notifier.answer(&question, in_the_end(question.call, errno));
                }
            }
        }
    }
}

/// Returns the answer to a question that could not be answered for too long.
fn in_the_end(call: Call, errno: Errno) -> Answer {
    match call {
        // Done by the kernel it would keep the address from all others.
        Call::Bind { .. } | Call::Listen { .. } => Answer::Fail(errno.raw_os_error()),
        Call::LookWhetherItListens { .. } | Call::Remove { .. } | Call::Other => Answer::Continue,
    }
}
