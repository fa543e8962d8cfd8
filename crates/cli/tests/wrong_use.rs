//! What the binary answers when it is used wrongly: one clear error on stderr, nothing on stdout, exit code 2.

use std::process::{Command, Output};

fn worksong(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worksong"));
    command.args(arguments).env("NO_COLOR", "1").output().expect("the binary runs")
}

#[test]
fn wrong_use_is_answered_with_the_fix() {
    for (arguments, fix) in [
        (&[][..], "Usage: worksong <COMMAND>"),
        (&["server.js"], "To run a program, type `worksong run PROGRAM`."),
        (&["run"], "<PROGRAM> [ARGS]..."),
        (&["run", "--instnaces", "2", "a.js"], "--instances"),
        (&["run", "-i", "many", "a.js"], "type a number such as 4"),
        (&["run", "/nonexistent/server.js"], "type the path of the program, or name its folder with --cwd"),
        (&["run", "/"], "/ is a directory without a package.json"),
        (&["run", "--dialect", "activation", "sh"], "add --listen 8080"),
    ] {
        let output = worksong(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(fix), "{arguments:?}: {stderr}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for (arguments, part) in
        [(&["--help"][..], "demo"), (&["run", "--help"], "Signals:"), (&["--version"], "worksong 0.")]
    {
        let output = worksong(arguments);
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{arguments:?}");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
}
