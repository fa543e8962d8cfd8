//! Values of options: how they are written, and what to write instead.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use worksong_engine::spec::{ListenAddress, Policy, Probe, Ready};

/// The longest path that fits into the kernel's socket address.
const UNIX_PATH_LENGTH: usize = 107;

/// Less than this was meant in another unit.
const LEAST_MEMORY: u64 = 1024 * 1024;

/// Nobody waits longer than a week for a worker.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Reads `500ms`, `30s`, `2m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|character: char| character.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "" if !number.is_empty() => {
            return Err(format!(
                "the unit is missing; write {number}s for seconds or {number}ms for milliseconds"
            ));
        }
        _ => 0,
    };
    if number.is_empty() || milliseconds_per_unit == 0 {
        return Err("not a time; write a whole number with its unit: 500ms, 30s, 2m or 1h".to_owned());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds_per_unit))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "longer than a week; write a time up to 168h".to_owned())
}

/// Reads the age that a worker may reach.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        age if age < Duration::from_secs(1) => {
            Err("shorter than a second; write a time from 1s on".to_owned())
        }
        age => Ok(age),
    }
}

/// Reads an amount of memory in the units of PM2: `200M`, `1G`, `512000K`, or bytes.
pub(super) fn memory_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let bytes_per_unit = match unit {
        "" => 1,
        "K" | "k" => 1024,
        "M" | "m" => 1024 * 1024,
        "G" | "g" => 1024 * 1024 * 1024,
        _ => return Err("not an amount of memory; write a whole number with its unit: 200M or 1G".to_owned()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(bytes_per_unit),
        Err(_) => {
            return Err("not an amount of memory; write a whole number with its unit: 200M or 1G".to_owned());
        }
    };
    match bytes {
        Some(bytes) if bytes >= LEAST_MEMORY => Ok(bytes),
        Some(_) if unit.is_empty() => {
            Err(format!("less than any worker needs; write {number}M for megabytes"))
        }
        Some(_) => Err("less than any worker needs; write 1M or more".to_owned()),
        None => Err("more than any machine has; write an amount such as 200M or 1G".to_owned()),
    }
}

/// Reads a port, `host:port` with a numeric host, or the path of a Unix socket; a UDP address begins with `udp:`.
pub(super) fn listen_address(text: &str) -> Result<ListenAddress, String> {
    match text.strip_prefix("udp:").map(stream_address) {
        None => stream_address(text),
        Some(Ok(ListenAddress::Tcp(address))) => Ok(ListenAddress::Udp(address)),
        Some(Ok(ListenAddress::AnyInterface(port))) => Ok(ListenAddress::AnyInterfaceUdp(port)),
        Some(Ok(_) | Err(_)) => {
            Err("not a UDP address; write udp:5353, udp:127.0.0.1:5353 or udp:[::1]:5353".to_owned())
        }
    }
}

/// Reads an address for connections.
pub(super) fn stream_address(text: &str) -> Result<ListenAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path);
    }
    if text.contains('/') {
        return unix_path(text);
    }
    if let Some(port) = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')).or(Some(text))
        && !port.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return port
            .parse()
            .map(ListenAddress::AnyInterface)
            .map_err(|_| format!("port {port} is out of range; write a port from 0 to 65535"));
    }
    text.parse::<SocketAddr>().map(ListenAddress::Tcp).map_err(|_| match text.rsplit_once(':') {
        Some(("localhost", port)) => format!("names are not looked up; write 127.0.0.1:{port} or [::1]:{port}"),
        Some((host, port)) if host.contains(':') && !host.starts_with('[') && !port.is_empty() => {
            format!("an IPv6 address stands in brackets; write [{host}]:{port}, or [{text}]:8080 for a whole address")
        }
        _ => "not an address; write 8080, 127.0.0.1:8080, [::1]:8080, /run/x.sock or unix:x.sock".to_owned(),
    })
}

/// A policy as it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PolicyArg {
    /// Of all listeners that have no other one.
    Elsewhere(Policy),
    /// Of the listeners at this address.
    At(ListenAddress, Policy),
}

impl PolicyArg {
    /// Returns the policy, wherever it holds.
    pub(crate) fn policy(&self) -> &Policy {
        match self {
            Self::Elsewhere(policy) | Self::At(_, policy) => policy,
        }
    }
}

/// Reads `kernel` or `8080=kernel`.
pub(super) fn policy(text: &str) -> Result<PolicyArg, String> {
    let parse = |policy: &str| policy.parse::<Policy>().map_err(|error| error.to_string());
    match (parse(text), text.rsplit_once('=')) {
        (Ok(policy), _) => Ok(PolicyArg::Elsewhere(policy)),
        (Err(error), _) if text.starts_with("sticky:") => Err(error),
        (Err(_), Some((address, policy))) => Ok(PolicyArg::At(listen_address(address)?, parse(policy)?)),
        (Err(error), None) => Err(error),
    }
}

fn unix_path(path: &str) -> Result<ListenAddress, String> {
    if path.is_empty() {
        return Err("the path is missing; write unix:/run/x.sock".to_owned());
    }
    if path.len() > UNIX_PATH_LENGTH {
        return Err(format!(
            "the path has {} bytes and a socket takes {UNIX_PATH_LENGTH}; write a shorter one, such as /run/x.sock",
            path.len()
        ));
    }
    Ok(ListenAddress::Unix(PathBuf::from(path)))
}

/// Reads when a worker counts as ready; whether its workers can be probed is for the whole plan to say.
pub(super) fn ready(text: &str) -> Result<Ready, String> {
    match (text, text.split_once(':')) {
        ("auto", _) => Ok(Ready::Auto),
        ("listening", _) => Ok(Ready::Listening),
        ("message", _) => Ok(Ready::Message),
        ("started", _) => Ok(Ready::Started),
        ("tcp", _) => Ok(Ready::Probe(Probe::Tcp)),
        (_, Some(("http", path))) => Ok(Ready::Probe(Probe::Http(path.to_owned()))),
        _ => Err("write auto, listening, message, started, tcp, or http: with a path, such as http:/healthz"
            .to_owned()),
    }
}

/// Reads a port that workers can bind.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("not a port; write a number from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

/// Reads a name that is easy to type, print and put into a file name.
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_plain = |character: char| character.is_alphanumeric() || "._-".contains(character);
    if text.is_empty() || !text.chars().all(is_plain) || text.starts_with(['-', '.']) {
        return Err("not a name; write letters, digits, `.`, `_` and `-`, such as api-v2".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads `KEY=VALUE`; the value may be any bytes.
pub(super) fn variable() -> impl TypedValueParser<Value = (OsString, OsString)> {
    OsStringValueParser::new().try_map(|text| {
        let bytes = text.as_bytes();
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(0) => Err("the name before `=` is missing; write --env KEY=VALUE"),
            Some(at) => {
                Ok((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
            }
            None => Err("the value is missing; write --env KEY=VALUE, or KEY= for an empty one"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn other_durations_are_refused_with_the_fix() {
        assert!(duration("30").unwrap_err().contains("write 30s for seconds"));
        for text in ["", "s", "-1s", "1.5s", "5 s", "5sec", "5S", "٣s"] {
            assert!(duration(text).unwrap_err().contains("500ms, 30s, 2m or 1h"), "{text}");
        }
        for text in ["169h", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).unwrap_err().contains("up to 168h"), "{text}");
        }
    }

    #[test]
    fn ages_and_amounts_of_memory_are_read() {
        assert_eq!(age("1s"), Ok(Duration::from_secs(1)));
        assert!(age("999ms").unwrap_err().ends_with("write a time from 1s on"));
        assert!(age("12").unwrap_err().contains("12s"));
        let (megabyte, gigabyte) = (1024 * 1024, 1024 * 1024 * 1024);
        for (text, bytes) in [
            ("1M", megabyte),
            ("200M", 200 * megabyte),
            ("200m", 200 * megabyte),
            ("2G", 2 * gigabyte),
            ("2048K", 2 * megabyte),
            ("1048576", megabyte),
        ] {
            assert_eq!(memory_bytes(text), Ok(bytes), "{text}");
        }
        for (text, hint) in [
            ("200", "write 200M"),
            ("100K", "write 1M or more"),
            ("M", "write a whole number with its unit"),
            ("1.5G", "write a whole number with its unit"),
            ("-1M", "write a whole number with its unit"),
            ("200MB", "write a whole number with its unit"),
            ("99999999999999999999G", "write a whole number with its unit"),
            ("99999999999999G", "more than any machine has"),
        ] {
            let error = memory_bytes(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_read() {
        let tcp = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        for (text, expected) in [
            ("8080", ListenAddress::AnyInterface(8080)),
            ("0", ListenAddress::AnyInterface(0)),
            (":8080", ListenAddress::AnyInterface(8080)),
            ("*:8080", ListenAddress::AnyInterface(8080)),
            ("127.0.0.1:8080", tcp("127.0.0.1:8080")),
            ("[::1]:80", tcp("[::1]:80")),
            ("/run/x.sock", ListenAddress::Unix("/run/x.sock".into())),
            ("./x.sock", ListenAddress::Unix("./x.sock".into())),
            ("unix:/path", ListenAddress::Unix("/path".into())),
            ("unix:x.sock", ListenAddress::Unix("x.sock".into())),
            ("udp:5353", ListenAddress::AnyInterfaceUdp(5353)),
            ("udp:[::1]:53", ListenAddress::Udp("[::1]:53".parse().unwrap())),
        ] {
            assert_eq!(listen_address(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_fix() {
        let long = format!("/{}", "x".repeat(120));
        for (text, fix) in [
            ("", "write 8080"),
            ("70000", "write a port from 0 to 65535"),
            ("localhost:80", "write 127.0.0.1:80 or [::1]:80"),
            ("::1:80", "write [::1]:80"),
            ("127.0.0.1", "write 8080"),
            ("example.org:80", "write 8080"),
            ("unix:", "write unix:/run/x.sock"),
            ("udp:", "write udp:5353"),
            ("udp:/run/x.sock", "write udp:5353"),
            ("udp:localhost:53", "write udp:5353"),
            (&long, "write a shorter one"),
        ] {
            let error = listen_address(text).unwrap_err();
            assert!(error.contains(fix), "{text}: {error}");
        }
    }

    #[test]
    fn a_policy_stands_alone_or_behind_its_address() {
        let least_at = |address| Ok(PolicyArg::At(address, Policy::Least));
        assert_eq!(policy("least"), Ok(PolicyArg::Elsewhere(Policy::Least)));
        assert_eq!(policy("8080=least"), least_at(ListenAddress::AnyInterface(8080)));
        assert_eq!(policy("[::1]:80=least"), least_at(ListenAddress::Tcp("[::1]:80".parse().unwrap())));
        assert_eq!(policy("/run/a=b.sock=least"), least_at(ListenAddress::Unix("/run/a=b.sock".into())));
        let sticky = "sticky:query:a".parse().unwrap();
        assert_eq!(policy("sticky:query:a"), Ok(PolicyArg::Elsewhere(sticky)));
        for (wrong, fix) in [
            ("8080=fastest", "there are round-robin"),
            ("8080=", "there are round-robin"),
            ("sticky:query:a=b", "'=' cannot stand in one"),
            ("8080=sticky:header:x:", "':' cannot stand in one"),
            ("=least", "write 8080"),
            ("localhost:80=least", "write 127.0.0.1:80"),
        ] {
            let error = policy(wrong).unwrap_err();
            assert!(error.contains(fix), "{wrong}: {error}");
        }
    }

    #[test]
    fn ready_is_a_word_or_a_probe() {
        assert_eq!(ready("auto"), Ok(Ready::Auto));
        assert_eq!(ready("tcp"), Ok(Ready::Probe(Probe::Tcp)));
        assert_eq!(ready("http:/healthz"), Ok(Ready::Probe(Probe::Http("/healthz".to_owned()))));
        for text in ["", "http", "observed", "https:/x", "Tcp"] {
            assert!(ready(text).unwrap_err().contains("such as http:/healthz"), "{text:?}");
        }
    }

    #[test]
    fn names_and_ports_are_plain() {
        assert_eq!(name("api-v2.1"), Ok("api-v2.1".to_owned()));
        for text in ["", "a b", "a/b", "-x", ".", "a\n"] {
            assert!(name(text).is_err(), "{text:?}");
        }
        assert_eq!(port("9000"), Ok(9000));
        for text in ["0", "65536", "x", ""] {
            assert!(port(text).unwrap_err().contains("from 1 to 65535"), "{text}");
        }
    }
}
