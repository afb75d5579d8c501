//! Boundary: the management socket. Whoever may open it may send any bytes, cut anywhere.
//!
//! Property: framing and transactions survive every stream, and
//! - how the stream is cut makes no difference to the messages or to the error;
//! - a transaction whose results name an error has changed nothing;
//! - whatever was committed can be read back: a `select` of every table succeeds.

use std::sync::OnceLock;

use serde_json::{Value, json};
use vswitch_ovsdb::jsonrpc::{FrameError, FrameLimits, Framer, Message};
use vswitch_ovsdb::schema::vswitch_schema;
use vswitch_ovsdb::{DatabaseSchema, Db};

use super::input::Input;

/// Small enough to be reached by inputs of a few kilobytes.
const LIMITS: FrameLimits = FrameLimits { size: 3000, depth: 12, values: 300 };

/// Runs one input: four cuts, then the stream.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut cuts: Vec<usize> = (0..4).map(|_| usize::from(input.u16())).collect();
    let stream = input.rest();
    cuts.iter_mut().for_each(|cut| *cut %= stream.len() + 1);
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
    let (messages, end) = follow(pieces.iter().copied());
    let (singly, end_singly) = follow(stream.chunks(1));
    assert_eq!(end, end_singly, "the cut decides about the error");
    if end.is_ok() {
        assert_eq!(messages, singly, "the cut decides about the messages");
    }
    let db = Db::in_memory(schema().clone());
    for message in singly {
        if let Ok(Message::Request { params, .. } | Message::Notification { params, .. }) =
            Message::from_json(message)
        {
            transact(&db, params.get(1..).unwrap_or(&params));
        }
    }
}

/// Transactions as clients send them, and streams that go wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    let row = "11111111-2222-4333-8444-555555555555";
    let insert = json!({"op": "insert", "table": "Open_vSwitch", "row": {"next_cfg": 1}, "uuid": row});
    let bridge = json!([
        "Open_vSwitch", insert,
        {"op": "insert", "table": "Interface", "uuid-name": "i",
         "row": {"name": "p1", "type": "vhost-user", "options": ["map", [["path", "/p"]]]}},
        {"op": "insert", "table": "Port", "uuid-name": "p",
         "row": {"name": "p1", "interfaces": ["set", [["named-uuid", "i"]]], "tag": 5, "trunks": ["set", [1, 2]]}},
        {"op": "insert", "table": "Bridge", "uuid-name": "b", "row": {"name": "br0", "ports": ["named-uuid", "p"]}},
        {"op": "mutate", "table": "Open_vSwitch", "where": [],
         "mutations": [["bridges", "insert", ["set", [["named-uuid", "b"]]]], ["next_cfg", "+=", 1]]}
    ]);
    let rest = json!([
        "Open_vSwitch", insert,
        {"op": "select", "table": "Open_vSwitch", "where": [["_uuid", "==", ["uuid", row]]], "columns": ["next_cfg", "_version"]},
        {"op": "update", "table": "Open_vSwitch", "where": [["next_cfg", "<=", 3]], "row": {"external_ids": ["map", [["a", "b"]]]}},
        {"op": "wait", "table": "Open_vSwitch", "timeout": 0, "where": [], "columns": ["next_cfg"], "until": "==", "rows": [{"next_cfg": 1}]},
        {"op": "mutate", "table": "Open_vSwitch", "where": [["external_ids", "includes", ["map", [["a", "b"]]]]],
         "mutations": [["next_cfg", "*=", 7], ["external_ids", "delete", ["set", ["a"]]], ["next_cfg", "/=", 0], ["next_cfg", "%=", 2]]},
        {"op": "comment", "comment": "c"}, {"op": "commit", "durable": true}, {"op": "assert", "lock": "l"},
        {"op": "delete", "table": "Open_vSwitch", "where": [["next_cfg", "!=", 9]]}, {"op": "abort"}
    ]);
    let request = |params: &Value| json!({"id": 1, "method": "transact", "params": params}).to_string();
    let cuts = [3u8, 0, 50, 0, 90, 0, 200, 0];
    [
        format!("{}\n{}", request(&bridge), request(&rest)),
        request(&rest),
        r#"{"id":null,"method":"echo","params":["}{\"\\"]}  {"id":0,"result":{},"error":null}"#.to_owned(),
        r#"{"a":[[[[[[[[[[[[[1]]]]]]]]]]]]]}"#.to_owned(),
        r#"{"id":1,"method":"transact","params":["Open_vSwitch",{"op":"insert","table":"QoS","row":{"queues":["map",[[1,["uuid","x"]]]]}}]}]"#
            .to_owned(),
    ]
    .into_iter()
    .map(|stream| [&cuts[..], stream.as_bytes()].concat())
    .collect()
}

fn schema() -> &'static DatabaseSchema {
    static SCHEMA: OnceLock<DatabaseSchema> = OnceLock::new();
    SCHEMA.get_or_init(vswitch_schema)
}

/// The messages of a stream, and how it ended: inside a message or not, or with an error.
fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Value>, Result<bool, FrameError>) {
    let mut framer = Framer::new(LIMITS);
    let mut messages = Vec::new();
    for piece in pieces {
        match framer.feed(piece) {
            Ok(complete) => messages.extend(complete),
            Err(error) => return (messages, Err(error)),
        }
    }
    (messages, Ok(framer.is_partial()))
}

fn transact(db: &Db, operations: &[Value]) {
    let before = db.snapshot().sequence();
    let results = db.transact_json(operations);
    assert!(results.len() >= operations.len(), "an operation without a result");
    if results.iter().any(|result| result.get("error").is_some_and(|error| !error.is_null())) {
        assert_eq!(db.snapshot().sequence(), before, "a failed transaction was committed");
    }
    if db.snapshot().sequence() != before {
        let selects: Vec<Value> = schema()
            .tables
            .iter()
            .map(|table| json!({"op": "select", "table": table.name.to_string(), "where": []}))
            .collect();
        let rows = db.transact_json(&selects);
        assert!(rows.iter().all(|result| result.get("rows").is_some()), "{rows:?}");
    }
}
