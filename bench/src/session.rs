//! What all benchmarks of one call share: settings, guard, the machine, and where results go.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::options::{Benchmark, Options};
use crate::system::{Programs, System};

/// The settings of this call and what runs under them.
#[derive(Debug)]
pub(crate) struct Session {
    /// What was typed.
    pub(crate) options: Options,
    /// Ends what is left when this program ends in any way.
    pub(crate) guard: Guard,
    /// The systems that can run here.
    pub(crate) systems: Vec<&'static System>,
    machine: Vec<(&'static str, String)>,
    skipped: Vec<(&'static str, String)>,
}

impl Session {
    /// Looks at the machine and at which systems can run on it.
    pub(crate) fn open(options: Options) -> Result<Self> {
        let (mut systems, mut skipped) = (Vec::new(), Vec::new());
        for &system in &options.systems {
            match system.missing(&options.programs) {
                None => systems.push(system),
                Some(reason) => skipped.push((system.name, reason)),
            }
        }
        if systems.is_empty() {
            let reasons: Vec<_> = skipped.iter().map(|(_, reason)| reason.as_str()).collect();
            return Err(Error::Usage(format!("no system can run: {}", reasons.join("; "))));
        }
        let machine = describe(&options.programs);
        Ok(Self { guard: Guard::start()?, options, systems, machine, skipped })
    }

    /// Prints the machine, the versions and what is left out: the lines above every table.
    pub(crate) fn print_heading(&self) -> Result<()> {
        let machine: Vec<_> = self.machine.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        print(&format!("{}\n", machine.join(" · ")))?;
        for (name, reason) in &self.skipped {
            print(&format!("Skipped {name}: {reason}\n"))?;
        }
        Ok(())
    }

    /// Tells whoever waits what happens now; results go to stdout, this to stderr.
    #[expect(clippy::unused_self, reason = "only a benchmark that runs has progress to tell")]
    pub(crate) fn progress(&self, line: &str) {
        // A closed stderr is no reason to stop measuring.
        writeln!(std::io::stderr(), "{line}").ok();
    }

    /// Writes what a benchmark measured to its file.
    pub(crate) fn write_json(&self, benchmark: Benchmark, results: &[Value]) -> Result<()> {
        let named = |pairs: &[(&'static str, String)]| -> Value {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect()
        };
        let document = json!({
            "benchmark": benchmark.name(),
            "machine": named(&self.machine),
            "skipped": named(&self.skipped),
            "results": results,
        });
        let path = self.options.json(benchmark);
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(Error::system(format!("make the folder {}", folder.display())))?;
        fs::write(&path, format!("{document:#}\n"))
            .map_err(Error::system(format!("write {}", path.display())))?;
        self.progress(&format!("all rounds: {}", path.display()));
        Ok(())
    }
}

/// Prints to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(Error::system("write to stdout"))
}

fn describe(programs: &Programs) -> Vec<(&'static str, String)> {
    let mut machine = vec![
        ("CPU", cpu_model()),
        ("cores", std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string())),
        ("kernel", line_of("/proc/sys/kernel/osrelease")),
        ("Node", version(&programs.node)),
    ];
    if programs.worksong.is_file() {
        machine.push(("worksong", version(&programs.worksong)));
    }
    machine
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    model.map_or_else(|| "unknown".to_owned(), |model| model.trim().to_owned())
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn version(program: &Path) -> String {
    match Command::new(program).arg("--version").output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}
