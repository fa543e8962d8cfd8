//! The number of open connections, which the primary asks to be told.

use super::*;

/// Longer than what lies between two reports.
const PAUSE: Duration = Duration::from_millis(100);

impl Served {
    async fn count(&mut self) -> u64 {
        match self.primary.extension().await {
            Extension::Open { count } => count,
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn the_primary_is_told_how_many_connections_are_open_when_that_changes() {
    run(async |mut served| {
        served.primary.say(&Extension::Count { every: 20 });
        assert_eq!(served.count().await, 0, "the first one comes at once");
        let _stays = served.client().await;
        assert_eq!(served.count().await, 1);
        let leaves = served.client().await;
        assert_eq!(served.count().await, 2);
        drop(leaves);
        assert_eq!(served.count().await, 1);
        assert!(timeout(PAUSE, served.count()).await.is_err(), "nothing changed");
        served.primary.say(&Extension::Count { every: 0 });
        let _uncounted = served.client().await;
        assert!(timeout(PAUSE, served.count()).await.is_err(), "nobody wants to know");
    });
}

#[test]
fn what_came_and_went_between_two_reports_is_news() {
    run(async |mut served| {
        served.primary.say(&Extension::Count { every: 50 });
        assert_eq!(served.count().await, 0);
        let brief = served.client().await;
        drop(brief);
        // The primary has added it when it was taken.
        assert_eq!(served.count().await, 0);
    });
}

#[test]
fn a_worker_that_leaves_counts_on() {
    run(async |mut served| {
        served.primary.say(&Extension::Count { every: 20 });
        assert_eq!(served.count().await, 0);
        let mut client = served.client().await;
        assert_eq!(served.count().await, 1);
        served.primary.say(&Extension::Drain { moves: false });
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.count().await, 1, "at once");
        client.shutdown().await;
        assert_eq!(served.count().await, 0);
    });
}
