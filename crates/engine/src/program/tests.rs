use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A folder with a project in it and a `bin` folder for `PATH`, removed at the end.
struct Project(PathBuf);

impl Project {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("worksong-program-{}-{number}", std::process::id()));
        fs::create_dir_all(folder.join("bin")).unwrap();
        Self(folder)
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn executable(self, name: &str, text: &str) -> Self {
        let project = self.file(name, text);
        fs::set_permissions(project.0.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        project
    }

    fn request(&self, typed: &[&str]) -> Request {
        Request {
            program: typed[0].into(),
            args: typed[1..].iter().map(OsString::from).collect(),
            cwd: Some(self.0.clone()),
            search_path: self.0.join("bin").into(),
            ..Request::default()
        }
    }

    fn run(&self, typed: &[&str]) -> Resolved {
        resolve(&self.request(typed)).unwrap()
    }

    fn error(&self, typed: &[&str]) -> String {
        resolve(&self.request(typed)).unwrap_err().to_string()
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn args(resolved: &Resolved) -> Vec<&str> {
    resolved.command.args.iter().map(|argument| argument.to_str().unwrap()).collect()
}

const NODE: Dialect = Dialect::Node(NodeFlavour::Node);

#[test]
fn scripts_get_the_interpreter_of_their_ending() {
    let mut project = Project::new();
    let table = [
        ("server.js", "node"),
        ("a.cjs", "node"),
        ("a.mjs", "node"),
        ("a.ts", "node"),
        ("a.mts", "node"),
        ("a.cts", "node"),
        ("a.py", "python3"),
        ("a.sh", "sh"),
        ("a.rb", "ruby"),
        ("a.php", "php"),
        ("a.pl", "perl"),
    ];
    for (script, interpreter) in table {
        project = project.file(script, "").executable(&format!("bin/{interpreter}"), "");
    }
    for (script, interpreter) in table {
        let resolved = project.run(&[script, "--port", "1"]);
        assert_eq!(resolved.command.program, project.bin(interpreter), "{script}");
        assert_eq!(args(&resolved), [script, "--port", "1"], "the script stays as typed");
        let expected = if interpreter == "node" { NODE } else { Dialect::Port { base: None } };
        assert_eq!(resolved.dialect, expected, "{script}");
        assert_eq!(resolved.ready, Ready::Auto);
    }
    assert_eq!(project.run(&["./server.js"]).name, "server");
}

#[test]
fn an_interpreter_can_be_named() {
    let project = Project::new()
        .file("server.js", "")
        .file("worker.ts", "")
        .file("start", "")
        .executable("bin/node22", "")
        .executable("bin/deno", "")
        .executable("bin/bun", "")
        .executable("bin/python3.12", "");
    let with = |script: &str, interpreter: &str, options: &[&str]| {
        let mut request = project.request(&[script, "x"]);
        request.interpreter = Some(interpreter.into());
        request.interpreter_args = options.iter().map(OsString::from).collect();
        resolve(&request).unwrap()
    };
    let node = with("server.js", "node22", &["--inspect-port=0"]);
    assert_eq!((args(&node), node.dialect), (vec!["--inspect-port=0", "server.js", "x"], NODE));
    let deno = with("worker.ts", "deno", &[]);
    assert_eq!(args(&deno), ["run", "-A", "worker.ts", "x"]);
    assert_eq!(deno.dialect, Dialect::Node(NodeFlavour::Deno));
    assert_eq!(with("server.js", "bun", &[]).dialect, Dialect::Node(NodeFlavour::Bun));
    let python = with("start", "python3.12", &["-u"]);
    assert_eq!((args(&python), python.dialect), (vec!["-u", "start", "x"], Dialect::Port { base: None }));
    let by_path = with("server.js", project.bin("node22").to_str().unwrap(), &[]);
    assert_eq!(by_path.command.program, project.bin("node22"));
}

#[test]
fn runtimes_are_commands_too() {
    let project = Project::new()
        .file("api.js", "")
        .executable("bin/node", "")
        .executable("bin/deno", "")
        .executable("bin/bun", "");
    let node = project.run(&["node", "api.js", "-x"]);
    assert_eq!((args(&node), node.dialect, node.name.as_str()), (vec!["api.js", "-x"], NODE, "api"));
    let deno = project.run(&["deno", "run", "-A", "api.js"]);
    assert_eq!((args(&deno), deno.dialect), (vec!["run", "-A", "api.js"], Dialect::Node(NodeFlavour::Deno)));
    assert_eq!(project.run(&["bun", "api.js"]).dialect, Dialect::Node(NodeFlavour::Bun));
    assert!(project.error(&["node"]).contains("node has no script to run; type `worksong run"));
    assert!(project.error(&["node", "apj.js"]).contains("did you mean `worksong run api.js`?"));
}

#[test]
fn what_an_interpreter_runs_is_no_rust_worker() {
    let project = Project::new()
        .executable("bin/python3.12", "")
        .executable("bin/java", "")
        .executable("bin/gunicorn", "#!/srv/venv/bin/python3\n")
        .executable("bin/start", "#!/bin/sh\n")
        .executable("bin/api", "\x7fELF");
    for typed in
        [&["python3.12", "-m", "http.server"][..], &["java", "-jar", "a.jar"], &["gunicorn", "app:app"]]
    {
        assert_eq!(project.run(typed).dialect, Dialect::Port { base: None }, "{typed:?}");
    }
    for typed in ["start", "api"] {
        assert_eq!(project.run(&[typed]).dialect, Dialect::Native, "{typed}");
    }
}

#[test]
fn executables_are_found_by_path_and_by_name() {
    let project = Project::new()
        .executable("bin/gunicorn", "")
        .executable("target/api", "")
        .executable("local", "")
        .executable("bin/www", "#!/usr/bin/env node\n")
        .executable("bin/strict", "#!/usr/bin/env -S node --use-strict\n")
        .file("plain-www", "#!/usr/bin/node\n")
        .executable("bin/node", "");
    let named = project.run(&["gunicorn", "app:app"]);
    assert_eq!((named.command.program.clone(), args(&named)), (project.bin("gunicorn"), vec!["app:app"]));
    assert_eq!(project.run(&["./target/api"]).command.program, project.0.join("target/api"));
    assert_eq!(project.run(&["local"]).command.program, project.0.join("local"));
    for script in ["bin/www", "www", "strict"] {
        let resolved = project.run(&[script]);
        assert_eq!(resolved.dialect, NODE, "the first line of {script} names node");
        assert!(resolved.command.program.starts_with(project.0.join("bin")));
        assert!(args(&resolved).is_empty());
    }
    let plain = project.run(&["plain-www"]);
    assert_eq!((plain.command.program.clone(), args(&plain)), (project.bin("node"), vec!["plain-www"]));
    let mut request = project.request(&["bin/www"]);
    request.interpreter_args = vec!["--inspect".into()];
    assert_eq!(args(&resolve(&request).unwrap()), ["--inspect", "bin/www"]);
    request.program = "gunicorn".into();
    assert!(resolve(&request).unwrap_err().to_string().contains("write its arguments after it"));
}

#[test]
fn a_folder_means_its_package() {
    let project = Project::new()
        .executable("bin/node", "")
        .file("one/package.json", r#"{"name": "@acme/shop.api", "main": "lib/start"}"#)
        .file("one/lib/start.js", "")
        .file("two/package.json", "{}")
        .file("two/index.js", "")
        .file("bad/package.json", "{")
        .file("gone/package.json", r#"{"main": "gone.js"}"#)
        .file("odd/package.json", r#"{"main": 1}"#)
        .file("none/app.js", "");
    let one = project.run(&["one"]);
    assert_eq!((args(&one), one.name.as_str()), (vec!["one/lib/start.js"], "shop.api"));
    let two = project.run(&["./two"]);
    assert_eq!((args(&two), two.name.as_str()), (vec!["./two/index.js"], "two"));
    assert!(project.error(&["bad"]).contains("bad/package.json: it is not valid JSON"));
    assert!(project.error(&["gone"]).contains("its \"main\" gone.js does not exist"));
    assert!(project.error(&["odd"]).contains("its \"main\" is not the path of a script"));
    assert!(project.error(&["none"]).contains("is a directory without a package.json"));
    assert!(project.error(&["none"]).contains("did you mean `worksong run none/app.js`?"));
}

#[test]
fn the_dialect_follows_from_the_program_and_the_options() {
    let project =
        Project::new().executable("bin/api", "").executable("bin/node", "").file("a.js", "").file("b.py", "");
    let project = project.executable("bin/python3", "");
    let choose = |program: &str, dialect, listens, port| {
        let request = Request { dialect, listens, port, ..project.request(&[program]) };
        let resolved = resolve(&request).unwrap();
        let port_variable = resolved.command.env.iter().any(|(name, value)| name == "PORT" && value == "80");
        (resolved.dialect, resolved.ready, port_variable)
    };
    let auto = DialectChoice::Auto;
    let some_port = Dialect::Port { base: Some(80) };
    assert_eq!(choose("a.js", auto, true, None), (NODE, Ready::Auto, false));
    assert_eq!(choose("a.js", auto, false, Some(80)), (NODE, Ready::Auto, true));
    assert_eq!(choose("api", auto, false, None), (Dialect::Native, Ready::Observed, false));
    assert_eq!(choose("api", auto, true, None), (Dialect::Activation, Ready::Auto, false));
    assert_eq!(choose("api", auto, false, Some(80)), (some_port, Ready::Auto, false));
    assert_eq!(choose("b.py", auto, false, None), (Dialect::Port { base: None }, Ready::Auto, false));
    assert_eq!(choose("api", DialectChoice::Native, false, None), (Dialect::Native, Ready::Auto, false));
    assert_eq!(choose("api", DialectChoice::Node, false, None), (NODE, Ready::Auto, false));
    assert_eq!(
        choose("a.js", DialectChoice::Activation, true, None),
        (Dialect::Activation, Ready::Auto, false)
    );
    assert_eq!(choose("a.js", DialectChoice::Port, false, Some(80)), (some_port, Ready::Auto, false));
}

#[test]
fn what_cannot_run_is_said_with_the_fix() {
    let project = Project::new()
        .file("server.js", "")
        .file("app.mjs", "")
        .file("notes", "")
        .file("only.rb", "")
        .file("x.js/keep", "");
    let cases: &[(&[&str], &str)] = &[
        (&["sever.js"], "could not find sever.js in /"),
        (&["sever.js"], "did you mean `worksong run server.js`?"),
        (&["./Server.js"], "did you mean `worksong run ./server.js`?"),
        (&["app.js"], "did you mean `worksong run app.mjs`?"),
        (&["server"], "could not find server on PATH; did you mean `worksong run server.js`?"),
        (&["nothing-like-it"], "install it, or type the path of the program"),
        (&["missing/dir/a.js"], "type the path of the program, or name its folder with --cwd"),
        (&["notes"], "notes is not executable; type `chmod +x "),
        (
            &["server.js"],
            "could not find node to run server.js; install Node.js from https://nodejs.org, or give",
        ),
        (&["only.rb"], "could not find ruby to run only.rb; install Ruby"),
        (&["x.js"], "x.js is a directory"),
        (&[""], "no program was named"),
    ];
    for (typed, expected) in cases {
        let error = project.error(typed);
        assert!(error.contains(expected), "{typed:?}: {error}");
    }
    assert!(project.error(&["/dev/null"]).contains("it is not a regular file"));
    let mut request = project.request(&["server.js"]);
    request.interpreter = Some("/nonexistent/node".into());
    let error = resolve(&request).unwrap_err().to_string();
    assert!(error.starts_with("could not find /nonexistent/node to run server.js"), "{error}");
    request.cwd = Some(project.0.join("missing"));
    assert!(resolve(&request).unwrap_err().to_string().contains("name a folder that exists with --cwd"));
}

#[test]
fn known_traps_are_explained() {
    let project = Project::new()
        .file("package.json", r#"{"scripts": {"start": "node app.js"}}"#)
        .file("app.js", "")
        .executable("bin/npm", "#!/usr/bin/env node\n")
        .executable("bin/tsx", "#!/usr/bin/env node\n")
        .executable("bin/node", "");
    let npm = project.run(&["npm", "start"]);
    assert!(npm.warnings[0].to_string().contains("the start script is `node app.js`"));
    assert_eq!(npm.dialect, Dialect::Port { base: None }, "the channel would end in npm");
    let watch = project.run(&["node", "--watch", "app.js"]);
    assert!(watch.warnings[0].to_string().contains("leave --watch out"));
    let inline = project.run(&["node", "-e", "1"]);
    assert!(inline.warnings[0].to_string().contains("put the code into a file"));
    let captured = Request { dialect: DialectChoice::Capture, ..project.request(&["node", "-e", "1"]) };
    assert_eq!(resolve(&captured).unwrap().warnings, [], "it binds by itself");
    assert!(project.run(&["tsx", "app.js"]).warnings[0].to_string().contains("--import tsx"));
    assert_eq!(project.run(&["node", "app.js", "-e", "--watch"]).warnings, [], "these are the program's own");
    let mut request = project.request(&["app.js"]);
    request.interpreter_args = vec!["--watch".into()];
    assert_eq!(resolve(&request).unwrap().warnings.len(), 1);
}

#[test]
fn links_are_left_for_each_start_to_follow() {
    let project = Project::new()
        .file("releases/1/server.js", "")
        .executable("bin/node", "")
        .executable("releases/1/api", "");
    std::os::unix::fs::symlink("releases/1", project.0.join("current")).unwrap();
    assert_eq!(args(&project.run(&["current/server.js"])), ["current/server.js"]);
    assert_eq!(project.run(&["current/api"]).command.program, project.0.join("current/api"));
}
