//! How much of the server one tenant may take at a time, so that the others get their share (SEC-42).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imageops_model::Tenant;
use tonic::Code;

use crate::failure::{Failure, Result};
use crate::reason;

/// Seconds of the rate that may come at once after a pause.
const BURST_SECONDS: f64 = 2.0;
/// Tenants that are remembered before those are forgotten that have nothing running and a full allowance.
const TENANTS_KEPT: usize = 1024;

/// Counts the calls of each tenant.
#[derive(Debug)]
pub struct TenantLimits {
    /// Calls that may run at the same time; 0: any number.
    calls_max: u32,
    /// Calls that may begin in a second; 0: any number.
    calls_per_second: u32,
    tenants: Mutex<HashMap<Tenant, Taken>>,
}

/// What a tenant takes now.
#[derive(Debug)]
struct Taken {
    running: u32,
    /// Calls that may begin at once, as of `counted`.
    allowance: f64,
    counted: Instant,
}

/// The right to run one call; it ends when this is dropped.
#[derive(Debug)]
pub struct Admission {
    limits: Arc<TenantLimits>,
    tenant: Tenant,
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(taken) = self.limits.lock().get_mut(&self.tenant) {
            taken.running = taken.running.saturating_sub(1);
        }
    }
}

impl TenantLimits {
    /// Limits for each tenant; 0 is none.
    pub fn new(calls_max: u32, calls_per_second: u32) -> Self {
        Self { calls_max, calls_per_second, tenants: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Taken>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn burst(&self) -> f64 {
        f64::from(self.calls_per_second) * BURST_SECONDS
    }

    /// Lets a call of a tenant begin, at `now`.
    pub fn admit(self: &Arc<Self>, tenant: &Tenant, now: Instant) -> Result<Admission> {
        let mut tenants = self.lock();
        if tenants.len() >= TENANTS_KEPT {
            tenants.retain(|_, taken| taken.running > 0 || self.allowance(taken, now) < self.burst());
        }
        let full = Taken { running: 0, allowance: self.burst(), counted: now };
        let taken = tenants.entry(tenant.clone()).or_insert(full);
        if self.calls_max > 0 && taken.running >= self.calls_max {
            let message = format!("{} calls of the tenant are running; wait for one to end", taken.running);
            return Err(refuse("tenant-calls", message, Duration::from_secs(1)));
        }
        if self.calls_per_second > 0 {
            taken.allowance = self.allowance(taken, now);
            taken.counted = now;
            if taken.allowance < 1.0 {
                let pause = (1.0 - taken.allowance) / f64::from(self.calls_per_second);
                let message = format!("the tenant makes more than {} calls a second", self.calls_per_second);
                return Err(refuse("tenant-rate", message, Duration::from_secs_f64(pause)));
            }
            taken.allowance -= 1.0;
        }
        taken.running += 1;
        Ok(Admission { limits: Arc::clone(self), tenant: tenant.clone() })
    }

    fn allowance(&self, taken: &Taken, now: Instant) -> f64 {
        let grown =
            now.saturating_duration_since(taken.counted).as_secs_f64() * f64::from(self.calls_per_second);
        (taken.allowance + grown).min(self.burst())
    }
}

/// A refusal for want of a place, counted under its own name, with the time to come back after.
pub(crate) fn refuse(counted_as: &'static str, message: impl Into<String>, pause: Duration) -> Failure {
    metrics::counter!("imageops_rejected_total", "reason" => counted_as).increment(1);
    Failure::new(Code::ResourceExhausted, reason::LIMIT_REACHED, message).retry_after(pause)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    #[test]
    fn so_many_calls_run_at_a_time_and_no_more() {
        let (limits, now) = (Arc::new(TenantLimits::new(2, 0)), Instant::now());
        let first = limits.admit(&tenant("a"), now).unwrap();
        let _second = limits.admit(&tenant("a"), now).unwrap();
        assert_eq!(limits.admit(&tenant("a"), now).unwrap_err().code, Code::ResourceExhausted);
        limits.admit(&tenant("b"), now).unwrap();
        drop(first);
        limits.admit(&tenant("a"), now).unwrap();
    }

    #[test]
    fn the_rate_holds_after_a_burst() {
        let (limits, start) = (Arc::new(TenantLimits::new(0, 10)), Instant::now());
        let begun = |milliseconds: u64| {
            let now = start + Duration::from_millis(milliseconds);
            (0..100).filter(|_| limits.admit(&tenant("a"), now).is_ok()).count()
        };
        assert_eq!(begun(0), 20);
        assert_eq!(begun(0), 0);
        assert_eq!(begun(500), 5);
        assert_eq!(begun(550), 0);
        assert_eq!(begun(100_000), 20);
        assert!(limits.admit(&tenant("b"), start).is_ok());
    }

    #[test]
    fn tenants_with_nothing_running_are_forgotten() {
        let (limits, start) = (Arc::new(TenantLimits::new(1, 1)), Instant::now());
        let held = limits.admit(&tenant("held"), start).unwrap();
        for n in 0..TENANTS_KEPT * 3 {
            limits.admit(&tenant(&n.to_string()), start + Duration::from_secs(n as u64)).unwrap();
        }
        assert!(limits.lock().len() <= TENANTS_KEPT + 1);
        assert!(limits.lock().contains_key(&tenant("held")));
        drop(held);
    }
}
