//! The peers that `bench/torture` compares worksong with: each is started, reloaded and ended, so that a comparison is
//! possible at any time. What they lose is no matter here.

use std::collections::BTreeSet;
use std::time::Duration;

use worksong_testkit::eventually;
use worksong_torture::{Class, Crowd, Fate, Kind, Plan, Scenario, Settings};

const RELOADS: u32 = 2;

#[track_caller]
fn assert_reloads(kind: Kind) {
    let settings = Settings { deadline: Duration::from_secs(1), ..Settings::default() };
    let mut system = kind.start(&settings);
    let workers =
        |system: &dyn worksong_torture::System| system.workers().into_iter().collect::<BTreeSet<_>>();
    let before = workers(system.as_ref());
    assert_eq!(before.len(), settings.workers, "{}", kind.name());

    let crowd = Class::ALL.into_iter().fold(Crowd::nobody(), |crowd, class| crowd.with(class, 1));
    let plan = Plan { crowd, patience: Duration::from_secs(5), ..Plan::default() };
    let outcome = Scenario::Reload(RELOADS).run(system.as_mut(), &plan, settings.deadline, None);
    assert_eq!((outcome.ended_by, outcome.steps.len()), (None, RELOADS as usize), "{}", kind.name());
    for class in Class::ALL {
        let tally = outcome.ledger.class(class);
        assert!(tally.opened > 0, "{} {class}: {tally:?}", kind.name());
    }
    assert!(outcome.ledger.total().fate(Fate::Served) > 0, "{}", kind.name());
    let after = eventually("the new workers alone", || {
        Some(workers(system.as_ref())).filter(|after| after.len() == settings.workers)
    });
    assert!(after.is_disjoint(&before), "{}: {before:?}, then {after:?}", kind.name());
}

#[test]
fn pm2_reloads() {
    assert_reloads(Kind::Pm2);
}

#[test]
fn pm2_reloads_a_graceful_program() {
    assert_reloads(Kind::Pm2Graceful);
}

#[test]
fn recluster_reloads() {
    assert_reloads(Kind::Recluster);
}

#[test]
fn nodes_own_cluster_reloads() {
    assert_reloads(Kind::NodeCluster);
}
