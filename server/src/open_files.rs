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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Enough for what other tests of this process have open.
        assert!(setrlimit(Resource::Nofile, Rlimit { current: Some(900), maximum }).is_ok());
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
    }
}
