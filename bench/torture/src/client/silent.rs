//! Connections that never say anything, as browsers open in advance and health probes leave behind.

use crate::ledger::Ending;

use super::Client;

impl Client {
    /// Opens a connection and keeps it until the server ends it.
    pub(super) async fn silent(&mut self) {
        while !self.stopped() {
            let Some(mut connection) = self.connection().await else { continue };
            tokio::select! {
                () = connection.ended() => self.book.ended(self.class, Ending::Idle),
                _ended = self.stop.wait_for(|stop| *stop) => {}
            }
        }
    }
}
