//! Things that are kept for a while, each as long as the others.

use std::collections::VecDeque;
use std::time::Instant;

/// Things with the time when each is over. They have numbers, which are free for others afterwards.
#[derive(Debug)]
pub(super) struct Timed<T> {
    things: Vec<Option<(Instant, T)>>,
    free: Vec<usize>,
    /// When each is over, in that order. Some are over before; the first one never is.
    ends: VecDeque<(Instant, usize)>,
}

impl<T> Default for Timed<T> {
    fn default() -> Self {
        Self { things: Vec::new(), free: Vec::new(), ends: VecDeque::new() }
    }
}

impl<T> Timed<T> {
    pub(super) fn count(&self) -> usize {
        self.things.len() - self.free.len()
    }

    /// Keeps a thing until a time that is no earlier than that of any other, and returns its number.
    pub(super) fn add(&mut self, thing: T, until: Instant) -> usize {
        let index = self.free.pop().unwrap_or(self.things.len());
        self.ends.push_back((until, index));
        super::put(&mut self.things, index, (until, thing));
        index
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        self.things.get(index)?.as_ref().map(|(_, thing)| thing)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.things.get_mut(index)?.as_mut().map(|(_, thing)| thing)
    }

    pub(super) fn take(&mut self, index: usize) -> Option<T> {
        let (_, thing) = self.things.get_mut(index)?.take()?;
        self.free.push(index);
        while self.ends.pop_front_if(|end| !is_due(&self.things, *end)).is_some() {}
        Some(thing)
    }

    /// Returns one that is over.
    pub(super) fn ended(&self, now: Instant) -> Option<usize> {
        self.ends.front().filter(|(until, _)| *until <= now).map(|(_, index)| *index)
    }

    /// Returns when the next one is over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(until, _)| *until)
    }

    /// Returns the one that has been kept for the longest time.
    pub(super) fn oldest(&self) -> Option<usize> {
        self.ends.front().map(|(_, index)| *index)
    }

    /// Returns the numbers of those that are wanted.
    pub(super) fn which(&self, wanted: impl Fn(&T) -> bool) -> Vec<usize> {
        let all = self.things.iter().enumerate();
        all.filter_map(|(index, thing)| wanted(&thing.as_ref()?.1).then_some(index)).collect()
    }
}

/// Returns false when it was over before; there may be another one in its place.
fn is_due<T>(things: &[Option<(Instant, T)>], (until, index): (Instant, usize)) -> bool {
    things.get(index).and_then(Option::as_ref).is_some_and(|(known, _)| *known == until)
}
