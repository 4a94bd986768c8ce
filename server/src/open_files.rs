//! How many files and connections the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many as the process may have: sessions start their programs with a soft limit of 1,024, which programs that use
/// `select` need, and which a few hundred clients reach.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?current, ?maximum, "more files may be open"),
        Err(error) => {
            tracing::warn!(?current, ?maximum, %error, "no more files may be open than this session allows")
        }
    }
}

/// Files that are kept for idle uploads, stores, the catalogue and jobs.
const FILES_KEPT: u64 = 1_024;
/// So many connections a listener has at least, whatever the limit.
const CONNECTIONS_MIN: u64 = 64;

/// How many connections each of so many listeners may have: `most`, or as many as leave files for the work.
pub(crate) fn connections_max(most: usize, listeners: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let each = limit.saturating_sub(FILES_KEPT) / (listeners as u64).max(1);
    let allowed = usize::try_from(each.max(CONNECTIONS_MIN)).unwrap_or(usize::MAX).min(most);
    if allowed < most {
        tracing::warn!(limit, "a port has {allowed} connections at most: raise the limit of open files");
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Enough for what other tests of this process have open.
        let current = Some(maximum.map_or(900, |most| most.min(900)));
        assert!(setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_ok());
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
        assert_eq!(connections_max(10, 2), 10);
        assert_eq!(connections_max(usize::MAX, usize::MAX), 64);
    }
}
