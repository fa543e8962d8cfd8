//! What workers say to the primary in the words of other process managers.

use serde_json::value::RawValue;

/// Longer messages are the program's own.
const LONGEST: usize = 256;

/// A message that means something to the primary itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saying {
    /// PM2's `process.send('ready')` and recluster's `{cmd: 'ready'}`.
    Ready,
    /// recluster's `{cmd: 'disconnect'}` and cluster2's `{type: 'suicide'}`.
    ReplaceMe,
}

impl Saying {
    /// Returns what the message means; `None` for nearly all of them.
    pub(super) fn of(body: &RawValue) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Fields<'a> {
            cmd: Option<&'a str>,
            r#type: Option<&'a str>,
        }
        let text = body.get();
        if text == "\"ready\"" {
            return Some(Self::Ready);
        }
        if text.len() > LONGEST || !text.starts_with('{') {
            return None;
        }
        match serde_json::from_str(text).ok()? {
            Fields { cmd: Some("ready"), .. } => Some(Self::Ready),
            Fields { cmd: Some("disconnect"), .. } | Fields { r#type: Some("suicide"), .. } => {
                Some(Self::ReplaceMe)
            }
            Fields { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> Option<Saying> {
        Saying::of(&RawValue::from_string(text.to_owned()).expect("JSON"))
    }

    #[test]
    fn the_words_of_other_process_managers_are_understood() {
        for text in [r#""ready""#, r#"{"cmd":"ready"}"#, r#"{"port":80,"cmd":"ready"}"#] {
            assert_eq!(meaning(text), Some(Saying::Ready), "{text}");
        }
        for text in [r#"{"cmd":"disconnect"}"#, r#"{"type":"suicide","cause":{"reason":"old"}}"#] {
            assert_eq!(meaning(text), Some(Saying::ReplaceMe), "{text}");
        }
    }

    #[test]
    fn everything_else_is_the_programs_own() {
        let long = format!(r#"{{"cmd":"ready","text":"{}"}}"#, "x".repeat(LONGEST));
        for text in ["ready", "null", "[]", r#""suicide""#, r#"{"cmd":1}"#, r#"{"type":"ready"}"#, &long] {
            let body = RawValue::from_string(text.to_owned());
            assert_eq!(body.ok().and_then(|body| Saying::of(&body)), None, "{text}");
        }
    }
}
