//! Large uploads through a policy that looks at the first bytes: what arrives is what was sent.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::session::{self, Session};
use crate::stats::Spread;
use crate::table::{Table, spread};

/// A server that does not go on for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is uploaded.
const UPLOADS: usize = 3;
const CHUNK: usize = 256 * 1024;

/// Uploads, compares the sums of both ends, prints the table and returns what was measured.
///
/// # Errors
///
/// When the server got something else.
pub(crate) fn run(session: &Session, cluster: &Cluster<'_>) -> Result<Value> {
    let bytes = session.options.upload_bytes;
    let name = cluster.system().name;
    let (mut sum, mut seconds) = (String::new(), Vec::new());
    for number in 1..=UPLOADS {
        session.progress(&format!("affinity: upload {number} of {UPLOADS}, {} MB to {name}", bytes >> 20));
        let begin = Instant::now();
        let (sent, answer) =
            upload(cluster.port(), bytes).map_err(Error::system(format!("upload to {name}")))?;
        seconds.push(begin.elapsed().as_secs_f64());
        let received = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
        if received != sent {
            return Err(Error::Broken(format!(
                "{name}: sent {bytes} bytes with SHA-256 {sent}, got {answer:?}"
            )));
        }
        sum = sent;
    }
    let megabytes = bytes as f64 / f64::from(1 << 20);
    let mut table = Table::new(["system", "bytes", "MB/s", "SHA-256 at both ends"]);
    table.row(vec![
        cluster.system().title.to_owned(),
        bytes.to_string(),
        spread(Spread::of(seconds.iter().map(|seconds| megabytes / seconds)), 0),
        format!("{}…", &sum[..16]),
    ]);
    session::print(&table.to_markdown("Uploads"))?;
    Ok(json!({ "system": name, "bytes": bytes, "seconds": seconds, "sha256": sum }))
}

/// Returns the sum of what was sent, and the whole answer.
fn upload(port: u16, length: u64) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: sid=upload\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let (mut sum, mut random, mut left) = (Sha256::new(), 0x9E37_79B9_7F4A_7C15_u64, length);
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            word.copy_from_slice(&random.to_le_bytes());
        }
        let next = &chunk[..left.min(CHUNK as u64) as usize];
        sum.update(next);
        stream.write_all(next)?;
        left -= next.len() as u64;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok((hexadecimal(&sum.finalize()), answer))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: a string takes all text");
        text
    })
}
