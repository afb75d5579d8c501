//! The actions of a flow, shared by all that hold the flow.

use core::{fmt, ops::Deref};
use std::sync::Arc;

use super::Action;
use crate::key::PortNo;

/// An immutable list of actions. Empty means drop.
///
/// Cloning counts a reference and is for the slow path; the datapath borrows.
#[derive(Clone, PartialEq, Eq)]
pub struct ActionList {
    actions: Arc<[Action]>,
}

impl ActionList {
    /// A list that does the given steps in order.
    pub fn new(actions: Vec<Action>) -> ActionList {
        ActionList { actions: actions.into() }
    }

    /// The list that drops.
    pub fn drop_all() -> ActionList {
        ActionList::new(Vec::new())
    }

    /// The port, when the list is one output and nothing else: by far the most common case.
    pub fn single_output(&self) -> Option<PortNo> {
        match *self.actions {
            [Action::Output(port)] => Some(port),
            _ => None,
        }
    }

    /// Whether packets are dropped.
    #[inline]
    pub fn is_drop(&self) -> bool {
        self.actions.is_empty()
    }

    /// The steps.
    #[inline]
    pub fn as_slice(&self) -> &[Action] {
        &self.actions
    }
}

impl Default for ActionList {
    fn default() -> ActionList {
        ActionList::drop_all()
    }
}

impl From<Vec<Action>> for ActionList {
    fn from(actions: Vec<Action>) -> ActionList {
        ActionList::new(actions)
    }
}

impl Deref for ActionList {
    type Target = [Action];

    fn deref(&self) -> &[Action] {
        &self.actions
    }
}

impl fmt::Debug for ActionList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.actions.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_output_is_only_that() {
        let out = |n| Action::Output(PortNo(n));
        assert_eq!(ActionList::new(vec![out(3)]).single_output(), Some(PortNo(3)));
        assert_eq!(ActionList::new(vec![out(3), out(4)]).single_output(), None);
        assert_eq!(ActionList::new(vec![Action::Truncate(64), out(3)]).single_output(), None);
        assert_eq!(ActionList::drop_all().single_output(), None);
        assert!(ActionList::default().is_drop());
    }
}
