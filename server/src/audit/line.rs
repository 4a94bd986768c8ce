//! What is known of a call without looking into it.

use imageops_client::code_name;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A call from outside.
pub(crate) struct Line {
    /// `Service/Method`.
    pub(crate) method: String,
    /// The caller's id of the request, or the gateway's.
    pub(crate) request_id: String,
    /// The trace that it belongs to.
    pub(crate) trace_id: String,
}

/// How a call ended; of a stream, how it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it was asked.
    Done,
    /// With an error.
    Failed {
        /// gRPC code.
        code: Code,
        /// Stable reason.
        reason: String,
    },
    /// The caller went away.
    Abandoned,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        if status.code() == Code::Ok {
            return Self::Done;
        }
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self::Failed { code: status.code(), reason }
    }
}

impl Outcome {
    /// Whether the caller had no right to it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed { code: Code::Unauthenticated | Code::PermissionDenied, .. })
    }

    /// The name of the code, as gRPC writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Done => "OK",
            Self::Abandoned => "ABANDONED",
            Self::Failed { code, .. } => code_name(*code),
        }
    }

    /// The stable reason, empty where there is none.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Failed { reason, .. } => reason,
            Self::Done | Self::Abandoned => "",
        }
    }
}
