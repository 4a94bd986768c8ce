//! Arithmetic on sorted lists of disjoint byte ranges.

use std::ops::Range;

/// `result` = `from` without `taken`; both ascending and disjoint, and so is the result.
pub(crate) fn subtract(from: &[Range<u64>], taken: &[Range<u64>], result: &mut Vec<Range<u64>>) {
    result.clear();
    let mut taken = taken.iter().peekable();
    for range in from {
        let mut start = range.start;
        while taken.next_if(|other| other.end <= start).is_some() {}
        // A taken range may reach into the next range of `from`: only those that end in this one are passed.
        while let Some(other) = taken.peek().filter(|other| other.start < range.end) {
            if other.start > start {
                result.push(start..other.start);
            }
            start = start.max(other.end);
            if other.end > range.end {
                break;
            }
            taken.next();
        }
        if start < range.end {
            result.push(start..range.end);
        }
    }
}

/// `result` = what is in both; all ascending and disjoint.
pub(crate) fn intersect(left: &[Range<u64>], right: &[Range<u64>], result: &mut Vec<Range<u64>>) {
    result.clear();
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
        let both = one.start.max(other.start)..one.end.min(other.end);
        let left_ends_first = one.end <= other.end;
        if !both.is_empty() {
            result.push(both);
        }
        if left_ends_first {
            left.next();
        } else {
            right.next();
        }
    }
}

/// Bytes of `range` that lie in one of `list`.
pub(crate) fn overlap_bytes(list: &[Range<u64>], range: &Range<u64>) -> u64 {
    let first = list.partition_point(|other| other.end <= range.start);
    let overlap = |other: &Range<u64>| other.end.min(range.end) - other.start.max(range.start);
    list[first..].iter().take_while(|other| other.start < range.end).map(overlap).sum()
}

/// Adds what of `list` lies in `range`.
pub(crate) fn add_within(list: &[Range<u64>], range: &Range<u64>, found: &mut Vec<Range<u64>>) {
    if range.is_empty() {
        return;
    }
    let first = list.partition_point(|other| other.end <= range.start);
    let inside = list[first..].iter().take_while(|other| other.start < range.end);
    found.extend(inside.map(|other| other.start.max(range.start)..other.end.min(range.end)));
}

/// Bytes of all ranges together.
pub(crate) fn total_bytes(list: &[Range<u64>]) -> u64 {
    list.iter().map(|range| range.end - range.start).sum()
}

/// Adds a range behind the others, joined with the last one when they touch.
pub(crate) fn push_joined(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => list.push(range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(bits: &[bool]) -> Vec<Range<u64>> {
        let mut list = Vec::new();
        for (index, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
            push_joined(&mut list, index as u64..index as u64 + 1);
        }
        list
    }

    proptest! {
        #[test]
        fn subtract_and_overlap_agree_with_bits(pairs in prop::collection::vec(any::<(bool, bool)>(), 0..80), from in 0..80_u64, length in 0..80_u64) {
            let (a, b): (Vec<bool>, Vec<bool>) = pairs.iter().copied().unzip();
            let difference: Vec<bool> = pairs.iter().map(|(a, b)| *a && !*b).collect();
            let mut result = Vec::new();
            subtract(&list(&a), &list(&b), &mut result);
            prop_assert_eq!(&result, &list(&difference));
            let both: Vec<bool> = pairs.iter().map(|(a, b)| *a && *b).collect();
            intersect(&list(&a), &list(&b), &mut result);
            prop_assert_eq!(&result, &list(&both));
            let expected = (from..from + length).filter(|at| a.get(*at as usize) == Some(&true)).count() as u64;
            prop_assert_eq!(overlap_bytes(&list(&a), &(from..from + length)), expected);
            result.clear();
            add_within(&list(&a), &(from..from + length), &mut result);
            prop_assert_eq!(total_bytes(&result), expected);
            prop_assert!(result.iter().all(|range| from <= range.start && range.start < range.end && range.end <= from + length));
        }
    }
}
