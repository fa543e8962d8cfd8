//! What other code of this process could not get from the system.

use super::{App, Request};
use crate::shortage::Shortage;

impl App {
    /// Tells that this process could not get something from the system, besides what the engine itself needs: it becomes an
    /// [`Event::Shortage`](crate::event::Event::Shortage) unless that was told.
    ///
    /// The shortage is over when nothing was missed for a while, so this is to be called again, every second at least, for as
    /// long as it lasts.
    ///
    /// # Cancel safety
    ///
    /// It is told or not told.
    pub async fn note_shortage(&self, of: Shortage) {
        // An app that has ended has nobody to tell.
        let _ended = self.requests.send(Request::NoteShortage { of }).await;
    }
}
