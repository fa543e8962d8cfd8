//! Programs that answer each datagram by their slot and process, by each way to a socket.

use worksong_testkit::{Worksong, binary, fixture};

/// It ends of SIGTERM at once.
const INHERITED: &str = "\
import os, socket
s = socket.socket(fileno=3)
name = f\"{os.environ['WORKSONG_SLOT']} {os.getpid()}\".encode()
print('bound', flush=True)
while True:
    _, client = s.recvfrom(64)
    s.sendto(name, client)
";

/// It knows nothing of anybody, and ends of SIGTERM at once.
const CAPTURED: &str = "\
import os, socketserver, sys
name = f\"{os.environ['WORKSONG_SLOT']} {os.getpid()}\".encode()
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(name, self.client_address)
socketserver.UDPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

/// How a program gets its socket.
#[derive(Clone, Copy)]
pub(crate) enum Flavour {
    /// A version of it.
    Node(&'static str),
    /// At a port that is open before the first worker starts.
    NodeListen,
    Rust,
    Inherited,
    Captured,
}

impl Flavour {
    /// Starts three workers at a port.
    pub(crate) fn start(self, port: u16) -> Worksong {
        let kernel = |options: &[&str]| {
            Worksong::run(["-i", "3", "--policy", "kernel", "--restart-delay", "20ms"]).args(options)
        };
        let address = format!("127.0.0.1:{port}");
        match self {
            Self::Node(version) => {
                let program = fixture("node/udp-flows.js");
                kernel(&[]).node(version).program(program).args([port.to_string()]).start()
            }
            Self::NodeListen => {
                let listen = format!("udp:{address}");
                let program = fixture("node/udp-flows.js");
                kernel(&["--listen", &listen]).program(program).args([port.to_string()]).start()
            }
            Self::Rust => {
                kernel(&["--dialect", "native"]).program(binary("examples/udp_flows")).args([address]).start()
            }
            Self::Inherited => {
                kernel(&["--listen", &format!("udp:{address}"), "python3", "-c", INHERITED]).start()
            }
            Self::Captured => {
                let capture = format!("udp:{port}");
                kernel(&["--capture", &capture, "python3", "-c", CAPTURED, &port.to_string()]).start()
            }
        }
    }

    /// Waits until so many workers read, where being ready does not say so.
    pub(crate) fn wait_bound(self, worksong: &Worksong, count: u32) {
        match self {
            Self::Node(_) | Self::NodeListen | Self::Rust | Self::Captured => {}
            Self::Inherited => (0..count).for_each(|slot| {
                worksong.wait_output("that it reads", |output| {
                    (output.slot == slot && output.line == "bound").then_some(())
                });
            }),
        }
    }
}
