//! Datagrams on every core, each client's with one worker: `cargo run --example udp_flows`, then `nc -u localhost 7001`.
//!
//! Each line is answered by the slot and the process that it came to. What a worker remembers of a client, the next
//! datagram of that client finds.

use worksong::Policy;

fn main() -> worksong::Result<()> {
    let kernel: Policy = "kernel".parse().expect("it is one");
    worksong::Cluster::builder().name("flows").policy(kernel).run(|worker| async move {
        let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7001".to_owned());
        let socket = worker.bind_udp(address).await?;
        let slot = worker.slot().unwrap_or_default();
        let mut buffer = [0; 2048];
        loop {
            let (count, client) = tokio::select! {
                biased;
                received = socket.recv_from(&mut buffer) => received?,
                // Told only once what had come for this worker is read.
                () = worker.draining() => return Ok(()),
            };
            let text = String::from_utf8_lossy(&buffer[..count]);
            let answer = format!("{slot} {} {text}", std::process::id());
            // A client may be gone already.
            let _gone = socket.send_to(answer.as_bytes(), client).await;
        }
    })
}
