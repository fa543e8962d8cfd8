//! The command line: one benchmark and its settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::system::{self, Programs, System};

/// What `worksong-bench help` prints.
pub(crate) const HELP: &str = "\
Measure worksong and Node's own cluster side by side

Usage: worksong-bench BENCHMARK [OPTIONS]

Benchmarks:
  accept     New connections: rate and CPU time of primary and workers, saturated and at a fixed rate
  keepalive  Requests on open connections: rate and CPU time
  memory     Memory of the primary, fresh and after load
  start      Time from the start until all workers listen
  all        All of them

Options:
  --rounds N          Measure each system N times, in turn [default: 7; memory 3]
  --seconds S         Measure for S seconds each time [default: 1.5]
  --workers N,N       Numbers of workers [default: accept 2,4; keepalive 2; memory 2,64; start 2,8,32]
  --rate N            Connections per second of the fixed rate [default: 2000]
  --systems A,B       Systems to compare [default: all that can run here]
  --json PATH         Write all rounds to this file [default: target/bench/BENCHMARK.json]
  --node PATH         Node binary [default: node]
  --worksong PATH     worksong binary [default: beside this program]
  --rust-worker PATH  Rust worker that answers `hello PID` [default: beside this program]

Systems: node-rr, node-none, worksong, worksong-shared, worksong-kernel, worksong-rust,
         worksong-rust-kernel
";

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Benchmark {
    /// New connections.
    Accept,
    /// Requests on open connections.
    KeepAlive,
    /// Memory of the primary.
    Memory,
    /// Time to ready.
    Start,
}

impl Benchmark {
    /// Every benchmark, in the order of `all`.
    pub(crate) const ALL: [Self; 4] = [Self::Accept, Self::KeepAlive, Self::Memory, Self::Start];

    /// Returns what is typed for it; its file of results is named after it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::KeepAlive => "keepalive",
            Self::Memory => "memory",
            Self::Start => "start",
        }
    }

    fn default_workers(self) -> &'static [u32] {
        match self {
            Self::Accept => &[2, 4],
            Self::KeepAlive => &[2],
            Self::Memory => &[2, 64],
            Self::Start => &[2, 8, 32],
        }
    }

    fn default_rounds(self) -> usize {
        match self {
            Self::Accept | Self::KeepAlive | Self::Start => 7,
            Self::Memory => 3,
        }
    }
}

/// What was typed.
#[derive(Debug)]
pub(crate) struct Options {
    /// The benchmarks to run.
    pub(crate) benchmarks: Vec<Benchmark>,
    /// How long one run is measured.
    pub(crate) measure: Duration,
    /// The fixed rate of new connections per second.
    pub(crate) rate: u32,
    /// The systems to compare.
    pub(crate) systems: Vec<&'static System>,
    /// Where the systems' programs are.
    pub(crate) programs: Programs,
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
            measure: Duration::from_millis(1500),
            rate: 2000,
            systems: system::ALL.iter().collect(),
            programs: Programs {
                node: "node".into(),
                worksong: beside.join("worksong"),
                rust_worker: beside.join("worksong-bench-worker"),
                servers: Path::new(env!("CARGO_MANIFEST_DIR")).join("servers"),
            },
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
                self.measure = value
                    .parse()
                    .ok()
                    .filter(|seconds| (0.1..=3600.0).contains(seconds))
                    .map(Duration::from_secs_f64)
                    .ok_or_else(|| wrong("a number of seconds from 0.1 to 3600"))?;
            }
            "--rate" => self.rate = positive(value).ok_or_else(|| wrong("a positive number"))?,
            "--workers" => {
                let numbers: Option<Vec<u32>> = value.split(',').map(positive).collect();
                self.workers = Some(numbers.ok_or_else(|| wrong("a list of positive numbers such as 2,4"))?);
            }
            "--systems" => {
                let systems: Option<Vec<_>> = value.split(',').map(System::named).collect();
                self.systems = systems.ok_or_else(|| wrong("a list of systems such as node-rr,worksong"))?;
            }
            "--json" => self.json = Some(value.into()),
            "--node" => self.programs.node = value.into(),
            "--worksong" => self.programs.worksong = value.into(),
            "--rust-worker" => self.programs.rust_worker = value.into(),
            _ => return Err(Error::Usage(format!("there is no option {option:?}"))),
        }
        Ok(())
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
        assert_eq!(options.programs.worksong, Path::new("/build/worksong"));
    }

    #[test]
    fn options_replace_defaults() {
        let options =
            parse("accept --rounds 3 --seconds 0.5 --workers 2,8 --systems node-rr,worksong --rate 500")
                .unwrap();
        assert_eq!(options.benchmarks, [Benchmark::Accept]);
        assert_eq!((options.rounds(Benchmark::Accept), options.rate), (3, 500));
        assert_eq!(options.measure, Duration::from_millis(500));
        assert_eq!(options.workers(Benchmark::Accept), [2, 8]);
        assert_eq!(options.systems.len(), 2);
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
        for system in &system::ALL {
            assert!(HELP.contains(system.name), "{}", system.name);
        }
        for benchmark in Benchmark::ALL {
            assert!(HELP.contains(benchmark.name()), "{}", benchmark.name());
        }
    }
}
