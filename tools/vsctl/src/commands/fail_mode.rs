//! `get-fail-mode`, `set-fail-mode`, `del-fail-mode`: what a bridge does without a controller.

use super::{Columns, Verb, topology};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;
use crate::value::Datum;

const COLUMN: &str = "fail_mode";

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "get-fail-mode",
        args: "BRIDGE",
        arity: (1, 1),
        options: &[],
        about: "Print the fail mode of a bridge, if it has one",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: get,
    },
    Verb {
        name: "set-fail-mode",
        args: "BRIDGE standalone|secure",
        arity: (2, 2),
        options: &[],
        about: "Set the fail mode of a bridge",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: set,
    },
    Verb {
        name: "del-fail-mode",
        args: "BRIDGE",
        arity: (1, 1),
        options: &[],
        about: "Remove the fail mode of a bridge",
        tables: topology::tables,
        looks_at: Columns::Named,
        run: delete,
    },
];

fn get(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let bridge = topology::bridge(plan, call.arg(0))?;
    let mode = plan.text(bridge, COLUMN)?;
    Ok(Output::lines((!mode.is_empty()).then_some(mode)))
}

fn set(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let mode = call.arg(1);
    if !matches!(mode, "standalone" | "secure") {
        return Err(usage!("fail mode \"{mode}\" is neither standalone nor secure"));
    }
    let bridge = topology::bridge(plan, call.arg(0))?;
    plan.set(bridge, COLUMN, Datum::string(mode))?;
    Ok(Output::Nothing)
}

fn delete(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let bridge = topology::bridge(plan, call.arg(0))?;
    plan.set(bridge, COLUMN, Datum::Set([].into()))?;
    Ok(Output::Nothing)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, print, run};

    #[test]
    fn set_get_delete() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        assert_eq!(print(&mut plan, "get-fail-mode br0"), "");
        run(&mut plan, "set-fail-mode br0 secure").unwrap();
        assert_eq!(print(&mut plan, "get-fail-mode br0"), "secure\n");
        run(&mut plan, "del-fail-mode br0").unwrap();
        assert_eq!(print(&mut plan, "get-fail-mode br0"), "");
        assert!(run(&mut plan, "set-fail-mode br0 open").is_err());
    }
}
