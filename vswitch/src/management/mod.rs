//! The `vs.*` methods: what the management socket offers beside the database.
//!
//! | method | parameters | answers |
//! |---|---|---|
//! | `vs.fdb.show` | `[bridge?]` | learned addresses |
//! | `vs.fdb.flush` | `[bridge?]` | number forgotten |
//! | `vs.flow.add` | `[bridge, [text…]]` | nothing; all or none are added |
//! | `vs.flow.check` | `[bridge, [text…]]` | nothing, or what `vs.flow.add` would refuse; none are added |
//! | `vs.flow.del` | `[bridge, match, strict]` | number deleted |
//! | `vs.flow.dump` | `[bridge, match]` | rules with counters |
//! | `vs.dp.flows` | `[]` | megaflows per worker |
//! | `vs.nic.list` | `[]` | PCI network devices |
//! | `vs.nic.show` | `[address]` | one of them |
//! | `vs.nic.bind` | `[address, force?]` | nothing; `vfio-pci` has the device |
//! | `vs.nic.unbind` | `[address]` | nothing; the kernel has the device |
//! | `vs.nic.vfs` | `[address]` | the virtual functions of a card |
//! | `vs.nic.make_vfs` | `[address, count, kernel?]` | those that it has then |
//! | `vs.nic.set_vf` | `[address, settings]` | nothing |
//! | `vs.stats` | `[port?]` | ports, queues, drops |
//! | `vs.pmd` | `[]` | workers, load per queue |
//!
//! One file per group. Each method is a function from parameters to a JSON object or an error text; none
//! keeps state, none can stall a worker.

mod fdb;
mod flows;
mod nic;
mod params;
mod stats;
mod virtual_functions;

use std::sync::Arc;

use serde_json::Value;
use vswitch_ovsdb::Methods;

use crate::switch::Switch;

/// The methods over a running switch.
pub struct SwitchMethods {
    switch: Arc<Switch>,
}

impl SwitchMethods {
    /// Serves `switch`.
    pub fn new(switch: Arc<Switch>) -> SwitchMethods {
        SwitchMethods { switch }
    }
}

impl Methods for SwitchMethods {
    fn call(&self, method: &str, params: &Value) -> Option<Result<Value, String>> {
        let switch = &*self.switch;
        Some(match method {
            "vs.fdb.show" => fdb::show(switch, params),
            "vs.fdb.flush" => fdb::flush(switch, params),
            "vs.flow.add" => flows::add(switch, params),
            "vs.flow.check" => flows::check(switch, params),
            "vs.flow.del" => flows::delete(switch, params),
            "vs.flow.dump" => flows::dump(switch, params),
            "vs.dp.flows" => flows::megaflows(switch),
            "vs.nic.list" => nic::list(),
            "vs.nic.show" => nic::show(params),
            "vs.nic.bind" => nic::bind(params),
            "vs.nic.unbind" => nic::unbind(params),
            "vs.nic.vfs" => virtual_functions::list(switch, params),
            "vs.nic.make_vfs" => virtual_functions::make(params),
            "vs.nic.set_vf" => virtual_functions::set(params),
            "vs.stats" => stats::ports(switch, params),
            "vs.pmd" => stats::workers(switch),
            _ => return None,
        })
    }
}
