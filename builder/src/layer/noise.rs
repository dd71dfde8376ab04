//! Which parts of a layer are not worth compressing: noise, and what is compressed already.
//!
//! The answer is part of the recipe of a compressed form, so it depends on the bytes alone and is computed in whole numbers.
//! It errs on the side of compressing: a part counts as noise only if its bytes are spread as evenly as those of noise, and if no
//! stretch of it comes twice.

/// What is decided on at once. Small beside the files that do not compress, large beside what a gzip member costs.
const SEGMENT_BYTES: usize = 32 << 10;

/// Bytes that are counted, in [`SAMPLES`] places of a segment.
const SAMPLED_BYTES: usize = 8 << 10;
const SAMPLES: usize = 8;

/// The byte that marks the places whose neighbourhood is compared.
const ANCHOR: u8 = 0xa5;
/// Bytes of a neighbourhood. In noise, one comes twice within a segment once in 10^12 segments.
const NEIGHBOURS: usize = 8;

/// A stretch of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// How many bytes it has.
    pub(super) length: usize,
    /// Whether compressing it would gain nothing.
    pub(super) is_noise: bool,
}

/// Cuts `block` into stretches of noise and of other bytes, as long as they get.
pub(super) fn runs(block: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for segment in block.chunks(SEGMENT_BYTES) {
        let is_noise = is_noise(segment);
        match runs.last_mut() {
            Some(run) if run.is_noise == is_noise => run.length += segment.len(),
            _ => runs.push(Run {
                length: segment.len(),
                is_noise,
            }),
        }
    }
    runs
}

/// Whether `segment` looks like noise. What is shorter than a segment never does.
fn is_noise(segment: &[u8]) -> bool {
    segment.len() == SEGMENT_BYTES && is_even(segment) && !repeats(segment)
}

/// Whether no byte value is much more frequent than another.
fn is_even(segment: &[u8]) -> bool {
    let mut counts = [[0_u32; 256]; 2];
    for part in segment.chunks_exact(SEGMENT_BYTES / SAMPLES) {
        // Two tables, so that equal neighbours do not wait for each other.
        for pair in part[..SAMPLED_BYTES / SAMPLES].chunks_exact(2) {
            counts[0][usize::from(pair[0])] += 1;
            counts[1][usize::from(pair[1])] += 1;
        }
    }
    let [one, two] = counts;
    let squares: u64 = one.iter().zip(two).map(|(one, two)| u64::from(one + two).pow(2)).sum();
    // Of n bytes of noise, the sum is n²/256 + n, give or take 0.3 %: 3.1 % over n²/256. Twice that is a deficit of entropy of
    // 0.3 %, which is the most that Huffman codes would have gained.
    let even = (SAMPLED_BYTES * SAMPLED_BYTES / 256) as u64;
    squares < even + even / 16
}

/// Whether stretches of the segment come twice: looked for at each [`ANCHOR`], so any of some hundred bytes are found.
fn repeats(segment: &[u8]) -> bool {
    let last = segment.len() - NEIGHBOURS;
    let mut seen: Vec<u64> = Vec::with_capacity(256);
    for (at, byte) in segment[..last].iter().enumerate() {
        if *byte == ANCHOR {
            let mut neighbours = [0; NEIGHBOURS];
            neighbours.copy_from_slice(&segment[at + 1..=at + NEIGHBOURS]);
            seen.push(u64::from_le_bytes(neighbours));
        }
    }
    seen.sort_unstable();
    seen.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without a pattern, always the same ones.
    fn noise(length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn verdicts(block: &[u8]) -> Vec<(usize, bool)> {
        runs(block).into_iter().map(|run| (run.length, run.is_noise)).collect()
    }

    #[test]
    fn noise_and_text_are_told_apart_by_segments() {
        let text: Vec<u8> = b"all work and no play "
            .iter()
            .copied()
            .cycle()
            .take(SEGMENT_BYTES)
            .collect();
        let noise = noise(2 * SEGMENT_BYTES);
        assert_eq!(verdicts(&noise), [(2 * SEGMENT_BYTES, true)]);
        assert_eq!(
            verdicts(&[&text, &noise[..], &text[..9]].concat()),
            [(SEGMENT_BYTES, false), (2 * SEGMENT_BYTES, true), (9, false)]
        );
    }

    #[test]
    fn what_is_deflated_already_is_noise() {
        let letters: Vec<u8> = noise(200_000).into_iter().map(|byte| b' ' + byte % 64).collect();
        let mut packed = Vec::new();
        let mut encoder = flate2::write::DeflateEncoder::new(&mut packed, flate2::Compression::new(6));
        std::io::Write::write_all(&mut encoder, &letters).unwrap();
        encoder.finish().unwrap();
        assert!(packed.len() > 2 * SEGMENT_BYTES);
        assert!(is_noise(&packed[SEGMENT_BYTES..2 * SEGMENT_BYTES]));
    }

    #[test]
    fn noise_that_comes_twice_is_worth_compressing() {
        let part = noise(SEGMENT_BYTES - 4096);
        let repeating = [&part[..], &part[..4096]].concat();
        assert!(is_even(&repeating));
        assert!(!is_noise(&repeating));
    }

    #[test]
    fn bytes_of_fewer_values_are_worth_compressing() {
        let seven_bits: Vec<u8> = noise(SEGMENT_BYTES).into_iter().map(|byte| byte & 0x7f).collect();
        assert!(!is_noise(&seven_bits));
    }
}
