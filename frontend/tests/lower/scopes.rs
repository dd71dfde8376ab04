//! Which value a variable has where: one line a case, each with what a `RUN` sees.

use crate::support::{Setup, setup};

/// Values that the last `RUN` sees, `-` for what is not set.
fn check(setup: &Setup, text: &str, expected: &[(&str, &str)]) {
    let text = format!("{}\nRUN x\n", text.replace('⏎', "\n"));
    let env = setup.last_env(&text);
    for (name, value) in expected {
        assert_eq!(env.get(*name).map_or("-", String::as_str), *value, "{name} in\n{text}");
    }
}

#[test]
fn arguments_and_environment_follow_the_order_of_the_file() {
    let plain = setup();
    check(&plain, "FROM b⏎ENV A=1⏎ARG A=2", &[("A", "2")]);
    check(&plain, "FROM b⏎ARG A=1⏎ENV A=2", &[("A", "2")]);
    check(&plain, "FROM b⏎ENV A=1⏎ARG A", &[("A", "1")]);
    check(&plain, "FROM b AS p⏎ENV X=2⏎ARG X=1⏎FROM p", &[("X", "2")]);
    check(&plain, "FROM b AS p⏎ARG X=1⏎FROM p", &[("X", "1")]);
    check(
        &plain,
        "FROM b⏎ARG A=$(x) C=\"a b\" D",
        &[("A", "$(x)"), ("C", "a b"), ("D", "-")],
    );
    check(&plain, "FROM b⏎ENV A=1 B=$A", &[("B", "")]);
    check(
        &plain,
        "FROM b⏎ENV abc=hello⏎ENV abc=bye def=$abc",
        &[("abc", "bye"), ("def", "hello")],
    );
    check(&plain, "FROM b⏎ENV K=a⏎ENV x$K=1", &[("xa", "1")]);
}

#[test]
fn an_argument_never_changes_the_environment_of_the_image() {
    let env = setup()
        .plan("FROM b\nENV A=1\nARG A=2\nARG C=3\nRUN x\n")
        .image
        .config
        .env;
    assert_eq!(env[1..], ["A=1"]);
}

#[test]
fn globals_enter_a_stage_only_when_it_asks() {
    let plain = setup();
    check(&plain, "ARG G=g⏎FROM b", &[("G", "-")]);
    check(&plain, "ARG G=g⏎FROM b⏎ARG G", &[("G", "g")]);
    check(&plain, "ARG G=g⏎FROM b⏎ARG G=d", &[("G", "d")]);
    check(&plain, "ARG G=g⏎ARG H=${G}h⏎FROM b⏎ARG H", &[("H", "gh")]);
    check(&plain, "ARG G=g⏎FROM b AS one⏎ARG G⏎FROM b", &[("G", "-")]);
}

#[test]
fn build_arguments_beat_every_default() {
    let given = setup().arg("G", "given");
    check(&given, "ARG G=g⏎FROM b⏎ARG G", &[("G", "given")]);
    check(&given, "FROM b⏎ARG G=d", &[("G", "given")]);
    check(&given, "FROM b⏎ARG G", &[("G", "given")]);
    check(&given, "FROM b", &[("G", "-")]);
    check(&given, "ARG G=g⏎ARG H=$G⏎FROM b⏎ARG H", &[("H", "given")]);
}

#[test]
fn platform_arguments_behave_like_globals() {
    let plain = setup();
    check(&plain, "FROM b⏎ARG TARGETARCH", &[("TARGETARCH", "amd64")]);
    check(&plain, "FROM b⏎ARG TARGETARCH=x", &[("TARGETARCH", "x")]);
    check(&plain, "ARG TARGETARCH=x⏎FROM b⏎ARG TARGETARCH", &[("TARGETARCH", "x")]);
    check(&plain, "FROM b", &[("TARGETARCH", "-")]);
    check(&plain, "FROM b⏎ARG BUILDPLATFORM", &[("BUILDPLATFORM", "linux/amd64")]);
    check(&plain, "FROM b⏎ARG TARGETSTAGE", &[("TARGETSTAGE", "default")]);
    check(&plain, "FROM b AS Last⏎ARG TARGETSTAGE", &[("TARGETSTAGE", "last")]);
    let typed = setup().target("LAST");
    check(&typed, "FROM b AS last⏎ARG TARGETSTAGE", &[("TARGETSTAGE", "LAST")]);
    let mut arm = setup().arg("TARGETOS", "mine");
    arm.options.platform = "linux/arm/v7".parse().unwrap();
    check(
        &arm,
        "FROM b⏎ARG TARGETPLATFORM TARGETVARIANT TARGETOS",
        &[
            ("TARGETPLATFORM", "linux/arm/v7"),
            ("TARGETVARIANT", "v7"),
            ("TARGETOS", "mine"),
        ],
    );
}

#[test]
fn scan_switches_never_reach_a_step() {
    let text = "FROM b⏎ARG BUILDKIT_SBOM_SCAN_STAGE=true";
    check(&setup(), text, &[("BUILDKIT_SBOM_SCAN_STAGE", "-")]);
}

#[test]
fn working_directories_join_and_expand() {
    for (text, expected) in [
        ("FROM b⏎ENV A=1⏎WORKDIR /$A/${A}x", "/1/1x"),
        ("FROM b⏎WORKDIR a⏎WORKDIR b", "/a/b"),
        ("FROM b⏎WORKDIR /a⏎WORKDIR ..", "/"),
        ("FROM b⏎WORKDIR /with blank", "/with blank"),
        // Recorded as written, as long as it is absolute.
        ("FROM b⏎WORKDIR /a/", "/a/"),
        ("FROM b⏎WORKDIR /a//b/../c", "/a//b/../c"),
        ("FROM b⏎WORKDIR /a/⏎WORKDIR b/", "/a/b"),
        ("FROM b⏎WORKDIR /a/⏎WORKDIR $NONE", "/a"),
    ] {
        let plan = setup().plan(&text.replace('⏎', "\n"));
        assert_eq!(plan.image.config.working_dir, expected, "{text}");
    }
}
