//! `comment`: a line in the server's log of changes.

use super::{Columns, MANY, Verb};
use crate::error::Error;
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

pub(super) const VERB: Verb = Verb {
    name: "comment",
    args: "TEXT...",
    arity: (1, MANY),
    options: &[],
    about: "Write a comment to the log of changes, together with the other changes of the line",
    tables: |_, _| Ok(Vec::new()),
    looks_at: Columns::Named,
    run,
};

fn run(call: &Call, plan: &mut Plan<'_>) -> Result<Output, Error> {
    plan.comment(call.rest(0).join(" "));
    Ok(Output::Nothing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fixture::{self, run};

    #[test]
    fn the_words_are_joined() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        run(&mut plan, "comment moved by hand").unwrap();
        assert_eq!(
            plan.operations(true).unwrap().operations,
            [json!({"op": "comment", "comment": "moved by hand"})]
        );
    }
}
