//! What the documents say of the command line is what the binary offers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

#[test]
fn every_long_option_is_in_the_reference_and_no_other() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = std::fs::read_to_string(page).expect("docs/cli.md is there");
    let (_before, page) = page.split_once("## worksong run").expect("the page has a part about run");
    let (run, demo) = page.split_once("## worksong demo").expect("the page has a part about demo");

    let offered = options(&help("run"));
    assert!(offered.len() > 15, "the help was read: {offered:?}");
    // The page also names options of PM2 that are accepted in place of ours.
    let mut described = options(run);
    described.remove("--node-args");
    described.remove("--max-memory-restart");
    assert_eq!(offered, described);

    // What both commands have is described once, so each is named here; `--help` is everybody's.
    let mut offered = options(&help("demo"));
    offered.remove("--help");
    let (demo, _rest) = demo.split_once("\n## ").expect("another part follows");
    assert_eq!(offered, options(demo));
}

#[test]
fn defaults_are_those_of_the_help() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = std::fs::read_to_string(page).expect("docs/cli.md is there");
    let help = help("run");
    let mut compared = 0;
    // Each part begins with the name of an option and ends before the next one.
    for part in help.split("--").skip(1) {
        let name = part.split([' ', '\n']).next().unwrap_or_default();
        let default = part.split_once("[default: ").and_then(|(_, rest)| rest.split_once(']'));
        // A default with spaces is a rule and not a value; the page explains it.
        let Some((default, _)) = default.filter(|(default, _)| !default.contains(' ')) else { continue };
        let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("--{name} ")));
        let row = row.unwrap_or_else(|| panic!("--{name} has no row"));
        assert!(row.contains(&format!("| `{default}` |")), "--{name} is {default} by default: {row}");
        compared += 1;
    }
    assert!(compared >= 8, "{compared} defaults were compared");
}

fn help(command: &str) -> String {
    let mut worksong = Command::new(env!("CARGO_BIN_EXE_worksong"));
    let output = worksong.args([command, "--help"]).output().expect("the binary runs");
    String::from_utf8(output.stdout).expect("the help is text")
}

/// Returns everything that looks like a long option.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|character: char| !(character.is_ascii_lowercase() || character == '-'))
        .filter(|word| {
            word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        })
        .map(str::to_owned)
        .collect()
}
