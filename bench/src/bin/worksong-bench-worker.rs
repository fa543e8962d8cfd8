//! The worker of the Rust rows: it answers what `hello.js` answers.

use worksong_worker::RunError;

fn main() -> Result<(), RunError> {
    worksong_worker::run(|worker| worksong_bench::serve(worker, std::process::id()))
}
