//! What a step prints: order, completeness, and what the programs in it see of it.

use builder::executor::{Outcome, Process};

use crate::bench::Bench;

/// Turns in which the two streams are written to in one run.
const TURNS: usize = 50;
const RUNS: usize = 20;

pub(crate) fn output_comes_in_the_order_in_which_it_was_written() {
    let bench = Bench::new();
    let script = format!("i=1; while [ $i -le {TURNS} ]; do echo o$i; echo e$i >&2; i=$((i+1)); done");
    let expected: String = (1..=TURNS).map(|turn| format!("o{turn}\ne{turn}\n")).collect();
    for _ in 0..RUNS {
        bench.check(&script, &expected);
    }
}

pub(crate) fn output_can_be_opened_again_by_every_user() {
    let bench = Bench::new();
    let script = "echo a; echo b > /dev/stderr; echo c >> /dev/stdout; echo d > /proc/self/fd/2; (echo e >&2)";
    for user in ["", "joe", "1000:1001"] {
        let process = Process {
            user: user.to_owned(),
            ..bench.process(script)
        };
        bench.check_process(&process, "a\nb\nc\nd\ne\n");
    }
}

pub(crate) fn output_of_a_killed_step_is_not_lost() {
    let bench = Bench::new();
    let ran = bench.run(&bench.process("printf '\\033[31mpart'; printf ' of a line' >&2; kill -KILL $$"));
    assert_eq!(ran.printed, "\x1b[31mpart of a line");
    assert_eq!(ran.report.outcome, Outcome::Signal(9));
}

pub(crate) fn output_is_a_pipe() {
    let bench = Bench::new();
    let script = "test -t 1 || test -t 2 || echo no terminal; test -p /dev/stdout && test -p /dev/stderr && echo pipes";
    bench.check(script, "no terminal\npipes\n");
}
