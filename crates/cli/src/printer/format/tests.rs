use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use worksong_engine::event::{Event, Record, WorkerRef};
use worksong_engine::ids::{AppId, Generation};

use super::*;

fn worker(number: u32) -> WorkerId {
    WorkerId { app: AppId(0), number }
}

fn piece(number: u32, stream: Stream, bytes: &[u8], continued: bool) -> Item {
    let slot = Slot(number - 1);
    Item::Line(OutputLine {
        app: "api".into(),
        slot,
        worker: worker(number),
        stream,
        bytes: bytes.to_vec(),
        continued,
    })
}

fn line(number: u32, stream: Stream, text: &str) -> Item {
    piece(number, stream, text.as_bytes(), false)
}

fn event(event: Event) -> Item {
    Item::Event(Arc::new(Record { seq: 9, at_ms: 5, app: "api".to_owned(), event }))
}

/// Renders all items and returns what stands on stdout and on stderr.
fn rendered(mut format: Format, items: &[Item]) -> (String, String) {
    let (mut out_reader, out) = io::pipe().unwrap();
    let (mut err_reader, err) = io::pipe().unwrap();
    let mut targets = Targets::new(OwnedFd::from(out).into(), OwnedFd::from(err).into());
    for item in items {
        format.render(item, &mut targets);
    }
    targets.flush();
    drop(targets);
    let mut texts = (String::new(), String::new());
    out_reader.read_to_string(&mut texts.0).unwrap();
    err_reader.read_to_string(&mut texts.1).unwrap();
    texts
}

fn format(style: Style) -> Format {
    Format { style, narrator: Narrator::default() }
}

fn raw() -> Format {
    format(Style::Raw { open: PerStream::default() })
}

#[test]
fn people_see_who_said_it_and_streams_stay_apart() {
    let items = [
        line(1, Stream::Stdout, "hello"),
        line(3, Stream::Stderr, "oh"),
        event(Event::Stopped { cut: None }),
        Item::Note("warning: x".to_owned()),
        piece(1, Stream::Stdout, b"long", true),
    ];
    let (out, err) = rendered(Format::plain(), &items);
    assert_eq!(out, "api.0 | hello\napi.0 | long…\n");
    assert_eq!(err, "api.2 | oh\nworksong: api has stopped\nworksong: warning: x\n");
}

#[test]
fn colours_are_per_stream_and_change_no_text() {
    let items =
        [line(1, Stream::Stdout, "a"), line(1, Stream::Stderr, "b"), event(Event::Stopped { cut: None })];
    let colour = PerStream { stdout: true, stderr: false };
    let (out, err) = rendered(format(Style::People { colour }), &items);
    assert_eq!(out, "\x1b[36mapi.0 |\x1b[0m a\n");
    assert_eq!(err, "api.0 | b\nworksong: api has stopped\n");
    let colour = PerStream { stdout: false, stderr: true };
    let (_, err) = rendered(format(Style::People { colour }), &items[2..]);
    assert_eq!(err, "\x1b[1mworksong:\x1b[0m api has stopped\n");
}

#[test]
fn raw_output_is_unchanged_and_lines_of_workers_never_merge() {
    let stdout = Stream::Stdout;
    let items = [
        line(1, stdout, "a\r"),
        piece(1, stdout, b"lo", true),
        piece(1, stdout, b"ng", false),
        piece(1, stdout, b"cut ", true),
        line(2, stdout, "other"),
        line(1, stdout, "off"),
        piece(1, Stream::Stderr, b"half", true),
        event(Event::Stopped { cut: None }),
    ];
    let (out, err) = rendered(raw(), &items);
    assert_eq!(out, "a\r\nlong\ncut \nother\noff\n");
    assert_eq!(err, "half\nworksong: api has stopped\n");
}

#[test]
fn json_lines_carry_both_streams_on_stdout_and_events_on_stderr() {
    let body = RawValue::from_string("{\n\"a\": \"b\"}".to_owned()).unwrap();
    let worker = WorkerRef { id: worker(7), slot: Slot(1), generation: Generation(1), pid: 4711 };
    let items = [
        line(2, Stream::Stdout, "a \"quoted\" line"),
        piece(2, Stream::Stderr, b"\xff\n", true),
        event(Event::Message { worker, body }),
        Item::Note("n".to_owned()),
    ];
    let (out, err) = rendered(format(Style::Json), &items);
    let parse =
        |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(
        parse(&out),
        [
            json!({"app": "api", "slot": 1, "worker": 2, "stream": "stdout", "line": "a \"quoted\" line"}),
            json!({"app": "api", "slot": 1, "worker": 2, "stream": "stderr", "line": "\u{fffd}\n", "continued": true}),
        ]
    );
    assert_eq!(
        parse(&err),
        [
            json!({"seq": 9, "at_ms": 5, "app": "api", "event": "message", "worker": 7, "slot": 1, "generation": 1,
                   "pid": 4711, "body": {"a": "b"}}),
            json!({"note": "n"}),
        ]
    );
}
