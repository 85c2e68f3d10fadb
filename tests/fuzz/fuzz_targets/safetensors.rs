//! A safetensors file is refused, or gives a tensor of the shape that was asked for.
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
