//! Which store new bytes go to.

use imageops_model::StoreId;

/// What placement knows of a store that takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: StoreId,
    pub(super) weight: i32,
    /// Bytes that can still be written; `None`: as many as anyone wants.
    pub(super) free_bytes: Option<u64>,
}

impl Candidate {
    /// Whether so many bytes fit. Of an unknown length nobody knows: any room will do.
    fn has_room(&self, size_bytes: Option<u64>) -> bool {
        self.free_bytes.is_none_or(|free| free > 0 && free >= size_bytes.unwrap_or(1))
    }
}

/// The highest weight with room first, of equal weights the one with the most room (Glance's `filesystem_store_datadirs`).
pub(super) fn place(candidates: &[Candidate], size_bytes: Option<u64>) -> Option<StoreId> {
    let fitting = candidates.iter().filter(|candidate| candidate.has_room(size_bytes));
    fitting
        .max_by_key(|candidate| {
            // The id decides what is equal in all else, so that two calls agree.
            (candidate.weight, candidate.free_bytes.unwrap_or(u64::MAX), candidate.id)
        })
        .map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn store(number: u128, weight: i32, free_bytes: Option<u64>) -> Candidate {
        Candidate { id: StoreId(Uuid::from_u128(number)), weight, free_bytes }
    }

    fn placed(candidates: &[Candidate], size_bytes: Option<u64>) -> Option<u128> {
        place(candidates, size_bytes).map(|id| id.0.as_u128())
    }

    #[test]
    fn weight_comes_before_room_and_room_before_all() {
        let stores =
            [store(1, 0, Some(100)), store(2, 10, Some(50)), store(3, 10, Some(70)), store(4, -1, None)];
        assert_eq!(placed(&stores, Some(10)), Some(3));
        assert_eq!(placed(&stores, None), Some(3));
        assert_eq!(placed(&stores, Some(71)), Some(1), "the heavier ones are too small");
        assert_eq!(placed(&stores, Some(101)), Some(4), "unlimited takes what is left");
        assert_eq!(placed(&stores[..3], Some(101)), None);
        assert_eq!(placed(&[store(1, 0, Some(0))], None), None);
        assert_eq!(placed(&[store(1, 0, Some(0))], Some(0)), None, "even nothing needs a name");
    }
}
