//! Whose job was taken last, and how many one tenant may have.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imageops_model::{Lane, Tenant};

/// The tenant whose job this handle, or a clone of it, claimed last: the next one is the next tenant's. It is not stored; after a restart the
/// round begins anew, which takes nobody's turn away for more than one round.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    work: Arc<Mutex<String>>,
    import: Arc<Mutex<String>>,
    imports_max: Arc<AtomicU32>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { work: Arc::default(), import: Arc::default(), imports_max: Arc::new(AtomicU32::new(u32::MAX)) }
    }
}

impl Turn {
    /// The name behind which the next tenant is looked for; empty at first. The other lanes are the operator's alone.
    pub(crate) fn last(&self, lane: Lane) -> String {
        self.of(lane).map(|last| last.clone()).unwrap_or_default()
    }

    /// A job of this tenant was claimed.
    pub(crate) fn taken_by(&self, lane: Lane, tenant: &Tenant) {
        if let Some(mut last) = self.of(lane) {
            tenant.as_str().clone_into(&mut last);
        }
    }

    /// So many imports of one tenant run at a time.
    pub(crate) fn imports_max(&self) -> u32 {
        self.imports_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_imports_max(&self, imports_max: u32) {
        self.imports_max.store(imports_max, Ordering::Relaxed);
    }

    fn of(&self, lane: Lane) -> Option<MutexGuard<'_, String>> {
        let last = match lane {
            Lane::Work => &self.work,
            Lane::Import => &self.import,
            Lane::Scrub | Lane::Drain => return None,
        };
        Some(last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
