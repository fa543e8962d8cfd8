//! With a shell script that says what a primary says: the real one is for the whole-system tests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// Starts a stand-in whose script can call `event NAME FIELDS…`.
fn stand_in(script: &str) -> Worksong {
    let prelude = r#"event() { name=$1; shift; echo "{\"event\":\"$name\",\"slot\":0,$*}" >&2; };"#;
    Worksong::with(["-c", &format!("{prelude} {script}")]).binary("/bin/sh").start()
}

/// Starts a stand-in whose workers get no time to end after it.
fn impatient_stand_in(script: &str) -> Worksong {
    let mut worksong = stand_in(script);
    worksong.grace = Duration::from_millis(10);
    worksong
}

#[test]
fn events_and_output_are_collected() {
    let worksong = stand_in(
        r#"event forked '"pid":4000001'; event listening '"pid":4000001,"port":8123'
           echo '{"app":"a","slot":0,"stream":"stdout","line":"hello"}'; echo other; sleep 1000"#,
    );
    assert_eq!(worksong.listening_port(), 8123);
    let slot = worksong.wait_output("hello", |output| (output.line == "hello").then_some(output.slot));
    assert_eq!(slot, 0);
    assert_eq!(worksong.worker_pids(), BTreeSet::from([4_000_001]));
    assert_eq!(worksong.events().len(), 2);
    assert_eq!(worksong.output().len(), 1);
}

#[test]
fn ready_workers_are_counted_by_the_latest_event() {
    let worksong = stand_in(
        r#"event ready '"pid":1'; event ready '"pid":2'; event exit '"pid":1'; event ready '"pid":3'
           event done '"pid":0'; sleep 1000"#,
    );
    worksong.wait_event("done", |_| true);
    assert_eq!(worksong.wait_ready(2), BTreeSet::from([2, 3]));
}

#[test]
fn the_world_is_its_own() {
    let launch = Worksong::with(["-c", "env; pwd; type node || true"]).binary("/bin/sh").env("GIVEN", "yes");
    let (status, lines) = launch.finish();
    assert!(status.success());
    let has = |text: &str| lines.iter().any(|line| line.text == text);
    assert!(has("GIVEN=yes"));
    assert!(!lines.iter().any(|line| line.text.starts_with("CARGO")));
    let home = lines.iter().find_map(|line| line.text.strip_prefix("HOME=")).expect("HOME is set");
    assert!(has(home), "the working directory is the home");
    assert_ne!(Some(OsString::from(home)), env::var_os("HOME"));
}

#[test]
fn a_worker_that_outlives_the_primary_fails_the_test_and_is_ended() {
    let worksong = impatient_stand_in(r#"sleep 1000 & event forked "\"pid\":$!"; wait"#);
    let worker = Process::find(worksong.wait_event("forked", |_| true).pid()).unwrap();
    let home = worksong.home().path().to_owned();
    let panic = catch_unwind(AssertUnwindSafe(|| drop(worksong))).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert_eq!(*message, format!("workers outlived the primary: [{}]", worker.pid()));
    assert!(within(patience(), || (!worker.is_alive()).then_some(())).is_some());
    // It is kept for a failed test, which this one is not.
    std::fs::remove_dir_all(home).unwrap();
}
