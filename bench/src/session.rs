//! What all benchmarks of one call share: settings, guard, the machine, and where results go.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::load::Sample;
use crate::options::{Benchmark, Options};
use crate::system::{Programs, Script, System};

/// The settings of this call and what runs under them.
#[derive(Debug)]
pub(crate) struct Session {
    /// What was typed.
    pub(crate) options: Options,
    /// Ends what is left when this program ends in any way.
    pub(crate) guard: Guard,
    machine: Vec<(&'static str, String)>,
}

impl Session {
    /// Looks at the machine and starts the guard.
    pub(crate) fn open(options: Options) -> Result<Self> {
        let machine = describe(&options.programs);
        Ok(Self { guard: Guard::start()?, options, machine })
    }

    /// Prints the machine and the versions: the line above every table.
    pub(crate) fn print_heading(&self) -> Result<()> {
        let machine: Vec<_> = self.machine.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        print(&format!("{}\n", machine.join(" · ")))
    }

    /// Returns the systems of a benchmark that can run here, and prints which cannot.
    pub(crate) fn systems(&self, benchmark: Benchmark) -> Result<Vec<&'static System>> {
        let (mut systems, mut reasons) = (Vec::new(), Vec::new());
        for system in self.options.systems(benchmark) {
            match system.missing(&self.options.programs) {
                None => systems.push(system),
                Some(reason) => reasons.push((system.name, reason)),
            }
        }
        if systems.is_empty() {
            let reasons: Vec<_> = reasons.into_iter().map(|(_, reason)| reason).collect();
            return Err(Error::Usage(format!("no system can run: {}", reasons.join("; "))));
        }
        for (name, reason) in reasons {
            print(&format!("Skipped {name}: {reason}\n"))?;
        }
        Ok(systems)
    }

    /// Returns the systems of a benchmark, all of which it needs.
    pub(crate) fn all_systems(&self, benchmark: Benchmark) -> Result<Vec<&'static System>> {
        let systems = self.options.systems(benchmark);
        for system in &systems {
            if let Some(reason) = system.missing(&self.options.programs) {
                let name = system.name;
                return Err(Error::Usage(format!("{name} cannot run: {reason}; `--systems` leaves it out")));
            }
        }
        Ok(systems)
    }

    /// Starts a system and waits until all its workers listen.
    pub(crate) fn start(&self, system: &'static System, workers: u32, script: Script) -> Result<Cluster<'_>> {
        Cluster::start(system, &self.options.programs, workers, script, &self.guard)
    }

    /// Tells whoever waits what happens now; results go to stdout, this to stderr.
    #[expect(clippy::unused_self, reason = "only a benchmark that runs has progress to tell")]
    pub(crate) fn progress(&self, line: &str) {
        // A closed stderr is no reason to stop measuring.
        writeln!(std::io::stderr(), "{line}").ok();
    }

    /// Tells how many requests to a system failed, if any did.
    pub(crate) fn tell_failures(&self, system: &System, sample: &Sample) {
        if let Some(failure) = &sample.first_failure {
            self.progress(&format!("  {}: {} failed, the first: {failure}", system.name, sample.failed));
        }
    }

    /// Writes what a benchmark measured to its file.
    pub(crate) fn write_json(&self, benchmark: Benchmark, results: &[Value]) -> Result<()> {
        let named = |pairs: &[(&'static str, String)]| -> Value {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect()
        };
        let document = json!({
            "benchmark": benchmark.name(),
            "machine": named(&self.machine),
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
        ("Node", version(&programs.node, "--version")),
    ];
    if programs.worksong.is_file() {
        machine.push(("worksong", version(&programs.worksong, "--version")));
    }
    if programs.nginx.is_file() {
        machine.push(("nginx", version(&programs.nginx, "-v")));
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

fn version(program: &Path, option: &str) -> String {
    match Command::new(program).arg(option).output() {
        // nginx tells its version on stderr.
        Ok(output) if output.status.success() => {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).trim().trim_start_matches("nginx version: ").to_owned()
        }
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}
