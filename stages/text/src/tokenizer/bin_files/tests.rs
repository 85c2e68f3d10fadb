//! Files that are written are read back, and have the bytes that nanoGPT and llm.c expect.
use super::*;
use crate::parquet::tokens::TokenStore;
use crate::{Cache, write_tokens};
use proptest::prelude::*;
use std::path::Path;

fn vocabulary(size: u32) -> Vocabulary {
    Vocabulary { hash: "x".into(), size, end_of_text: 7 }
}

fn export(folder: &Path, size: u32, documents: &[Vec<u32>], format: BinFormat, file_tokens: u64) -> Vec<BinFile> {
    let (path, cache) = (folder.join("tokens.parquet"), folder.join("cache"));
    write_tokens(&path, &vocabulary(size), documents).unwrap();
    let store = TokenStore::open(&[path], None, &Cache::new(cache.to_str())).unwrap();
    let rows: Vec<u64> = (0..store.rows()).collect();
    write(&store, &rows, format, folder, "train", file_tokens).unwrap()
}

fn import(files: &[BinFile], size: u32) -> Result<Vec<Vec<u32>>> {
    BinDocuments::open(files.iter().map(|file| file.path.clone()).collect(), vocabulary(size)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_exported_is_imported(
        documents in prop::collection::vec(prop::collection::vec(0u32..70_000, 0..20), 0..12),
        wide in any::<bool>(),
        file_tokens in 1u64..40,
    ) {
        let size = if wide { 70_001 } else { 65_536 };
        // No document holds the token that ends one.
        let documents: Vec<Vec<u32>> = documents.iter().map(|ids| ids.iter().map(|id| id % size).filter(|id| *id != 7).collect()).collect();
        let folder = tempfile::tempdir().unwrap();
        for format in [BinFormat::NanoGpt, BinFormat::LlmC].into_iter().filter(|format| !wide || *format == BinFormat::LlmC) {
            let files = export(folder.path(), size, &documents, format, file_tokens);
            let tokens: usize = documents.iter().map(|ids| ids.len() + 1).sum();
            prop_assert_eq!(files.iter().map(|file| file.tokens).sum::<u64>(), tokens as u64);
            if format == BinFormat::LlmC {
                prop_assert!(files[..files.len() - 1].iter().all(|file| file.tokens == file_tokens));
            }
            prop_assert_eq!(&import(&files, size).unwrap(), &documents, "{:?}", format);
        }
    }
}

#[test]
fn what_is_no_list_of_16_bit_ids_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.bin");
    let said = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let read: Result<Vec<Vec<u32>>> = BinDocuments::open(vec![path.clone()], vocabulary(65_536)).collect();
        read.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let ids: Vec<u16> = (0..64).map(|id| 300 * id).collect();
    let wide = |width: usize| -> Vec<u8> {
        ids.iter().flat_map(|id| [&id.to_le_bytes()[..], &vec![0; width - 2]].concat()).collect()
    };
    assert_eq!(said(&wide(2)), "");
    assert_eq!(said(&[0; 256]), "", "zeros may be ids");
    assert!(said(&wide(4)).contains("made of ids of 32 bits"));
    assert!(said(&wide(8)).contains("made of ids of 64 bits"));
    assert!(said(b"\x93NUMPY\x01\x00v\x00{'descr': '<u2'}").contains("a NumPy array with a header"));
    assert!(said(b"PAR1....").contains("Parquet"));
}

#[test]
fn files_are_those_that_numpy_reads() {
    let folder = tempfile::tempdir().unwrap();
    let documents = [vec![1, 2], vec![], vec![259]];
    let bytes = |files: &[BinFile]| std::fs::read(&files[0].path).unwrap();
    let files = export(folder.path(), 300, &documents, BinFormat::NanoGpt, FILE_TOKENS);
    assert_eq!(files[0].path, folder.path().join("train.bin"));
    assert_eq!(bytes(&files), [1, 0, 2, 0, 7, 0, 7, 0, 3, 1, 7, 0]);
    let files = export(folder.path(), 300, &documents, BinFormat::LlmC, FILE_TOKENS);
    assert_eq!(files[0].path, folder.path().join("train_000000.bin"));
    let found = bytes(&files);
    assert_eq!(found[..12], [[0x88, 0xd8, 0x34, 0x01], [1, 0, 0, 0], [6, 0, 0, 0]].concat());
    assert!(found[12..1024].iter().all(|byte| *byte == 0));
    assert_eq!(found[1024..], [7, 0, 1, 0, 2, 0, 7, 0, 7, 0, 3, 1]);
    let found = bytes(&export(folder.path(), 70_000, &documents, BinFormat::LlmC, FILE_TOKENS));
    assert_eq!(found[..12], [[0xa1, 0xd9, 0x34, 0x01], [7, 0, 0, 0], [6, 0, 0, 0]].concat());
    assert_eq!(found[1024..1032], [7, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn what_is_no_such_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = |content: &[u8], size: u32| {
        let path = folder.path().join("x.bin");
        std::fs::write(&path, content).unwrap();
        format!("{:#}", import(&[BinFile { path, tokens: 0 }], size).unwrap_err())
    };
    assert!(said(&[1, 0, 2], 300).contains("x.bin: it has half an id at its end"));
    assert!(said(&[1, 0, 0, 2], 300).contains("id 512 at place 1 is not below the vocabulary size 300"));
    let whole = std::fs::read(&export(folder.path(), 300, &[vec![1, 2]], BinFormat::LlmC, 9)[0].path).unwrap();
    assert!(said(&whole[..99], 300).contains("ends within its header"));
    assert!(said(&whole[..whole.len() - 1], 300).contains("ends after 2 of the 3 ids"));
    assert!(said(&[&whole[..], &[1, 0]].concat(), 300).contains("announces 3 ids, and more follow"));
    let mut other = whole.clone();
    other[4] = 9;
    assert!(said(&other, 300).contains("magic number 20240520, but version 9"));
    let wide = export(folder.path(), 70_000, &[vec![1]], BinFormat::LlmC, 9);
    let store = TokenStore::open(&[folder.path().join("tokens.parquet")], None, &Cache::new(folder.path().to_str()));
    let refused = write(&store.unwrap(), &[0], BinFormat::NanoGpt, folder.path(), "train", 9).unwrap_err();
    assert!(refused.to_string().contains("ids of 16 bits, and the vocabulary has 70000"), "{refused}");
    let narrow = folder.path().join("n.bin");
    std::fs::write(&narrow, [1, 0]).unwrap();
    let both = [wide[0].clone(), BinFile { path: narrow, tokens: 1 }];
    assert!(format!("{:#}", import(&both, 70_000).unwrap_err()).contains("import them apart"));
}
