//! The rate at which this machine reads memory: the limit of decoding, which reads all weights for each token.
use crate::cpu::l3_bytes;
use crate::wide;
use contract::Buffer;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Least number of bytes that are read, of all threads together; at least four times the L3 cache.
const LEAST: usize = 256 << 20;
/// Number of timed reads.
const REPEATS: usize = 8;

/// Bytes per second that `threads` threads read from memory together: the best of some reads of a buffer that no cache
/// holds, to which each thread contributes a part of its own. Takes about a second.
pub fn read_bandwidth(threads: usize) -> f64 {
    let threads = threads.max(1);
    let each = (LEAST.max(4 * l3_bytes()) / threads).next_multiple_of(64);
    let barrier = Barrier::new(threads);
    let read = || {
        // From the pool, as weights are, so in huge pages if those are. Each page is written, or all would be one of zeros.
        let mut buffer = Buffer::scratch(each / size_of::<f32>());
        buffer.fill(1.0);
        let numbers: &[u64] = bytemuck::cast_slice(&buffer);
        let mut seconds = [0.0; REPEATS];
        for seconds in &mut seconds {
            barrier.wait();
            let began = Instant::now();
            black_box(sum(black_box(numbers)));
            barrier.wait();
            *seconds = began.elapsed().as_secs_f64();
        }
        seconds.into_iter().fold(f64::INFINITY, f64::min)
    };
    let slowest = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or(f64::INFINITY)).fold(0.0, f64::max)
    });
    (threads * each) as f64 / slowest
}

wide! {
    fn sum(numbers: &[u64]) -> u64 {
        /// Enough independent sums that none waits for another.
        const LANES: usize = 64;
        let mut lanes = [0u64; LANES];
        for chunk in numbers.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                lanes[i] = lanes[i].wrapping_add(chunk[i]);
            }
        }
        lanes.into_iter().fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_some_rate() {
        let rate = read_bandwidth(1);
        assert!(rate > 1e8 && rate < 1e13, "{rate} bytes per second");
    }
}
