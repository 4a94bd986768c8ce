//! Mapping pairs: where an attribute's clusters lie, as lengths and differences of numbers of one to eight bytes.

/// A stretch of clusters of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) clusters: u64,
    /// First cluster on the volume; `None` is a hole.
    pub(crate) start: Option<u64>,
}

/// Decodes mapping pairs; an inner error ends the list, which is damaged then.
#[derive(Clone, Debug)]
pub(crate) struct Runs<'a> {
    pairs: &'a [u8],
    volume_clusters: u64,
    last: i64,
    ended: bool,
}

/// The pairs are cut short, or name a place outside the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl<'a> Runs<'a> {
    /// `pairs` up to the end of their attribute.
    pub(crate) fn new(pairs: &'a [u8], volume_clusters: u64) -> Self {
        Self { pairs, volume_clusters, last: 0, ended: false }
    }

    /// The next run that is not empty; `None` at the terminator.
    fn decode(&mut self) -> Result<Option<Run>, Broken> {
        loop {
            let (header, rest) = self.pairs.split_first().ok_or(Broken)?;
            if *header == 0 {
                return Ok(None);
            }
            let (length_bytes, place_bytes) = (usize::from(header & 15), usize::from(header >> 4));
            let (length, rest) = rest.split_at_checked(length_bytes).ok_or(Broken)?;
            let (place, rest) = rest.split_at_checked(place_bytes).ok_or(Broken)?;
            self.pairs = rest;
            let clusters = u64::try_from(number(length).ok_or(Broken)?).map_err(|_| Broken)?;
            if place.is_empty() {
                // A hole cannot be longer than the longest file.
                if clusters > i64::MAX as u64 / 512 {
                    return Err(Broken);
                }
                if clusters > 0 {
                    return Ok(Some(Run { clusters, start: None }));
                }
                continue;
            }
            self.last = self.last.checked_add(number(place).ok_or(Broken)?).ok_or(Broken)?;
            let start = u64::try_from(self.last).map_err(|_| Broken)?;
            let inside = start.checked_add(clusters).is_some_and(|end| end <= self.volume_clusters);
            if clusters == 0 || !inside {
                return Err(Broken);
            }
            return Ok(Some(Run { clusters, start: Some(start) }));
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.decode().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A little-endian number with a sign, of at most eight bytes.
fn number(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.last()? & 0x80 != 0;
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pairs: &[u8]) -> Result<Vec<Run>, Broken> {
        Runs::new(pairs, 1 << 32).collect()
    }

    /// As short as the numbers allow.
    fn encode(runs: &[Run]) -> Vec<u8> {
        let short = |number: i64| {
            let bytes = number.to_le_bytes();
            let length = (1..=8).find(|length| super::number(&bytes[..*length]) == Some(number)).unwrap_or(8);
            bytes[..length].to_vec()
        };
        let (mut pairs, mut last) = (Vec::new(), 0);
        for run in runs {
            let length = short(run.clusters as i64);
            let place = run.start.map_or(Vec::new(), |start| short(start as i64 - last));
            last = run.start.map_or(last, |start| start as i64);
            pairs.push((place.len() << 4 | length.len()) as u8);
            pairs.extend(length.into_iter().chain(place));
        }
        pairs.push(0);
        pairs
    }

    #[test]
    fn known_pairs() {
        // The example of the Linux-NTFS documentation: 0x30 clusters at 0x20, 0x60 at 0x1500, a hole of 0x10 …
        let pairs = [0x11, 0x30, 0x20, 0x21, 0x60, 0xe0, 0x14, 0x01, 0x10, 0x11, 0x30, 0xe0, 0, 0xaa];
        let runs = [(0x30, Some(0x20)), (0x60, Some(0x1500)), (0x10, None), (0x30, Some(0x14e0))];
        let runs = runs.map(|(clusters, start)| Run { clusters, start });
        assert_eq!(decode(&pairs), Ok(runs.to_vec()));
        assert_eq!(decode(&[0]), Ok(Vec::new()));
        assert_eq!(decode(&[0x01, 0, 0]), Ok(Vec::new()));
    }

    #[test]
    fn broken_pairs() {
        let broken: [&[u8]; 9] = [
            &[],                                         // no terminator
            &[0x11, 0x30],                               // cut short
            &[0x11, 0x30, 0x20],                         // no terminator behind a run
            &[0x11, 0x00, 0x20, 0],                      // an empty run
            &[0x11, 0x80, 0x20, 0],                      // a negative length
            &[0x10, 0x20, 0],                            // no length
            &[0x11, 0x30, 0xe0, 0],                      // before the first cluster
            &[0x51, 0x30, 0, 0, 0, 0, 1, 0],             // behind the last cluster
            &[0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0], // a number of nine bytes
        ];
        for pairs in broken {
            assert_eq!(decode(pairs), Err(Broken), "{pairs:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(list in prop::collection::vec((1..1_u64 << 30, prop::option::of(0..3_u64 << 30)), 0..30)) {
            let runs: Vec<Run> = list.iter().map(|(clusters, start)| Run { clusters: *clusters, start: *start }).collect();
            prop_assert_eq!(decode(&encode(&runs)), Ok(runs));
        }

        #[test]
        fn no_bytes_break_the_decoder(pairs in prop::collection::vec(any::<u8>(), 0..64), clusters in 0..u64::from(u32::MAX)) {
            for run in Runs::new(&pairs, clusters).flatten() {
                prop_assert!(run.start.is_none_or(|start| start + run.clusters <= clusters));
            }
        }
    }
}
