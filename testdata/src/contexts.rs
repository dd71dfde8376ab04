//! Build contexts of any size for benchmarks: the same seed gives the same bytes on every machine.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Files of one directory.
const FILES_A_DIRECTORY: usize = 100;

/// Bytes of one file of [`mixed`].
const MIXED_FILE_BYTES: u64 = 8 << 20;

/// Bytes that are written at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Of nine blocks, so many are noise; the rest is text. Together they compress to about 60 %, as images do.
const NOISE_BLOCKS: usize = 5;

/// What text is made of.
const WORDS: [&str; 16] = [
    "build", "layer", "return", "if", "self", "error", "path", "the", "of", "match", "let", "result", "\n    ", "{",
    "}\n", "digest",
];

/// Writes `count` files of text with about `total_bytes` in all into `directory`, a hundred in each `dN`, named `fN.txt`.
///
/// # Panics
/// If they cannot be written.
pub fn files(directory: &Path, count: usize, total_bytes: u64, seed: u64) {
    let mut random = Random::new(seed);
    let average = total_bytes / u64::try_from(count.max(1)).unwrap();
    let mut text = Vec::new();
    for number in 0..count {
        let parent = directory.join(format!("d{}", number / FILES_A_DIRECTORY));
        if number % FILES_A_DIRECTORY == 0 {
            fs::create_dir_all(&parent).unwrap();
        }
        // From nothing to twice the average.
        let size = usize::try_from(random.next() % (2 * average + 1)).unwrap();
        text.clear();
        fill_text(&mut text, size, &mut random);
        fs::write(parent.join(format!("f{number}.txt")), &text).unwrap();
    }
}

/// Writes `total_bytes` in files of 8 MiB, `mN.bin`, into `directory`: half noise, half text, in turn.
///
/// # Panics
/// If they cannot be written.
pub fn mixed(directory: &Path, total_bytes: u64, seed: u64) {
    fs::create_dir_all(directory).unwrap();
    let mut random = Random::new(seed);
    let mut left = total_bytes;
    let mut number = 0;
    while left > 0 {
        let mut file = File::create(directory.join(format!("m{number}.bin"))).unwrap();
        let mut of_file = left.min(MIXED_FILE_BYTES);
        left -= of_file;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let mut turn = 0;
        while of_file > 0 {
            let size = BLOCK_BYTES.min(usize::try_from(of_file).unwrap());
            block.clear();
            if turn % 9 < NOISE_BLOCKS {
                fill_noise(&mut block, size, &mut random);
            } else {
                fill_text(&mut block, size, &mut random);
            }
            file.write_all(&block).unwrap();
            of_file -= u64::try_from(size).unwrap();
            turn += 1;
        }
        number += 1;
    }
}

fn fill_text(text: &mut Vec<u8>, size: usize, random: &mut Random) {
    while text.len() < size {
        let mut bits = random.next();
        for _ in 0..16 {
            let word = WORDS[usize::try_from(bits % 16).unwrap()];
            text.extend_from_slice(word.as_bytes());
            text.push(b' ');
            bits >>= 4;
        }
    }
    text.truncate(size);
}

fn fill_noise(noise: &mut Vec<u8>, size: usize, random: &mut Random) {
    while noise.len() < size {
        noise.extend_from_slice(&random.next().to_le_bytes());
    }
    noise.truncate(size);
}

/// Numbers that only have to look random: xorshift with a multiplication behind it.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(directory: &Path) -> Vec<u64> {
        let mut sizes = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                sizes.extend(self::sizes(&entry.path()));
            } else {
                sizes.push(entry.metadata().unwrap().len());
            }
        }
        sizes
    }

    #[test]
    fn files_have_the_number_and_about_the_size_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        files(folder.path(), 1000, 1_000_000, 1);
        let sizes = sizes(folder.path());
        assert_eq!(sizes.len(), 1000);
        let total: u64 = sizes.iter().sum();
        assert!((900_000..1_100_000).contains(&total), "{total}");
        assert!(folder.path().join("d9/f999.txt").exists());
    }

    #[test]
    fn mixed_bytes_are_as_many_as_asked_for_and_compress_to_about_60_percent() {
        let folder = tempfile::tempdir().unwrap();
        let total_bytes = (9 << 20) + 1;
        mixed(folder.path(), total_bytes, 7);
        assert_eq!(sizes(folder.path()).iter().sum::<u64>(), total_bytes);
        let first = fs::read(folder.path().join("m0.bin")).unwrap();
        let compressed = zstd::bulk::compress(&first, 3).unwrap();
        let percent = compressed.len() * 100 / first.len();
        assert!((55..75).contains(&percent), "{percent}");
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_do_not() {
        let bytes = |seed: u64| {
            let folder = tempfile::tempdir().unwrap();
            mixed(folder.path(), 200_000, seed);
            fs::read(folder.path().join("m0.bin")).unwrap()
        };
        assert_eq!(bytes(3), bytes(3));
        assert_ne!(bytes(3), bytes(4));
    }
}
