use std::io::Read;
use std::os::fd::AsFd;

use super::*;

fn text(value: &str) -> OsString {
    OsString::from(value)
}

/// Runs `sh -c script` with descriptors 1 = the pipe and 3 = `third`, and returns its process id and what it wrote.
fn run(
    script: &str,
    environment: &[(&str, &str)],
    third: Option<OwnedFd>,
    directory: Option<&str>,
) -> (u32, String) {
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let mut descriptors = vec![(OwnedFd::from(writer), 1)];
    let listen_pid = third.is_some();
    descriptors.extend(third.map(|third| (third, 3)));
    let Started { pid, .. } = spawn(Launch {
        program: text("/bin/sh"),
        arguments: ["sh", "-c", script].map(text).to_vec(),
        environment: environment.iter().map(|(name, value)| (text(name), text(value))).collect(),
        directory: directory.map(text),
        descriptors,
        listen_pid,
        outlives_parent: false,
        asks: None,
    })
    .expect("spawn");
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("read");
    reap(c_int::try_from(pid).expect("a process id"));
    (pid, output)
}

#[test]
fn the_child_has_exactly_what_it_was_given() {
    let (pid, output) = run(
        "echo $$ $A $HOME; pwd; ls /proc/self/fd | tr '\\n' ' '",
        &[("A", "1 2"), ("PATH", "/usr/bin:/bin")],
        None,
        Some("/"),
    );
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(format!("{pid} 1 2").as_str()));
    assert_eq!(lines.next(), Some("/"));
    // 0 and 2 are this process's own, 3 is the folder that `ls` reads.
    assert_eq!(lines.next().map(str::trim), Some("0 1 2 3"));
}

#[test]
fn it_leads_a_process_group_and_dies_with_its_parent() {
    let (pid, output) = run(
        "cut -d' ' -f5 /proc/$$/stat; grep -c . /proc/$$/status",
        &[("PATH", "/usr/bin:/bin")],
        None,
        None,
    );
    assert_eq!(output.lines().next(), Some(pid.to_string().as_str()), "its group is its own");
}

#[test]
fn listen_pid_is_its_own_and_descriptors_stand_at_their_numbers() {
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let (pid, output) = run("echo $LISTEN_PID; echo third >&3", &[], Some(OwnedFd::from(writer)), None);
    assert_eq!(output.trim(), pid.to_string());
    let mut third = String::new();
    reader.read_to_string(&mut third).expect("read");
    assert_eq!(third, "third\n");
}

#[test]
fn signals_are_as_a_new_program_expects_them() {
    let (_, output) =
        run("exec grep -E '^Sig(Blk|Ign)' /proc/self/status", &[("PATH", "/usr/bin:/bin")], None, None);
    for line in output.lines() {
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16).expect("hex");
        // The C library keeps signals 32 and 33 for itself and lets nobody change them.
        assert_eq!(mask & !(0b11 << 31), 0, "{line}");
    }
    assert_eq!(output.lines().count(), 2);
}

#[test]
fn failures_name_the_step_and_the_reason() {
    let launch = |program: &str, directory: Option<&str>| Launch {
        program: text(program),
        arguments: vec![text(program)],
        environment: Vec::new(),
        directory: directory.map(text),
        descriptors: Vec::new(),
        listen_pid: false,
        outlives_parent: false,
        asks: None,
    };
    let missing = spawn(launch("/nowhere/program", None)).expect_err("there is no such program");
    assert!(missing.to_string().starts_with("could not execute /nowhere/program: No such file"), "{missing}");
    let folder = spawn(launch("/bin/true", Some("/nowhere"))).expect_err("there is no such folder");
    assert!(folder.to_string().contains("working directory /nowhere"), "{folder}");
    let nul = spawn(launch("/bin/\0", None)).expect_err("a NUL byte");
    assert!(matches!(nul, SpawnError::NulByte { .. }));
}

#[test]
fn a_number_without_a_descriptor_is_an_error() {
    assert_eq!(duplicate_number(-1).expect_err("negative").raw_os_error(), Some(libc::EBADF));
    assert_eq!(duplicate_number(99_999).expect_err("closed").raw_os_error(), Some(libc::EBADF));
    let (reader, _writer) = std::io::pipe().expect("pipe");
    let copy = duplicate_number(reader.as_raw_fd()).expect("an open descriptor");
    assert!(rustix::io::fcntl_getfd(copy.as_fd()).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
}
