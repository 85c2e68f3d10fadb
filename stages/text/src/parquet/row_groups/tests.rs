//! Row groups are decoded in pieces: bounds, damage, sizes.
use super::*;
use crate::input::ingest::DocumentFile;
use crate::parquet::documents::{is_text, records};
use crate::parquet::pieces::TextColumn;
use crate::testing::document_file;
use arrow::array::{AsArray, LargeStringArray, UInt8Array};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

fn texts(file: &DocumentFile, piece_bytes: usize) -> RowGroups {
    let open = OpenFile::new(&file.path, "text", "string", is_text).unwrap();
    RowGroups::new(vec![open], 0, Box::new(TextColumn)).with_piece_bytes(piece_bytes)
}

#[test]
fn pieces_are_bounded_and_hold_every_row_once() {
    let folder = tempfile::tempdir().unwrap();
    // Offsets count as 8 bytes for each row; the groups are read in both directions, so pieces are decoded again.
    let sizes = |of: usize| (0..200).map(move |row: usize| "x".repeat(if row % 41 == of { 900 } else { row % 7 }));
    let groups = [sizes(1).collect(), sizes(40).collect::<Vec<_>>()];
    let file = document_file(&folder.path().join("a.parquet"), &groups);
    for limit in [64, 1000, 1 << 20] {
        let read = texts(&file, limit);
        let mut largest = 0;
        for row in (0..400).chain((0..400).rev()) {
            let Piece { array, rows } = read.find(row).unwrap();
            let found = array.as_binary::<i64>();
            let bytes = found.value_data().len() + 8 * found.len();
            assert!(bytes <= limit || rows.end - rows.start == 1, "{bytes} bytes for row {row}, limit {limit}");
            assert_eq!(found.len() as u64, rows.end - rows.start);
            let expected = &groups[row as usize / 200][row as usize % 200];
            assert_eq!(found.value((row - rows.start) as usize), expected.as_bytes());
            largest = largest.max(bytes);
        }
        assert!(largest > limit.min(2000) / 2, "{largest} bytes of {limit}");
    }
}

#[test]
fn damage_anywhere_loses_the_whole_row_group() {
    let folder = tempfile::tempdir().unwrap();
    let group = |of: &str| (0..3000).map(|row: u64| format!("{of} {}", row * row * 0x9e37_79b9)).collect();
    let file = document_file(&folder.path().join("a.parquet"), &[group("a"), group("b")]);
    let end = {
        let open = OpenFile::new(&file.path, "text", "string", is_text).unwrap();
        let (start, length) = open.metadata.metadata().row_group(0).column(0).byte_range();
        (start + length) as usize
    };
    let mut content = std::fs::read(&file.path).unwrap();
    content[end - 30_000..end].fill(0xff);
    std::fs::write(&file.path, content).unwrap();
    let read = texts(&file, 1000);
    for row in [0, 2999, 0] {
        let error = read.find(row).err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(TextProblem::Corrupt { row_group: Some(0), .. })), "{error:#}");
    }
    assert!(read.find(3000).is_ok());
}

/// 2.5 GiB: one text of 1 MiB, 2,560 times, in a file of a few kilobytes.
#[test]
fn a_row_group_of_more_than_2_gib_is_read_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let text = "0123456789abcdef".repeat(1 << 16);
    let batch = records(LargeStringArray::from_iter_values(std::iter::repeat_n(&text, 64))).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_page_size_limit(4 << 20)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_bytes(None)
        .build();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    (0..40).for_each(|_| writer.write(&batch).unwrap());
    assert_eq!(writer.close().unwrap().num_row_groups(), 1);
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    let read = texts(&DocumentFile::new(&path, "text"), PIECE_BYTES);
    for row in [0, 2559] {
        let Piece { array, rows } = read.find(row).unwrap();
        let texts = array.as_binary::<i64>();
        assert!(texts.value_data().len() <= PIECE_BYTES && rows.contains(&row));
        assert_eq!(texts.value((row - rows.start) as usize), text.as_bytes());
    }
}

#[test]
fn the_least_recently_used_goes_first() {
    let array = || Arc::new(UInt8Array::from(vec![0u8; 1 << 12])) as ArrayRef;
    let mut cache = PieceCache::new(2 * array().get_array_memory_size());
    for group in 0..2usize {
        cache.put((group, 0), array());
    }
    assert!(cache.get((0, 0)).is_some());
    cache.put((2, 0), array());
    assert!(cache.get((0, 0)).is_some() && cache.get((1, 0)).is_none() && cache.get((2, 0)).is_some());
}
