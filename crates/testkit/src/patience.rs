//! How long tests wait.

use std::env;
use std::time::{Duration, Instant};

/// Returns how long a test waits for something: `WORKSONG_TEST_PATIENCE` seconds, 20 by default.
#[must_use]
pub fn patience() -> Duration {
    let seconds = env::var("WORKSONG_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Asks until there is an answer, and returns it.
///
/// For what nobody announces, such as the end of a process that is not a child. Wait for an event where there is one.
///
/// # Panics
///
/// When [`patience`] is over; `what` says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    match within(patience(), ask) {
        Some(answer) => answer,
        None => panic!("waited {:?} in vain for {what}", patience()),
    }
}

/// Asks until there is an answer or the time is over.
pub(crate) fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause_for(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where tests poll")]
pub(crate) fn pause_for(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_the_wait() {
        let mut left = 3;
        let answer = eventually("three questions", || {
            left -= 1;
            (left == 0).then_some("answer")
        });
        assert_eq!(answer, "answer");
    }

    #[test]
    fn the_question_is_asked_even_without_time() {
        assert_eq!(within(Duration::ZERO, || Some(1)), Some(1));
        assert_eq!(within(Duration::ZERO, || None::<u32>), None);
    }
}
