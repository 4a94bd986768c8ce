//! Damage between writing and verifying, and the order of the pipeline: what only the inside can show.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::format::qcow2::writer::Place;

/// Text, noise and zeros by turns.
fn content(clusters: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = Vec::new();
    for index in 0..clusters {
        match index % 3 {
            0 => bytes.extend(format!("text of cluster {index} ").repeat(4000).bytes().take(65_536)),
            1 => bytes.extend((0..65_536).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as u8
            })),
            _ => bytes.extend([0; 65_536]),
        }
    }
    bytes
}

fn written(source: &[u8], compression: Compression) -> (File, Written) {
    let storage: Arc<dyn Storage> = Arc::new(source.to_vec());
    let image = format::open(storage, Some(Format::Raw)).unwrap();
    let options = CompressOptions { compression, threads: 2, ..Default::default() };
    let control = Control::default();
    let output = tempfile::tempfile().unwrap();
    let estimate = plan(&*image.disk, None, &control).unwrap();
    let written = write(&image, None, &estimate, &output, &options, &control).unwrap();
    (output, written)
}

fn verify_again(output: &File, written: &Written) -> Result<()> {
    let control = Control::default();
    let meter = Meter::new(&control, Phase::Verifying, 1, 0.0, 1.0);
    let expected = verify::Expected {
        content: written.proof,
        tables: &written.tables,
        file_bytes: written.file_bytes,
        virtual_size_bytes: written.virtual_size_bytes,
    };
    verify::verify(output, &expected, 2, &meter, &control)
}

fn flip(output: &File, place: u64, bit: u8) {
    let mut byte = [0];
    output.read_exact_at(&mut byte, place).unwrap();
    output.write_all_at(&[byte[0] ^ 1 << bit], place).unwrap();
}

fn read_all(output: &File) -> Vec<u8> {
    let storage = Arc::new(crate::storage::FileStorage::new(output.try_clone().unwrap()).unwrap());
    let image = format::open(storage, Some(Format::Qcow2)).unwrap();
    let mut bytes = vec![0; image.disk.virtual_size_bytes() as usize];
    image.disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn verification_sees_every_flipped_bit() {
    let source = content(40);
    for compression in [Compression::Zlib, Compression::Zstd] {
        let (output, written) = written(&source, compression);
        verify_again(&output, &written).unwrap();
        let tables = &written.tables.ranges;
        // Header, L1, L2, refcounts: any bit, used or not.
        for range in tables {
            for (turn, place) in range.clone().step_by(997).enumerate() {
                let bit = (turn % 8) as u8;
                flip(&output, place, bit);
                let error = verify_again(&output, &written).unwrap_err();
                assert_eq!(error.kind, ErrorKind::Verification, "byte {place}");
                flip(&output, place, bit);
            }
        }
        // Data: any bit that means something. What is left over by alignment or by the end of a stream means nothing:
        // then the guest's bytes are still the same.
        let (mut seen, mut inert) = (0, 0);
        for (turn, place) in (0..written.file_bytes).step_by(4091).enumerate() {
            if tables.iter().any(|range| range.contains(&place)) {
                continue;
            }
            let bit = (turn % 8) as u8;
            flip(&output, place, bit);
            match verify_again(&output, &written) {
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Verification, "byte {place}");
                    seen += 1;
                }
                Ok(()) => {
                    assert!(read_all(&output) == source, "byte {place}");
                    inert += 1;
                }
            }
            flip(&output, place, bit);
        }
        assert!(seen > 5 * inert, "{seen} seen, {inert} without meaning");
        verify_again(&output, &written).unwrap();
        output.set_len(written.file_bytes - 1).unwrap();
        assert_eq!(verify_again(&output, &written).unwrap_err().kind, ErrorKind::Verification);
    }
}

#[test]
fn an_interrupted_file_is_no_image() {
    let (output, written) = written(&content(8), Compression::Zlib);
    // The header is the last write: without it no reader takes the file for anything.
    output.write_all_at(&[0; 65_536], 0).unwrap();
    let storage = Arc::new(crate::storage::FileStorage::new(output.try_clone().unwrap()).unwrap());
    assert!(format::open(storage, Some(Format::Qcow2)).is_err());
    assert!(verify_again(&output, &written).is_err());
}

#[test]
fn an_empty_disk_makes_an_image() {
    let (output, written) = written(&[], Compression::Zlib);
    verify_again(&output, &written).unwrap();
    assert_eq!(written.virtual_size_bytes, 0);
}

#[test]
fn a_disk_too_large_is_refused() {
    let error = Writer::new(1 << 52, CompressionType::Zlib, u64::MAX).err().unwrap();
    assert_eq!(error.reason, reason::OUTPUT_DISK_TOO_LARGE);
    assert_eq!(
        Writer::new(u64::MAX, CompressionType::Zlib, u64::MAX).err().unwrap().kind,
        ErrorKind::Unsupported
    );
}

/// The stored reference count of each cluster of a file, and its L2 tables, from all that was written of it.
fn counts_and_entries(writes: &[crate::format::qcow2::writer::Write]) -> (Vec<u16>, Vec<u64>) {
    let words = |offset: u64| {
        let write = writes.iter().find(|write| write.offset == offset).unwrap();
        write.bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect::<Vec<_>>()
    };
    let header = words(0);
    let blocks = words(header[6]).into_iter().filter(|offset| *offset != 0);
    let counts = blocks.flat_map(|block| {
        words(block).into_iter().flat_map(|word| [48, 32, 16, 0].map(|shift| (word >> shift) as u16))
    });
    let tables = words(header[5]).into_iter().filter(|entry| *entry != 0);
    (counts.collect(), tables.flat_map(|entry| words(entry & !(1 << 63))).collect())
}

#[test]
fn shared_places_count_each_use_and_stop_in_time() {
    let mut writer = Writer::new(1 << 40, CompressionType::Zlib, u64::MAX).unwrap();
    let mut writes = Vec::new();
    let mut streams: Vec<Place> = (0..20)
        .map(|cluster| {
            let offset = writer.place_stream(cluster, 700, &mut writes).unwrap();
            Place::new(cluster, offset, Some(700))
        })
        .collect();
    let mut uses = 20;
    for cluster in 20..60_000 {
        let place = &mut streams[(cluster % 20) as usize];
        uses += u64::from(writer.share(cluster, place, &mut writes).unwrap());
    }
    // All twenty lie in one cluster of the file.
    assert_eq!(uses, 32_768);
    let finished = writer.finish().unwrap();
    writes.extend(finished.writes);
    writes.push(finished.header);
    let (counts, entries) = counts_and_entries(&writes);
    assert_eq!(counts.iter().filter(|count| **count == 32_768).count(), 1);
    assert_eq!(entries.iter().filter(|entry| **entry != 0).count() as u64, uses);
}

#[test]
fn shared_plain_clusters_lose_the_mark_of_a_single_user() {
    let mut writer = Writer::new(1 << 50, CompressionType::Zlib, u64::MAX).unwrap();
    let mut writes = Vec::new();
    let [mut first, alone] = [3, 9].map(|cluster| {
        let offset = writer.place_plain(cluster, &mut writes).unwrap();
        Place::new(cluster, offset, None)
    });
    assert!(writer.share(10, &mut first, &mut writes).unwrap());
    // A hundred tables on, the first one has been written: what has the mark in there keeps it.
    for table in 1..100 {
        writer.place_stream(table * 8192, 100, &mut writes).unwrap();
    }
    assert!(!writer.share(100 * 8192, &mut { alone }, &mut writes).unwrap());
    assert!(writer.share(100 * 8192, &mut first, &mut writes).unwrap());
    let finished = writer.finish().unwrap();
    writes.extend(finished.writes);
    writes.push(finished.header);
    let (counts, entries) = counts_and_entries(&writes);
    let marked = |entry: u64| entry >> 63 == 1;
    assert_eq!(entries[3], entries[10]);
    assert!(!marked(entries[3]) && marked(entries[9]));
    assert_eq!(counts[(entries[3] >> 16) as usize], 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The layout, without its data: places never overlap, and the counts are those of a reader.
    #[test]
    fn places_are_disjoint(pieces in prop::collection::vec((1..65_535_usize, any::<bool>(), 1..20_000_u64), 1..400)) {
        let mut writer = Writer::new(1 << 50, CompressionType::Zlib, u64::MAX).unwrap();
        let (mut writes, mut taken, mut cluster) = (Vec::new(), Vec::new(), 0);
        for (length, plain, step) in pieces {
            let (offset, length) = if plain {
                (writer.place_plain(cluster, &mut writes).unwrap(), 65_536)
            } else {
                (writer.place_stream(cluster, length, &mut writes).unwrap(), length as u64)
            };
            prop_assert!(!plain || offset % 65_536 == 0);
            taken.push(offset..offset + length);
            cluster += step;
        }
        let finished = writer.finish().unwrap();
        writes.extend(finished.writes);
        writes.push(finished.header);
        taken.extend(writes.iter().map(|write| write.offset..write.offset + write.bytes.len() as u64));
        taken.sort_by_key(|range| range.start);
        prop_assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start));
        prop_assert!(taken.last().unwrap().end == finished.file_bytes);
    }
}
