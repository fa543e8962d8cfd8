//! One call of [`Supervisor::on`](super::Supervisor::on): its time, and the effects that it collects.

use std::time::{Duration, Instant};

use super::contract::Effect;
use crate::event::Event;

/// Stands for "never" where a configured deadline is beyond what an [`Instant`] can say.
const FAR_AWAY: Duration = Duration::from_hours(30 * 365 * 24);

/// The present of one input.
pub(super) struct Step<'a> {
    /// When the input happened.
    pub(super) now: Instant,
    /// What the shell will have to do.
    pub(super) effects: &'a mut Vec<Effect>,
}

impl Step<'_> {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.effects.push(Effect::Emit(event));
    }

    /// Returns the moment that is `delay` away; a configured delay may be absurdly long.
    pub(super) fn after(&self, delay: Duration) -> Instant {
        self.now.checked_add(delay).unwrap_or_else(|| self.now + FAR_AWAY)
    }
}
