//! How many streams bring bytes at a time: places are few, and one tenant may not have them all (SEC-37).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imageops_model::Tenant;

use crate::failure::Result;
use crate::limits::refuse;

/// When to come back for a place.
const PAUSE: Duration = Duration::from_secs(1);

/// The places for streams that are open.
#[derive(Debug)]
pub struct Streams {
    places: u32,
    taken: Mutex<HashMap<Tenant, u32>>,
}

/// One open stream; dropping it makes room for another.
#[derive(Debug)]
pub struct StreamSlot {
    streams: Arc<Streams>,
    tenant: Tenant,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut taken = self.streams.taken();
        if let Some(count) = taken.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

impl Streams {
    /// So many places.
    pub fn new(places: u32) -> Self {
        Self { places, taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Tenant, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place. One tenant among others gets half of them, so that there are some for the others.
    pub fn open(self: &Arc<Self>, tenant: &Tenant) -> Result<StreamSlot> {
        let mut taken = self.taken();
        let own = taken.get(tenant).copied().unwrap_or_default();
        let share = if tenant.is_built_in() { self.places } else { self.places.div_ceil(2) };
        if taken.values().sum::<u32>() >= self.places {
            return Err(refuse("uploads", "too many uploads are open; try again", PAUSE));
        }
        if own >= share {
            return Err(refuse(
                "tenant-uploads",
                "the tenant has as many uploads open as it may; try again",
                PAUSE,
            ));
        }
        taken.insert(tenant.clone(), own + 1);
        Ok(StreamSlot { streams: Arc::clone(self), tenant: tenant.clone() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn one_tenant_does_not_get_all_places() {
        let streams = Arc::new(Streams::new(5));
        let (one, other) = (Tenant::new("one").unwrap(), Tenant::new("other").unwrap());
        let mut held: Vec<_> = (0..3).map(|_| streams.open(&one).unwrap()).collect();
        assert_eq!(streams.open(&one).unwrap_err().code, Code::ResourceExhausted);
        held.extend((0..2).map(|_| streams.open(&other).unwrap()));
        assert_eq!(streams.open(&other).unwrap_err().code, Code::ResourceExhausted);
        held.remove(0);
        held.push(streams.open(&one).unwrap());
        drop(held);
        assert!(streams.taken().is_empty());
        let _all: Vec<_> = (0..5).map(|_| streams.open(&Tenant::built_in()).unwrap()).collect();
    }
}
