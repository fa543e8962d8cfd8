//! What is asked: every request carries a key in its query and in its cookie, whatever the policy of the server.
//!
//! All systems get the same requests in the same order: the keys come from a generator with a fixed seed.

/// What the requests of a load ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The smallest answer; each request has a random key.
    Hello,
    /// The smallest answer; the keys are this one, the next one and so on, and who answered each is written down.
    Sweep {
        /// The first key.
        first: u32,
    },
    /// One in so many requests, by chance, is for `slow`, whose latency is not counted; the others are for `fast`.
    Mixed {
        /// The path of most requests.
        fast: &'static str,
        /// The path of the others.
        slow: &'static str,
        /// How many requests there are for each slow one, on average.
        one_in: u32,
    },
}

/// Which request it is, of all that an [`Ask`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The key that it carries.
    pub(crate) key: u32,
    /// What it is for.
    pub(crate) kind: Kind,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is measured.
    Measured,
    /// It keeps a worker busy, so that others can be measured.
    Burden,
}

/// Makes the requests of a load.
#[derive(Debug)]
pub(crate) struct Requests {
    ask: Ask,
    measured: Template,
    burden: Template,
    made: u32,
    /// The state of a xorshift generator.
    random: u64,
}

/// The text of a request, with the places of the key.
#[derive(Debug)]
struct Template {
    text: Vec<u8>,
    keys: [usize; 2],
}

const KEY_LENGTH: usize = 8;
const NO_KEY: &str = "00000000";
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

impl Requests {
    /// Prepares requests to a port; `connection` is the value of that header.
    pub(crate) fn new(ask: Ask, port: u16, connection: &str) -> Self {
        let (measured, burden) = match ask {
            Ask::Hello | Ask::Sweep { .. } => ("/", "/"),
            Ask::Mixed { fast, slow, .. } => (fast, slow),
        };
        Self {
            ask,
            measured: Template::new(measured, port, connection),
            burden: Template::new(burden, port, connection),
            made: 0,
            random: SEED,
        }
    }

    /// Decides what the next request is.
    pub(crate) fn next(&mut self) -> Tag {
        let number = self.made;
        self.made = self.made.wrapping_add(1);
        match self.ask {
            Ask::Hello => Tag { key: self.random(), kind: Kind::Measured },
            Ask::Sweep { first } => Tag { key: first.wrapping_add(number), kind: Kind::Measured },
            Ask::Mixed { one_in, .. } => {
                let kind = if self.random().is_multiple_of(one_in) { Kind::Burden } else { Kind::Measured };
                Tag { key: self.random(), kind }
            }
        }
    }

    /// Returns the bytes of a request.
    pub(crate) fn render(&mut self, tag: Tag) -> &[u8] {
        let template = match tag.kind {
            Kind::Measured => &mut self.measured,
            Kind::Burden => &mut self.burden,
        };
        template.render(tag.key)
    }

    /// Returns true when it has to be written down who answered each key.
    pub(crate) fn are_told_apart(&self) -> bool {
        matches!(self.ask, Ask::Sweep { .. })
    }

    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

impl Template {
    fn new(path: &str, port: u16, connection: &str) -> Self {
        let before = format!("GET {path}?sid=");
        let between = format!(" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: sid=");
        let after = format!("\r\nConnection: {connection}\r\n\r\n");
        let keys = [before.len(), before.len() + KEY_LENGTH + between.len()];
        Self { text: [&before, NO_KEY, &between, NO_KEY, &after].concat().into_bytes(), keys }
    }

    fn render(&mut self, key: u32) -> &[u8] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for start in self.keys {
            for (place, digit) in self.text[start..start + KEY_LENGTH].iter_mut().enumerate() {
                *digit = DIGITS[(key >> (28 - 4 * place)) as usize & 15];
            }
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_its_key_twice() {
        let mut requests = Requests::new(Ask::Hello, 80, "close");
        let text = requests.render(Tag { key: 0x00c0_ffee, kind: Kind::Measured });
        let expected = "GET /?sid=00c0ffee HTTP/1.1\r\nHost: 127.0.0.1:80\r\nCookie: sid=00c0ffee\r\n\
                        Connection: close\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(text), expected);
    }

    #[test]
    fn a_sweep_counts() {
        let mut requests = Requests::new(Ask::Sweep { first: 5 }, 80, "close");
        let keys: Vec<u32> = (0..3).map(|_| requests.next().key).collect();
        assert_eq!(keys, [5, 6, 7]);
    }

    #[test]
    fn a_mix_has_its_share_of_slow_requests_and_is_the_same_each_time() {
        let ask = Ask::Mixed { fast: "/busy/1", slow: "/busy/500", one_in: 20 };
        let tags = || {
            let mut requests = Requests::new(ask, 80, "close");
            (0..10_000).map(|_| requests.next()).collect::<Vec<Tag>>()
        };
        let slow = tags().iter().filter(|tag| tag.kind == Kind::Burden).count();
        assert!((400..=600).contains(&slow), "{slow} of 10000");
        assert_eq!(tags(), tags());
        let mut requests = Requests::new(ask, 80, "close");
        assert!(
            requests.render(Tag { key: 1, kind: Kind::Burden }).starts_with(b"GET /busy/500?sid=00000001 ")
        );
    }
}
