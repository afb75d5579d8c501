//! The three shapes of a JSON-RPC 1.0 message.

use serde_json::{Map, Value, json};

/// A message, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Wants a reply under its id.
    Request {
        /// Echoed in the reply.
        id: Value,
        /// What to do.
        method: String,
        /// With what.
        params: Vec<Value>,
    },
    /// Wants none.
    Notification {
        /// What happened or is to be done.
        method: String,
        /// With what.
        params: Vec<Value>,
    },
    /// Answers a request.
    Reply {
        /// Of that request.
        id: Value,
        /// The result; null in an error.
        result: Value,
        /// The error; null in a success.
        error: Value,
    },
}

impl Message {
    /// Takes a parsed object apart; says what is wrong with one that is no message.
    pub fn from_json(json: Value) -> Result<Message, String> {
        let Value::Object(mut members) = json else { return Err("a message should be an object".to_owned()) };
        let take = |members: &mut Map<String, Value>, name: &str| members.remove(name).unwrap_or_default();
        let id = take(&mut members, "id");
        match members.remove("method") {
            Some(Value::String(method)) => {
                let Value::Array(params) = take(&mut members, "params") else {
                    return Err(format!("{method:?}: \"params\" should be an array"));
                };
                Ok(if id.is_null() {
                    Message::Notification { method, params }
                } else {
                    Message::Request { id, method, params }
                })
            }
            Some(_) => Err("\"method\" should be a string".to_owned()),
            None if members.contains_key("result") || members.contains_key("error") => {
                let result = take(&mut members, "result");
                Ok(Message::Reply { id, result, error: take(&mut members, "error") })
            }
            None => {
                Err("a message has \"method\" (a request) or \"result\" and \"error\" (a reply)".to_owned())
            }
        }
    }
}

/// A successful reply.
pub fn reply(id: &Value, result: &Value) -> Value {
    json!({"id": id, "result": result, "error": null})
}

/// A failed reply.
pub fn error_reply(id: &Value, error: &Value) -> Value {
    json!({"id": id, "result": null, "error": error})
}

/// A request.
pub fn request(id: &Value, method: &str, params: &Value) -> Value {
    json!({"id": id, "method": method, "params": params})
}

/// A notification.
pub fn notification(method: &str, params: &Value) -> Value {
    json!({"id": null, "method": method, "params": params})
}
