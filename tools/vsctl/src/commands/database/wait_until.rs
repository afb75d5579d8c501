//! `wait-until`: hold the chain back until a row meets conditions.

use super::select::holds;
use super::{Columns, IF_EXISTS, MANY, Verb, VerbOption, tables};
use crate::error::Error;
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERB: Verb = Verb {
    name: "wait-until",
    args: "TABLE RECORD [COLUMN[:KEY]{=,!=,<,>,...}VALUE]...",
    arity: (2, MANY),
    options: &[VerbOption { help: "Do not wait for a row that is not there", ..IF_EXISTS }],
    about: "Wait until the row exists and meets all conditions (bounded by --timeout)",
    tables,
    looks_at: Columns::All,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    let table = plan.schema().find_table(call.arg(0))?;
    let Some(row) = plan.find_record(table, call.arg(1))? else {
        return if call.has(IF_EXISTS.name) { Ok(Output::Nothing) } else { Err(Error::NotYet) };
    };
    for condition in call.rest(2) {
        if !holds(plan, table, row, condition)? {
            return Err(Error::NotYet);
        }
    }
    Ok(Output::Nothing)
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::fixture::{self, run};

    #[test]
    fn the_chain_is_held_back() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        assert!(matches!(run(&mut plan, "wait-until bridge nobody"), Err(Error::NotYet)));
        assert!(matches!(run(&mut plan, "wait-until port p0 tag=5"), Err(Error::NotYet)));
        run(&mut plan, "set port p0 tag=5").unwrap();
        run(&mut plan, "wait-until port p0 tag=5 name=p0").unwrap();
        run(&mut plan, "--if-exists wait-until bridge nobody").unwrap();
        assert!(matches!(run(&mut plan, "wait-until port p0 nonsense=5"), Err(Error::Usage(_))));
    }
}
