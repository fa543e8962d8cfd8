//! A runtime, a worker and a program in one call.

use std::panic;

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{BoxError, Drained, RunError};
use crate::worker::Worker;

/// Runs a program as a worker, on one thread: an app has one worker per core.
///
/// The runtime and the worker are made here, so call it first thing in `main`. The program's life is this:
///
/// * It runs until its future returns; that ends the worker. A server does so some time after
///   [`draining`](Worker::draining) has resolved. Tasks that it spawned are dropped then: wait for those that matter.
/// * A task that panics makes the worker leave: the panic is printed, the worker takes no more connections, another
///   takes its place, and what it was doing otherwise it finishes. A panic of the program's own future ends the
///   process, and the primary counts a crash.
/// * Without a primary the program runs [alone](Worker::alone): it binds its own sockets, and SIGTERM
///   or SIGINT make it drain; the second one ends it.
///
/// # Errors
/// When the worker could not be started, and with the program's own error. [`Drained`] is no error.
///
/// # Examples
/// ```no_run
/// fn main() -> Result<(), worksong_worker::RunError> {
///     worksong_worker::run(|worker| async move {
///         let listener = worker.listen("127.0.0.1:8000").await?;
///         loop {
///             let (stream, peer) = listener.accept().await?;
///             println!("worker {} serves {peer}", worker.id());
/// #           drop(stream);
///         }
///     })
/// }
/// ```
pub fn run<P, F>(program: P) -> Result<(), RunError>
where
    P: FnOnce(Worker) -> F,
    F: Future<Output = Result<(), BoxError>>,
{
    Options::default().run(program)
}

/// How [`run`] runs a program.
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    #[cfg(feature = "multi-thread")]
    threads: usize,
    leave_on_panic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            #[cfg(feature = "multi-thread")]
            threads: 1,
            leave_on_panic: true,
        }
    }
}

impl Options {
    /// Sets how many threads the worker's runtime has. Default 1.
    #[cfg(feature = "multi-thread")]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Sets whether a task's panic makes the worker leave. Default true.
    pub fn leave_on_panic(mut self, leave: bool) -> Self {
        self.leave_on_panic = leave;
        self
    }

    /// Runs a program as [`run`] does.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run<P, F>(self, program: P) -> Result<(), RunError>
    where
        P: FnOnce(Worker) -> F,
        F: Future<Output = Result<(), BoxError>>,
    {
        // Before the runtime, whose threads would forbid it.
        let worker = Worker::from_env().map_err(RunError::Environment)?.unwrap_or_else(Worker::alone);
        let runtime = self.runtime().map_err(RunError::Runtime)?;
        if self.leave_on_panic {
            leave_on_panic(worker.clone());
        }
        let result = runtime.block_on(async {
            if worker.is_alone() {
                tokio::spawn(drain_on_signal(worker.clone()));
            }
            let result = program(worker.clone()).await;
            worker.noted().await;
            result
        });
        worker.close();
        runtime.shutdown_background();
        match result {
            Err(error) if !Drained::caused(&*error) => Err(RunError::Program(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    #[cfg(feature = "multi-thread")]
    fn runtime(&self) -> std::io::Result<Runtime> {
        match self.threads {
            1 => runtime::Builder::new_current_thread().enable_all().build(),
            threads => runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
        }
    }

    #[cfg(not(feature = "multi-thread"))]
    #[expect(clippy::unused_self, reason = "the other form has a choice")]
    fn runtime(&self) -> std::io::Result<Runtime> {
        runtime::Builder::new_current_thread().enable_all().build()
    }
}

fn leave_on_panic(worker: Worker) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        worker.note_panic();
    }));
}

/// Lets a program that runs alone end as it would end under a primary.
async fn drain_on_signal(worker: Worker) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process, as they would have without us.
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    next().await;
    worker.disconnect().await;
    let second = next().await;
    end_by(second);
}

/// Ends the process with the code that a shell gives to a process ended by this signal.
#[expect(clippy::exit, clippy::disallowed_methods, reason = "the user asked twice")]
fn end_by(signal: SignalKind) -> ! {
    std::process::exit(128 + signal.as_raw_value())
}
