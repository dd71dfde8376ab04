//! What a hostile file may cost.

use crate::support::setup;

/// Files of some kilobytes that would be plans of gigabytes, or work of hours.
#[test]
fn variables_do_not_blow_up_a_file() {
    let refused = |text: &str| {
        let found = setup().errors(text);
        let start: String = text.chars().take(40).collect();
        assert!(found.contains("error["), "{start}");
        let others =
            ["error[expanded-too-large]", "error[invalid-substitution]"].map(|code| found.matches(code).count());
        assert_eq!(found.matches("error[").count(), others.iter().sum::<usize>(), "{start}");
        // Mistakes that differ are told at once; this one, once.
        assert!(others[0] <= 1 && others[1] < 100, "{start} {others:?}");
    };
    let long = format!("FROM b\nENV A={}\n", "x".repeat(50_000));
    refused(&format!("{long}{}", "ENV A=$A$A\n".repeat(30)));
    refused(&format!("{long}{}", "RUN x\n".repeat(2000)));
    refused(&format!("{long}{}", "LABEL a=$A\n".repeat(2000)));
    refused(&format!("{long}{}", "RUN : $A\n".repeat(2000)));
    refused(&format!("{long}{}", "RUN : ${A%%x*y*z}\n".repeat(2000)));
    refused(&format!("FROM b\n{}", "EXPOSE 1-65535\n".repeat(200)));
    refused(&format!("FROM b\nEXPOSE{}\n", " 1-65535".repeat(2000)));
    let deeper = format!("WORKDIR {}\n", "x".repeat(1000));
    refused(&format!("FROM b\n{}", deeper.repeat(1000)));
    refused(&format!(
        "ARG A={}\n{}FROM b\n",
        "x".repeat(50_000),
        "ARG B=$A$A$A$A$A\n".repeat(500)
    ));
    let stages: String = (1..2000)
        .map(|at| format!("FROM s{} AS s{at}\nLABEL a=b\n", at - 1))
        .collect();
    refused(&format!("FROM b AS s0\n{stages}"));
}
