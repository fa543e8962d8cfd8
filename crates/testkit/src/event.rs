//! What the binary says with `--json`.

use std::fmt;
use std::ops::Index;

use serde_json::Value;

/// One event of the primary.
#[derive(Clone, Debug, PartialEq)]
pub struct Event(Value);

impl Event {
    /// Reads a line of stderr; `None` when it is something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        value.get("event")?.as_str()?;
        Some(Self(value))
    }

    /// Returns its name, such as `listening`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0["event"].as_str().unwrap_or_default()
    }

    /// Returns the pid of its worker.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.number("pid")
    }

    /// Returns the number of its worker.
    #[must_use]
    #[track_caller]
    pub fn worker(&self) -> u32 {
        self.number("worker")
    }

    /// Returns its slot.
    #[must_use]
    #[track_caller]
    pub fn slot(&self) -> u32 {
        self.number("slot")
    }

    /// Returns its generation.
    #[must_use]
    #[track_caller]
    pub fn generation(&self) -> u32 {
        self.number("generation")
    }

    /// Returns its place in the order of all events.
    #[must_use]
    #[track_caller]
    pub fn seq(&self) -> u32 {
        self.number("seq")
    }

    /// Returns true when it has this field.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some()
    }

    #[track_caller]
    fn number(&self, field: &str) -> u32 {
        let number = self.0[field].as_u64().and_then(|number| u32::try_from(number).ok());
        number.unwrap_or_else(|| panic!("event without a number {field}: {}", self.0))
    }
}

/// Writes it as the line that it was.
impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Gives the value of a field; JSON null when there is none.
impl Index<&str> for Event {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.0[field]
    }
}

/// One line that a worker wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The app's name.
    pub app: String,
    /// The worker's slot.
    pub slot: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line without its end.
    pub line: String,
}

impl Output {
    /// Reads a line of stdout; `None` when it is something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |field: &str| value.get(field)?.as_str().map(str::to_owned);
        let slot = u32::try_from(value.get("slot")?.as_u64()?).ok()?;
        Some(Self { app: text("app")?, slot, stream: text("stream")?, line: text("line")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_output_are_told_apart_from_other_text() {
        let event = r#"{"seq":3,"at_ms":1,"app":"http","event":"forked","worker":1,"slot":0,"generation":1,"pid":42}"#;
        let event = Event::parse(event).unwrap();
        assert_eq!((event.name(), event.pid(), event.slot(), event.seq()), ("forked", 42, 0, 3));
        assert_eq!(event["app"], "http");
        assert!(!event.has("port"));

        let output = Output::parse(r#"{"app":"http","slot":1,"stream":"stdout","line":"hello"}"#).unwrap();
        assert_eq!((output.slot, output.line.as_str()), (1, "hello"));

        for other in ["", "error: no such file", "{}", r#"{"event":1}"#, "[1]"] {
            assert_eq!(Event::parse(other), None);
            assert_eq!(Output::parse(other), None);
        }
    }
}
