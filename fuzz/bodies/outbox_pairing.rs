//! Any order of writing: no descriptor may reach the wrong message. Each three bytes are one step.

#[path = "pairing.rs"]
pub(crate) mod pairing;

use pairing::{Fence, SHORTEST, Simulation, Step, all_paired};

/// More steps than these only cost time.
const MAX_STEPS: usize = 120;

pub(crate) fn run(data: &[u8]) {
    let mut simulation = Simulation::new(Fence::On);
    for bytes in data.as_chunks::<3>().0.iter().take(MAX_STEPS) {
        simulation.step(&step(*bytes));
    }
    let deliveries = simulation.finish();
    assert!(all_paired(&deliveries), "{deliveries:?}");
}

fn step([kind, class, fine]: [u8; 3]) -> Step {
    let length = length(class, fine);
    match kind % 8 {
        0 | 1 => Step::HandOver { length, room: if kind & 8 == 0 { length } else { usize::from(fine) } },
        2 => Step::Queue { length, handle: true },
        3 => Step::Queue { length, handle: false },
        4 => Step::Flush { room: length },
        5 => Step::Flush { room: usize::MAX },
        6 => Step::Read,
        _ => Step::Answer,
    }
}

/// Lengths around every limit: short, half the read buffer, the read buffer, more than it.
fn length(class: u8, fine: u8) -> usize {
    let fine = usize::from(fine);
    match class % 4 {
        0 => SHORTEST + fine,
        1 => 32 * 1024 - 128 + fine,
        2 => 64 * 1024 - 128 + fine,
        _ => 512 * fine + SHORTEST,
    }
}
