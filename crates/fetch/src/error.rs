//! Why nothing, or not all, was fetched: categories that tell a client nothing of the network behind us.

/// Why a fetch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The gate: the URL, or one that it was redirected to, is none that may be fetched. Says what is wrong with its text;
    /// of a host it never says more than that.
    #[error("{0}")]
    Denied(&'static str),
    /// The gate: the name of the host leads nowhere, or to where nothing may be fetched from. One answer for both: else it
    /// would tell which names there are inside.
    #[error("the host of the URL is none that may be fetched from")]
    NoHost,
    /// No connection, or none that speaks the protocol in time. One answer for a closed port, an open one and a wrong
    /// protocol.
    #[error("the source does not answer as a source of files")]
    Unreachable,
    /// The source answered that it does not hand the file out.
    #[error("the source does not hand the file out")]
    Refused,
    /// The answer breaks a rule: redirects without end, an encoding, a range that was not asked for.
    #[error("{0}")]
    Invalid(&'static str),
    /// Less than the minimum rate, or nothing at all for too long.
    #[error("the source is too slow")]
    TooSlow,
    /// The file is another one than when the fetch began.
    #[error("the file changed at its source while it was fetched")]
    Changed,
    /// The source ended before the end, again and again, or once where it cannot be resumed.
    #[error("the source broke off before the end")]
    Cut,
    /// More bytes than are taken.
    #[error("the file is longer than {limit_bytes} bytes")]
    TooLarge {
        /// The most that is taken.
        limit_bytes: u64,
    },
}

/// What this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the same request may do better a moment later.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Self::NoHost | Self::Unreachable | Self::Cut)
    }

    /// Whether a fetch from the first byte may bring what this one did not.
    pub fn is_worth_a_restart(self) -> bool {
        matches!(self, Self::Changed | Self::Cut)
    }
}
