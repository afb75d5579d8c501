//! `pmd-rxq-show`: which worker polls which rx queue, as `ovs-appctl dpif-netdev/pmd-rxq-show` prints it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::answer::{count, list, real, text};
use crate::connection::Database;
use crate::error::Error;

/// `pmd-rxq-show`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(super) fn run(db: &mut dyn Database) -> Result<String, Error> {
    let answer = db.call("vs.pmd", json!([]))?;
    let mut shown = "Displaying last 60 seconds pmd usage %\n".to_owned();
    for worker in list(&answer, "workers") {
        // Writing to a string does not fail.
        let _ = write(&mut shown, worker);
    }
    Ok(shown)
}

fn write(shown: &mut String, worker: &Value) -> std::fmt::Result {
    let is = |value: &Value, key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    writeln!(shown, "pmd thread numa_id {} core_id {}:", count(worker, "numa"), count(worker, "core"))?;
    writeln!(shown, "  isolated : {}", is(worker, "isolated"))?;
    for queue in list(worker, "rxqs") {
        let pinned = if is(queue, "pinned") { " (pinned)" } else { "" };
        writeln!(
            shown,
            "  port: {:<16}  queue-id: {:>2} (enabled)  pmd usage: {:>2.0} %{pinned}",
            text(queue, "port"),
            count(queue, "queue"),
            real(queue, "usage_pct")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, own};

    #[test]
    fn as_open_vswitch_prints_it() {
        let answer = json!({"workers": [
            {"core": 1, "numa": 0, "isolated": true, "rxqs": [{"port": "p0", "queue": 3, "usage_pct": 41.6, "pinned": true}]},
            {"core": 2, "numa": 1, "isolated": false, "rxqs": []}]});
        let mut script = Script::new([("vs.pmd", json!([]), answer)]);
        assert_eq!(
            own(&mut script, "pmd-rxq-show").unwrap(),
            "Displaying last 60 seconds pmd usage %\n\
             pmd thread numa_id 0 core_id 1:\n  isolated : true\n  \
             port: p0                queue-id:  3 (enabled)  pmd usage: 42 % (pinned)\n\
             pmd thread numa_id 1 core_id 2:\n  isolated : false\n"
        );
    }
}
