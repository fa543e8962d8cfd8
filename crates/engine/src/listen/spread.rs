//! How the kernel spreads what comes to one address over sockets: classic BPF programs.
//!
//! A program returns the index of the socket that gets a connection, in the order in which they began to listen, or were
//! bound for datagrams. It runs once for each connection, on its first segment, or for each datagram, and sees the headers
//! of it. No privilege is needed.

use std::num::NonZero;

use libc::sock_filter as Statement;

use super::Transport;

/// What decides where the kernel sends a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// The client's address and port. Default. Of datagrams, by rendezvous hashing: a flow stays with its slot, and a slot
    /// more or less moves only the flows that come to it or leave it.
    #[default]
    Hash,
    /// Chance, for each connection or datagram.
    Random,
    /// The processor that received it: what a network card with several queues keeps on one processor stays there.
    Cpu,
    /// The client's address alone, by rendezvous hashing: a client stays with its slot, and a slot more or less moves only
    /// the clients that come to it or leave it.
    ClientAddress,
}

/// How many instructions a program may have once the kernel has translated it, of 8 bytes each: older kernels take 20 KiB
/// (`net.core.optmem_max`; 6.7 and newer ones 128).
const MOST_INSTRUCTIONS: usize = 2500;
/// The rest of a program has fewer than this.
const FRAME: usize = 100;

impl Spread {
    /// Returns how many TCP sockets there may be. A reload needs one for each successor beside those of the workers.
    #[must_use]
    pub fn most_sockets(self) -> usize {
        self.most(Transport::Tcp)
    }

    /// Returns how many sockets there may be.
    pub(crate) fn most(self, transport: Transport) -> usize {
        let for_each = match self.choice(transport) {
            // Two statements; returning a constant takes two instructions.
            Choice::Counted(_) => 3,
            Choice::Rendezvous { .. } => 12,
        };
        (MOST_INSTRUCTIONS - FRAME) / for_each
    }

    /// A connection is chosen for once, so that it does not matter where the next one goes. Of a flow each datagram is
    /// chosen for anew: who comes or goes must move no flow but its own.
    fn choice(self, transport: Transport) -> Choice {
        match (self, transport) {
            (Self::Hash, Transport::Tcp) => Choice::Counted(Number::Hash),
            (Self::Hash, Transport::Udp) => Choice::Rendezvous { with_port: true },
            (Self::Random, _) => Choice::Counted(Number::Random),
            (Self::Cpu, _) => Choice::Counted(Number::Cpu),
            (Self::ClientAddress, _) => Choice::Rendezvous { with_port: false },
        }
    }
}

/// How a program chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// By the remainder of a number.
    Counted(Number),
    /// By the slot that weighs most with a client.
    Rendezvous { with_port: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Hash,
    Random,
    Cpu,
}

/// The network header begins here, whatever there is before it (`SKF_NET_OFF`).
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
/// What the kernel knows about a packet (`SKF_AD_OFF`).
const ANCILLARY: u32 = libc::SKF_AD_OFF.cast_unsigned();
const PROTOCOL: u32 = ANCILLARY + libc::SKF_AD_PROTOCOL as u32;
const RANDOM: u32 = ANCILLARY + libc::SKF_AD_RANDOM as u32;
const CPU: u32 = ANCILLARY + libc::SKF_AD_CPU as u32;

const IPV4_SOURCE: u32 = NETWORK + 12;
/// Of a header without options; with some, these are other bytes that differ as well.
const IPV4_PORTS: u32 = NETWORK + 20;
const IPV6_SOURCE: u32 = NETWORK + 8;
/// Of a header without extensions.
const IPV6_PORTS: u32 = NETWORK + 40;

/// Odd numbers with bits in all places; what they multiply is spread over the upper half.
const GOLDEN: u32 = 0x9e37_79b1;
const OTHER: u32 = 0x85eb_ca6b;

/// Cells of the program's memory.
const HASH: u32 = 0;
const BEST_WEIGHT: u32 = 1;
const BEST: u32 = 2;

/// One socket of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its place in the order in which they began to listen.
    pub(crate) index: u32,
    /// The slot of the worker that has it: what a client is bound to.
    pub(crate) slot: u32,
}

/// Writes the program that sends connections to these sockets and no others.
pub(super) fn program(spread: Spread, transport: Transport, targets: &[Target]) -> Vec<Statement> {
    let Some(count) = u32::try_from(targets.len()).ok().and_then(NonZero::new) else {
        // No index: the kernel chooses among all.
        return vec![statement(libc::BPF_RET | libc::BPF_K, u32::MAX)];
    };
    let mut program = match spread.choice(transport) {
        Choice::Counted(Number::Hash) => [client(true), mixed()].concat(),
        Choice::Counted(Number::Random) => vec![load(RANDOM)],
        Choice::Counted(Number::Cpu) => vec![load(CPU)],
        Choice::Rendezvous { with_port } => return by_rendezvous(with_port, targets),
    };
    program.push(compute(libc::BPF_MOD, count.get()));
    for (number, target) in (0..).zip(targets) {
        program.push(unless(libc::BPF_JEQ | libc::BPF_K, 1, number));
        program.push(statement(libc::BPF_RET | libc::BPF_K, target.index));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, u32::MAX));
    program
}

/// Sends a client to the slot that weighs most with its address and, if wanted, port.
fn by_rendezvous(with_port: bool, targets: &[Target]) -> Vec<Statement> {
    let mut program = [client(with_port), mixed()].concat();
    program.extend([
        store(HASH),
        statement(libc::BPF_LD | libc::BPF_IMM, 0),
        store(BEST_WEIGHT),
        statement(libc::BPF_LD | libc::BPF_IMM, targets.first().map_or(0, |first| first.index)),
        store(BEST),
    ]);
    for target in targets {
        program.push(statement(libc::BPF_LD | libc::BPF_MEM, HASH));
        program.push(compute(libc::BPF_XOR, (target.slot + 1).wrapping_mul(OTHER)));
        // Twice is enough here: the first mixing has left no pattern, and only the order matters.
        program.extend(multiplied(OTHER, 15));
        program.extend([
            compute(libc::BPF_MUL, GOLDEN),
            statement(libc::BPF_LDX | libc::BPF_MEM, BEST_WEIGHT),
            unless(libc::BPF_JGT | libc::BPF_X, 3, 0),
            store(BEST_WEIGHT),
            statement(libc::BPF_LD | libc::BPF_IMM, target.index),
            store(BEST),
        ]);
    }
    program.push(statement(libc::BPF_LD | libc::BPF_MEM, BEST));
    program.push(statement(libc::BPF_RET | libc::BPF_A, 0));
    program
}

/// Loads a number that is the same for one client address and, if wanted, port.
fn client(with_port: bool) -> Vec<Statement> {
    let ports = |at: u32| if with_port { fold(at) } else { Vec::new() };
    let v4 = [vec![load(IPV4_SOURCE)], ports(IPV4_PORTS)].concat();
    // All of the last three words of a mapped address are those of the IPv4 header, which the kernel shows instead.
    let words = (1..4).flat_map(|word| fold(IPV6_SOURCE + 4 * word));
    let v6: Vec<_> = [load(IPV6_SOURCE)].into_iter().chain(words).chain(ports(IPV6_PORTS)).collect();
    let over_v6 = v6.len() as u32;
    let over_v4 = v4.len() as u8 + 1;
    let is_v4 = unless(libc::BPF_JEQ | libc::BPF_K, over_v4, libc::ETH_P_IP as u32);
    let to_end = statement(libc::BPF_JMP | libc::BPF_JA, over_v6);
    [vec![load(PROTOCOL), is_v4], v4, vec![to_end], v6].concat()
}

/// Mixes one more word of the packet in.
fn fold(at: u32) -> Vec<Statement> {
    vec![
        compute(libc::BPF_MUL, GOLDEN),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        load(at),
        statement(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0),
    ]
}

/// Spreads the bits of a number over all of it.
fn mixed() -> Vec<Statement> {
    [multiplied(GOLDEN, 16), multiplied(OTHER, 15), multiplied(GOLDEN, 16)].concat()
}

/// Spreads the bits of a number upwards by multiplying, and back by folding the upper ones onto the lower ones.
fn multiplied(by: u32, shift: u32) -> [Statement; 4] {
    [
        compute(libc::BPF_MUL, by),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        compute(libc::BPF_RSH, shift),
        statement(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0),
    ]
}

fn load(at: u32) -> Statement {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

fn compute(operation: u32, with: u32) -> Statement {
    statement(libc::BPF_ALU | operation | libc::BPF_K, with)
}

fn store(cell: u32) -> Statement {
    statement(libc::BPF_ST, cell)
}

fn statement(code: u32, k: u32) -> Statement {
    Statement { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on with the next statement when the comparison holds, and `otherwise` so many later.
fn unless(comparison: u32, otherwise: u8, k: u32) -> Statement {
    Statement { code: (libc::BPF_JMP | comparison) as u16, jt: 0, jf: otherwise, k }
}
