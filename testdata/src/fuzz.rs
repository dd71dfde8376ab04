//! Runs functions on damaged inputs until time is up. Without coverage, so it finds less than libFuzzer in the same time; but it
//! needs no C++ compiler, and every find is a file that can be run again. For libFuzzer, [`Target::write_seeds`] says where to start.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest input; longer ones find the same, later.
const MAX_BYTES: usize = 8192;
/// More time than this for one input is a find: somebody else's file must not keep a server busy.
const MAX_TIME: Duration = Duration::from_secs(1);
/// As much stack as the threads have that read foreign bytes in a server.
const STACK_BYTES: usize = 2 << 20;
/// Names the folder for [`Target::write_seeds`].
pub const SEEDS_VARIABLE: &str = "RBUILD_FUZZ_SEEDS";

/// Something that must not panic.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What must hold for every input; a panic says that it does not.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What means something in an input.
    pub words: &'static [&'static str],
}

impl Target {
    /// Writes the seeds into the folder that [`SEEDS_VARIABLE`] names, and beside it `words.dict`, as libFuzzer wants them. Without
    /// that variable there is nothing to do.
    ///
    /// # Panics
    /// If a file cannot be written.
    #[expect(
        clippy::disallowed_methods,
        reason = "libFuzzer has no other way to hand something on"
    )]
    pub fn write_seeds(&self) {
        let Some(folder) = std::env::var_os(SEEDS_VARIABLE).map(PathBuf::from) else {
            return;
        };
        std::fs::create_dir_all(&folder).expect("the folder of seeds can be made");
        for (at, seed) in (self.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{at:04}")), seed).expect("a seed can be written");
        }
        let words: String = self.words.iter().map(|word| dictionary_line(word)).collect();
        std::fs::write(folder.with_file_name("words.dict"), words).expect("the dictionary can be written");
    }
}

fn dictionary_line(word: &str) -> String {
    let escaped: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{escaped}\"\n")
}

/// Does what the arguments say: `NAME --minutes N --seed N`, or `NAME FILE` to run one input again.
#[must_use]
pub fn main(targets: &[Target], arguments: &[String]) -> ExitCode {
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    let found = arguments
        .first()
        .and_then(|name| targets.iter().find(|target| target.name == name));
    let Some(target) = found else {
        say(&format!("which one? {}", names.join(", ")));
        return ExitCode::from(2);
    };
    if let Some(file) = arguments.get(1).filter(|argument| !argument.starts_with("--")) {
        (target.run)(&std::fs::read(file).expect("the file can be read"));
        return ExitCode::SUCCESS;
    }
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        value.map_or(default, |value| value.parse().expect("a number"))
    };
    let (minutes, seed) = (number("--minutes", 1), number("--seed", 1));
    let target = *target;
    let search = move || search(&target, Duration::from_secs(60 * minutes), seed);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(search);
    let thread = thread.expect("a thread can be started");
    thread.join().expect("panics of the target are caught in it")
}

/// Tries inputs for a while, `runs` of them at least; returns how many.
///
/// # Panics
/// If one of them is taken wrong, or takes longer than a minute: tests share their processors with others.
#[must_use]
pub fn try_some(target: &Target, seed: u64, runs: u64, duration: Duration) -> u64 {
    let mut mutator = Mutator {
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        seeds: (target.seeds)(),
        words: target.words,
    };
    for seed in mutator.seeds.clone() {
        (target.run)(&seed);
    }
    let started = Instant::now();
    let mut done = 0;
    while done < runs || started.elapsed() < duration {
        let input = mutator.next();
        let began = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            say(&format!(
                "{}: input {:?}",
                target.name,
                input.escape_ascii().to_string()
            ));
            std::panic::resume_unwind(panic);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{}: too long", target.name);
        done += 1;
    }
    done
}

/// Tries inputs until one panics or takes too long, or `duration` is over. The input at hand is always in a file, for what ends
/// the process or never ends.
fn search(target: &Target, duration: Duration, seed: u64) -> ExitCode {
    let mut mutator = Mutator {
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        seeds: (target.seeds)(),
        words: target.words,
    };
    let started = Instant::now();
    let mut runs = 0_u64;
    let file = PathBuf::from(format!("fuzz-{}-{seed}", target.name));
    while started.elapsed() < duration {
        let input = mutator.next();
        std::fs::write(&file, &input).expect("the input can be kept");
        if let Some(problem) = problem(target, &input) {
            let file = file.display();
            say(&format!(
                "{}: {problem} after {runs} runs; the input is {file}",
                target.name
            ));
            return ExitCode::FAILURE;
        }
        runs += 1;
    }
    std::fs::remove_file(&file).expect("what was written can be removed");
    say(&format!(
        "{}: nothing in {runs} runs, {} s",
        target.name,
        duration.as_secs()
    ));
    ExitCode::SUCCESS
}

/// What is wrong with how the target takes `input`.
fn problem(target: &Target, input: &[u8]) -> Option<&'static str> {
    let started = Instant::now();
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        return Some("panics");
    }
    (started.elapsed() > MAX_TIME).then_some("takes more than a second")
}

#[expect(clippy::print_stdout, reason = "a program for developers reports to their terminal")]
fn say(line: &str) {
    println!("{line}");
}

/// xorshift64*: good enough to choose, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("it is below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

struct Mutator {
    random: Random,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

impl Mutator {
    fn next(&mut self) -> Vec<u8> {
        let mut input = self.piece();
        for _ in 0..self.random.below(8) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    /// A seed, or a part of one.
    fn piece(&mut self) -> Vec<u8> {
        if self.seeds.is_empty() {
            return Vec::new();
        }
        let at = self.random.below(self.seeds.len());
        let length = self.seeds[at].len();
        if length < 2 || self.random.below(3) > 0 {
            return self.seeds[at].clone();
        }
        let start = self.random.below(length);
        let end = start + self.random.below(length - start);
        self.seeds[at][start..end].to_vec()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let end = at + self.random.below(input.len() + 1 - at).min(64);
        match self.random.below(8) {
            0 => drop(input.drain(at..end)),
            1 => insert(input, at, &[self.random.byte()]),
            2 if at < input.len() => input[at] = self.random.byte(),
            3 if at < input.len() => input[at] ^= 1 << self.random.below(8),
            4 => {
                let copy = input[at..end].to_vec();
                let times = self.random.below(16);
                insert(input, at, &copy.repeat(times));
            }
            5 => {
                let other = self.piece();
                insert(input, at, &other);
            }
            _ if !self.words.is_empty() => {
                let word = self.words[self.random.below(self.words.len())];
                insert(input, at, word.as_bytes());
            }
            _ => {}
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_soon() {
        let target = Target {
            name: "test",
            run: |input| assert!(!input.windows(3).any(|part| part == b"bad")),
            seeds: || vec![b"good".to_vec()],
            words: &["ba", "d"],
        };
        let mut mutator = Mutator {
            random: Random(1),
            seeds: (target.seeds)(),
            words: target.words,
        };
        let found = (0..100_000).find(|_| {
            let input = mutator.next();
            input.windows(3).any(|part| part == b"bad")
        });
        assert!(found.is_some());
    }

    #[test]
    fn panics_and_long_runs_are_problems() {
        let target = |run| Target {
            name: "test",
            run,
            seeds: Vec::new,
            words: &[],
        };
        assert_eq!(problem(&target(|_| {}), b"x"), None);
        assert_eq!(problem(&target(|_| panic!("on purpose")), b"x"), Some("panics"));
        let busy = |_: &[u8]| {
            let started = Instant::now();
            while started.elapsed() <= MAX_TIME {}
        };
        assert_eq!(problem(&target(busy), b"x"), Some("takes more than a second"));
    }

    #[test]
    fn words_of_a_dictionary_are_bytes() {
        assert_eq!(dictionary_line("\"é"), "\"\\x22\\xc3\\xa9\"\n");
    }

    #[test]
    fn the_same_seed_tries_the_same_inputs() {
        let inputs = || {
            let mut mutator = Mutator {
                random: Random(7),
                seeds: vec![b"FROM a".to_vec()],
                words: &["RUN"],
            };
            (0..50).map(|_| mutator.next()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(), inputs());
    }
}
