//! Reading a safetensors file returns an error, or a tensor of the requested shape.
#![no_main]
use libfuzzer_sys::fuzz_target;
use train::weights::TensorFile;

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("millrace-fuzz-{}.safetensors", std::process::id()));
    std::fs::write(&path, data).unwrap();
    if let Ok(file) = TensorFile::open(&path) {
        for shape in [&[2, 3][..], &[6], &[]] {
            if let Ok(tensor) = file.read("a", shape) {
                assert_eq!(tensor.data.len(), shape.iter().product::<usize>());
            }
        }
    }
});
