//! Whose job was taken last.

use std::sync::{Arc, Mutex, PoisonError};

use imageops_model::{Lane, Tenant};

/// The tenant whose job this handle, or a clone of it, claimed last: the next one is the next tenant's. It is not stored; after a restart the
/// round begins anew, which takes nobody's turn away for more than one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<Mutex<String>>);

impl Turn {
    /// The name behind which the next tenant is looked for; empty at first. The other lanes are the operator's alone.
    pub(crate) fn last(&self, lane: Lane) -> String {
        if lane != Lane::Work {
            return String::new();
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A job of this tenant was claimed.
    pub(crate) fn taken_by(&self, lane: Lane, tenant: &Tenant) {
        if lane != Lane::Work {
            return;
        }
        tenant.as_str().clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
