//! Commands of `ovs-vsctl` that this switch cannot carry out yet. They are known by name so that the error says
//! what is missing and what to use instead, rather than "unknown command".

use super::{Columns, MANY, Verb};
use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::Output;
use crate::plan::Plan;

const fn verb(name: &'static str, args: &'static str, about: &'static str) -> Verb {
    Verb {
        name,
        args,
        arity: (0, MANY),
        options: &[],
        about,
        tables: |_, _| Ok(Vec::new()),
        looks_at: Columns::Named,
        run,
    }
}

const BONDS: &str = "Not available: this switch has no bonds yet; add each link as a port of its own";
const CONTROLLERS: &str =
    "Not available: this switch has no OpenFlow yet; use vsctl add-flow, del-flows, dump-flows";
const MANAGERS: &str =
    "Not available: the management socket is the unix socket of --db, there is no TCP or SSL yet";

pub(super) const VERBS: &[Verb] = &[
    verb("add-bond", "BRIDGE PORT INTERFACE...", BONDS),
    verb("add-bond-iface", "BOND INTERFACE", BONDS),
    verb("del-bond-iface", "[BOND] INTERFACE", BONDS),
    verb("get-controller", "BRIDGE", CONTROLLERS),
    verb("set-controller", "BRIDGE TARGET...", CONTROLLERS),
    verb("del-controller", "BRIDGE", CONTROLLERS),
    verb("get-manager", "", MANAGERS),
    verb("set-manager", "TARGET...", MANAGERS),
    verb("del-manager", "", MANAGERS),
    verb("get-ssl", "", MANAGERS),
    verb("set-ssl", "PRIVATE-KEY CERTIFICATE CA-CERTIFICATE", MANAGERS),
    verb("del-ssl", "", MANAGERS),
];

fn run(call: &Call, _: &mut Plan<'_>) -> Result<Output, Error> {
    Err(usage!("{}: {}", call.verb.name, call.verb.about))
}

#[cfg(test)]
mod tests {
    use crate::fixture::{self, run};

    #[test]
    fn the_error_says_what_to_use_instead() {
        let schema = fixture::schema();
        let mut plan = fixture::plan(&schema);
        assert!(
            run(&mut plan, "set-controller br0 tcp:127.0.0.1").unwrap_err().to_string().contains("add-flow")
        );
    }
}
