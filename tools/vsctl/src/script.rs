//! A switch for tests that expects certain calls in order and gives the answers it was told to.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use clap::Parser;
use serde_json::Value;

use crate::commands::{OwnLine, run_own};
use crate::connection::Database;
use crate::error::{Error, failed};
use crate::output::{Data, Format, Style};

/// One expected call: method, parameters, result.
type Expected = (&'static str, Value, Value);

/// Expected calls with their answers.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    calls: Rc<RefCell<VecDeque<Expected>>>,
}

impl Script {
    /// A switch that expects these calls: method, parameters, result.
    pub(crate) fn new(calls: impl IntoIterator<Item = Expected>) -> Self {
        Self { calls: Rc::new(RefCell::new(calls.into_iter().collect())) }
    }

    /// Checks that every expected call was made.
    pub(crate) fn finished(&self) {
        assert!(self.calls.borrow().is_empty(), "not called: {:?}", self.calls);
    }
}

impl Database for Script {
    fn schema(&mut self) -> Result<Value, Error> {
        self.call("get_schema", Value::Null)
    }

    fn transact(&mut self, _: &[Value]) -> Result<Vec<Value>, Error> {
        Err(failed!("no transaction is expected here"))
    }

    fn watch(&mut self, _: &[String], _: Option<&str>) -> Result<(), Error> {
        Err(failed!("no monitor is expected here"))
    }

    fn changed(&mut self) -> Result<(), Error> {
        Err(failed!("no monitor is expected here"))
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        let (expected, wanted, answer) =
            self.calls.borrow_mut().pop_front().expect("one call more than expected");
        assert_eq!((method, &params), (expected, &wanted));
        Ok(answer)
    }
}

/// Runs an own command, its words separated by blanks, and returns what it prints.
pub(crate) fn own(script: &mut Script, line: &str) -> Result<String, Error> {
    run(script, line, None)
}

/// The same with `--format`.
pub(crate) fn own_format(script: &mut Script, line: &str, format: Format) -> Result<String, Error> {
    run(script, line, Some(format))
}

fn run(script: &mut Script, line: &str, format: Option<Format>) -> Result<String, Error> {
    let line = OwnLine::try_parse_from(std::iter::once("vsctl").chain(line.split(' '))).unwrap();
    let style = Style { format, data: Data::String, headings: true };
    let mut out = Vec::new();
    run_own(&line.own, &mut || Ok(Box::new(script.clone())), style, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}
