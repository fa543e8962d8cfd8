//! Uploads of 10 MB that take about a second; the right answer is their SHA-256.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::random::Random;

use super::Client;
use super::connection::{Connection, Loss, Pace};

const SIZE: usize = 10_000_000;
/// What is sent between two rests.
const PART: usize = 100_000;
const REST: Duration = Duration::from_millis(8);

/// What is uploaded: the same for all, because to digest it takes longer than to send it.
static BODY: LazyLock<Body> = LazyLock::new(Body::new);

struct Body {
    bytes: Vec<u8>,
    /// Of all bytes, in hexadecimal.
    digest: String,
}

impl Body {
    fn new() -> Self {
        let mut random = Random::new(0, 0);
        let bytes: Vec<u8> = (0..SIZE / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        let digest = Sha256::digest(&bytes).iter().fold(String::new(), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        });
        Self { bytes, digest }
    }
}

/// Makes what is uploaded, so that it does not take time from the clients later.
pub(crate) fn prepare() {
    LazyLock::force(&BODY);
}

impl Client {
    /// One upload after the other, each on a connection of its own.
    pub(super) async fn uploads(&mut self) {
        while self.pause(self.class.pause()).await {
            if let Some(mut connection) = self.connection().await {
                let answer = self.within(upload(&mut connection)).await;
                self.judge(answer, &mut connection);
            }
        }
    }
}

async fn upload(connection: &mut Connection) -> Result<super::Answer, Loss> {
    let head = format!(
        "PUT /upload HTTP/1.1\r\nHost: torture\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        BODY.bytes.len()
    );
    let mut possible = connection.begin(head.as_bytes()).await;
    for part in BODY.bytes.chunks(PART) {
        if !possible {
            break;
        }
        possible = connection.send(part).await;
        sleep(REST).await;
    }
    let mut said = Vec::new();
    let answer = connection.answer(Pace::FULL, |bytes| {
        said.extend_from_slice(bytes);
        if said.len() <= BODY.digest.len() { Ok(()) } else { Err("more than a checksum".to_owned()) }
    });
    let answer = answer.await?;
    if answer.status == 200 && said != BODY.digest.as_bytes() {
        let said = String::from_utf8_lossy(&said);
        return Err(Loss::wrong(format!("checksum {said} of what has {}", BODY.digest)));
    }
    Ok(answer)
}
