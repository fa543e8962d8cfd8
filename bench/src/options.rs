//! The command line: one benchmark and its settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::system::{Programs, System};

mod benchmark;

pub(crate) use self::benchmark::Benchmark;

/// What `worksong-bench help` prints.
pub(crate) const HELP: &str = "\
Measure worksong and Node's own cluster side by side

Usage: worksong-bench BENCHMARK [OPTIONS]

Benchmarks:
  accept     New connections: rate and CPU time of primary and workers, saturated and at a fixed rate
  keepalive  Requests on open connections: rate and CPU time, with many and with few connections
  memory     Memory of the primary, fresh and after load
  start      Time from the start until all workers listen
  fairness   How evenly 8 workers are used: many short connections, a fixed rate, 400 held at once
  skew       How long new connections wait while a worker is blocked or some requests are slow
  peek       What it costs the primary to look at a connection's first bytes
  affinity   Whether keys stay with their slot through resizes, reloads and kills; a large upload
  stall      Whether new connections wait while the primary's control plane is blocked
  slow       Whether new connections wait while others say nothing, or drip
  all        All of them

Options:
  --rounds N          Measure each system N times, in turn [default: 7; keepalive, stall, slow 5;
                      memory, fairness, skew 3; affinity 1]
  --seconds S         Measure for S seconds each time [default: 1.5; fairness, skew, slow 2; stall 4]
  --workers N,N       Numbers of workers [default: accept 2,4; keepalive, peek, stall, slow 2;
                      memory 2,64; start 2,8,32; fairness 8; skew 4; affinity 2,8,4]
  --rate N            Connections per second of the fixed rate [default: 2000; slow 1000; skew 400]
  --connections N     Short connections of fairness, over all rounds [default: 100000]
  --slow-clients N    Clients of slow that say nothing, or drip [default: 2000]
  --sessions N        Keys of affinity [default: 100000]
  --upload-mb N       Size of the upload of affinity [default: 1024]
  --systems A,B       Systems to compare [default: those of the benchmark that can run here]
  --json PATH         Write all rounds to this file [default: target/bench/BENCHMARK.json]
  --node PATH         Node binary [default: node]
  --nginx PATH        nginx binary [default: nginx]
  --worksong PATH     worksong binary [default: beside this program]
  --rust-worker PATH  Rust worker that answers `hello PID` [default: beside this program]

Systems: node-rr, node-none, worksong, worksong-least, worksong-shared, worksong-kernel,
         worksong-kernel-random, worksong-kernel-no-agent, worksong-sticky (by cookie),
         worksong-sticky-query, worksong-sticky-ip, worksong-rust, worksong-rust-kernel, worksong-library,
         worksong-library-stalled, nginx
";

/// What was typed.
#[derive(Debug)]
pub(crate) struct Options {
    /// The benchmarks to run.
    pub(crate) benchmarks: Vec<Benchmark>,
    /// How many short connections `fairness` makes to each system, over all rounds.
    pub(crate) connections: u64,
    /// How many clients of `slow` say nothing, or drip.
    pub(crate) slow_clients: usize,
    /// How many keys `affinity` follows.
    pub(crate) sessions: u32,
    /// How large the upload of `affinity` is.
    pub(crate) upload_bytes: u64,
    /// Where the systems' programs are.
    pub(crate) programs: Programs,
    measure: Option<Duration>,
    rate: Option<u32>,
    systems: Option<Vec<&'static System>>,
    rounds: Option<usize>,
    workers: Option<Vec<u32>>,
    json: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments after the program's name; `beside` is the folder of the program.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>, beside: &Path) -> Result<Self> {
        let mut arguments = arguments.into_iter();
        let name = arguments.next().ok_or_else(|| Error::Usage("no benchmark is named".to_owned()))?;
        let benchmarks = match Benchmark::ALL.into_iter().find(|benchmark| benchmark.name() == name) {
            Some(benchmark) => vec![benchmark],
            None if name == "all" => Benchmark::ALL.to_vec(),
            None => return Err(Error::Usage(format!("there is no benchmark {name:?}"))),
        };
        let mut options = Self {
            benchmarks,
            connections: 100_000,
            slow_clients: 2000,
            sessions: 100_000,
            upload_bytes: 1024 << 20,
            programs: Programs {
                node: "node".into(),
                worksong: beside.join("worksong"),
                rust_worker: beside.join("worksong-bench-worker"),
                rust_cluster: beside.join("worksong-bench-cluster"),
                nginx: on_path("nginx"),
                servers: Path::new(env!("CARGO_MANIFEST_DIR")).join("servers"),
            },
            measure: None,
            rate: None,
            systems: None,
            rounds: None,
            workers: None,
            json: None,
        };
        while let Some(option) = arguments.next() {
            let value =
                arguments.next().ok_or_else(|| Error::Usage(format!("{option} needs a value after it")))?;
            options.set(&option, &value)?;
        }
        if options.json.is_some() && options.benchmarks.len() > 1 {
            return Err(Error::Usage("--json names one file, but `all` writes one per benchmark".to_owned()));
        }
        Ok(options)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<()> {
        let wrong = |wanted: &str| Error::Usage(format!("{option} {value:?} is not {wanted}"));
        match option {
            "--rounds" => self.rounds = Some(positive(value).ok_or_else(|| wrong("a positive number"))?),
            "--seconds" => {
                let seconds = value.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
                let seconds = seconds.ok_or_else(|| wrong("a number of seconds from 0.1 to 3600"))?;
                self.measure = Some(Duration::from_secs_f64(seconds));
            }
            "--rate" => self.rate = Some(positive(value).ok_or_else(|| wrong("a positive number"))?),
            "--connections" => {
                self.connections = positive(value).ok_or_else(|| wrong("a positive number"))?;
            }
            "--slow-clients" => {
                self.slow_clients = positive(value).ok_or_else(|| wrong("a positive number"))?;
            }
            "--sessions" => self.sessions = positive(value).ok_or_else(|| wrong("a positive number"))?,
            "--upload-mb" => {
                let megabytes: u32 = positive(value).ok_or_else(|| wrong("a positive number"))?;
                self.upload_bytes = u64::from(megabytes) << 20;
            }
            "--workers" => {
                let numbers: Option<Vec<u32>> = value.split(',').map(positive).collect();
                self.workers = Some(numbers.ok_or_else(|| wrong("a list of positive numbers such as 2,4"))?);
            }
            "--systems" => {
                let systems: Option<Vec<_>> = value.split(',').map(System::named).collect();
                let systems = systems.ok_or_else(|| wrong("a list of systems such as node-rr,worksong"))?;
                self.systems = Some(systems);
            }
            "--json" => self.json = Some(value.into()),
            "--nginx" => self.programs.nginx = value.into(),
            "--node" => self.programs.node = value.into(),
            "--worksong" => self.programs.worksong = value.into(),
            "--rust-worker" => self.programs.rust_worker = value.into(),
            _ => return Err(Error::Usage(format!("there is no option {option:?}"))),
        }
        Ok(())
    }

    /// Returns the systems that are to be compared, whether they can run here or not.
    pub(crate) fn systems(&self, benchmark: Benchmark) -> Vec<&'static System> {
        self.systems.clone().unwrap_or_else(|| benchmark.default_systems())
    }

    /// Returns how long one run is measured.
    pub(crate) fn measure(&self, benchmark: Benchmark) -> Duration {
        self.measure.unwrap_or(benchmark.default_measure())
    }

    /// Returns the fixed rate of new connections per second; `default` when none was typed.
    pub(crate) fn rate(&self, default: u32) -> u32 {
        self.rate.unwrap_or(default)
    }

    /// Returns how often each system is measured.
    pub(crate) fn rounds(&self, benchmark: Benchmark) -> usize {
        self.rounds.unwrap_or(benchmark.default_rounds())
    }

    /// Returns the numbers of workers that are measured one after the other.
    pub(crate) fn workers(&self, benchmark: Benchmark) -> &[u32] {
        self.workers.as_deref().unwrap_or(benchmark.default_workers())
    }

    /// Returns where all rounds are written.
    pub(crate) fn json(&self, benchmark: Benchmark) -> PathBuf {
        self.json.clone().unwrap_or_else(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("bench");
            folder.join(benchmark.name()).with_extension("json")
        })
    }
}

/// Returns where a program is, its bare name when it is nowhere; servers are often in folders that are no user's.
fn on_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file()).unwrap_or_else(|| name.into())
}

fn positive<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number| *number >= T::from(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned), Path::new("/build"))
    }

    #[test]
    fn defaults_depend_on_the_benchmark() {
        let options = parse("all").unwrap();
        assert_eq!(options.workers(Benchmark::Memory), [2, 64]);
        assert_eq!(options.workers(Benchmark::Start), [2, 8, 32]);
        assert_eq!(options.rounds(Benchmark::Accept), 7);
        assert_eq!(options.measure(Benchmark::Stall), Duration::from_secs(4));
        assert_eq!((options.sessions, options.upload_bytes), (100_000, 1 << 30));
        assert_eq!(options.programs.worksong, Path::new("/build/worksong"));
    }

    #[test]
    fn options_replace_defaults() {
        let options =
            parse("accept --rounds 3 --seconds 0.5 --workers 2,8 --systems node-rr,worksong --rate 500")
                .unwrap();
        assert_eq!(options.benchmarks, [Benchmark::Accept]);
        assert_eq!((options.rounds(Benchmark::Accept), options.rate(2000)), (3, 500));
        assert_eq!(options.measure(Benchmark::Accept), Duration::from_millis(500));
        assert_eq!(options.workers(Benchmark::Accept), [2, 8]);
        assert_eq!(options.systems(Benchmark::Accept).len(), 2);
    }

    #[test]
    fn wrong_use_is_named() {
        for (line, part) in [
            ("", "no benchmark"),
            ("fast", "\"fast\""),
            ("accept --rounds", "--rounds needs a value"),
            ("accept --rounds 0", "\"0\" is not a positive number"),
            ("accept --seconds NaN", "not a number of seconds"),
            ("accept --workers 2,,4", "\"2,,4\""),
            ("accept --systems apache", "\"apache\""),
            ("accept --speed 9", "\"--speed\""),
            ("all --json x.json", "one per benchmark"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line:?} gave {error:?}");
        }
    }

    #[test]
    fn help_names_every_system_and_benchmark() {
        for system in &crate::system::ALL {
            assert!(HELP.contains(system.name), "{}", system.name);
        }
        for benchmark in Benchmark::ALL {
            assert!(HELP.contains(benchmark.name()), "{}", benchmark.name());
        }
    }
}
