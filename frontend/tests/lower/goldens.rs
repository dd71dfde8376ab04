//! Whole Dockerfiles of `testdata/dockerfiles` against what is made of them: vertices, image, warnings.
//!
//! `plan` has one rule of the language a file, `real` has files as projects write them. A comment `# build: --target=x …` says
//! how a file is built.

use std::fmt::Write as _;

use expect_test::expect_file;
use frontend::source::SourceFile;
use testdata::dockerfiles::{Case, cases, folder};

use crate::support::{Setup, diagnostics, image, setup, vertices};

fn check(kind: &str) {
    let mut golden = String::new();
    for case in cases(&format!("dockerfiles/{kind}")) {
        writeln!(golden, "== {}", case.name).unwrap();
        golden.push_str(&render(&case));
    }
    expect_file![folder(&format!("dockerfiles/{kind}.golden"))].assert_eq(&golden);
}

#[test]
fn rules_of_the_language_show_in_plans() {
    check("plan");
}

#[test]
fn files_as_projects_write_them_become_plans() {
    check("real");
}

fn render(case: &Case) -> String {
    let plan = case.options.iter().fold(setup(), apply).plan(&case.text);
    let source = SourceFile::new("Dockerfile", case.text.as_str());
    vertices(&plan) + &image(&plan) + &diagnostics(&source, &plan.diagnostics)
}

fn apply(mut setup: Setup, (name, value): &(String, String)) -> Setup {
    match name.as_str() {
        "target" => setup.target(value),
        "build-arg" => {
            let (name, value) = value.split_once('=').unwrap();
            setup.arg(name, value)
        }
        "platform" => {
            setup.options.platform = value.parse().unwrap();
            setup
        }
        "multi-platform" => {
            setup.options.multi_platform = true;
            setup
        }
        "allow-network-host" => {
            setup.options.entitlements = proto::entitlement::Entitlements::all();
            setup
        }
        other => panic!("`{other}` is no option of these files"),
    }
}
