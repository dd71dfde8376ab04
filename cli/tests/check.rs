//! `rbuild check`, and questions to `rbuild build`: no server, no store, nothing left behind.

use expect_test::{Expect, expect, expect_file};
use serde_json::Value;

use crate::support::{Outcome, Place};

/// A file with three warnings, in a folder.
const FILE: &str = "FROM base AS Build\nRUN make\n\nFROM base\nENV TOKEN x\nCOPY --from=build /x /x\n";

fn run(place: &Place, arguments: &[&str], code: i32) -> Outcome {
    let outcome = place.run(arguments).exits(code);
    assert!(!place.root().exists(), "nobody needs a store for this");
    outcome
}

fn check(content: &str, arguments: &[&str], code: i32, expected: &Expect) {
    let place = Place::new();
    place.file("Dockerfile", content);
    let outcome = run(&place, arguments, code);
    expected.assert_eq(&outcome.stdout);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn problems_are_drawn_with_what_to_write_instead() {
    let place = Place::new();
    place.file("app/Dockerfile", FILE);
    let outcome = run(&place, &["check", "app"], 0);
    expect![[r#"
        warning[StageNameCasing]: Stage name 'Build' should be lowercase
          --> app/Dockerfile:1:14
           1 | FROM base AS Build
             |              ^^^^^
        help: write `build`

        warning[LegacyKeyValueFormat]: "ENV key=value" should be used instead of legacy "ENV key value" format
          --> app/Dockerfile:5:1
           5 | ENV TOKEN x
             | ^^^^^^^^^^^
        help: write `ENV TOKEN=x`

        warning[SecretsUsedInArgOrEnv]: Do not use ARG or ENV instructions for sensitive data (ENV "TOKEN")
          --> app/Dockerfile:5:5
           5 | ENV TOKEN x
             |     ^^^^^
        help: give it to the step that needs it with `RUN --mount=type=secret`

        app/Dockerfile: 3 warnings
    "#]]
    .assert_eq(&outcome.stdout);
}

#[test]
fn warnings_fail_only_if_asked_to() {
    let place = Place::new();
    place.file("Dockerfile", FILE);
    assert!(
        run(&place, &["check", "--error"], 1)
            .stdout
            .ends_with("Dockerfile: 3 warnings\n")
    );
    place.file("Dockerfile", "FROM base\nCOPY a b /x\n");
    let remark = run(&place, &["check", "--error"], 0);
    assert!(
        remark.stdout.contains("warning[SeveralSourcesToFile]"),
        "{}",
        remark.stdout
    );
    place.file("Dockerfile", "FROM base\n");
    assert_eq!(
        run(&place, &["check", "--error"], 0).stdout,
        "Dockerfile: nothing found\n"
    );
}

#[test]
fn mistakes_fail_and_stand_among_the_warnings() {
    check(
        "FROM base AS X\nSTOPSIGNAL NOPE\nCMD a\n",
        &["check"],
        1,
        &expect![[r#"
            warning[StageNameCasing]: Stage name 'X' should be lowercase
              --> Dockerfile:1:14
               1 | FROM base AS X
                 |              ^
            help: write `x`

            error: invalid signal: NOPE
              --> Dockerfile:2:12
               2 | STOPSIGNAL NOPE
                 |            ^^^^
            help: give a name like `SIGTERM` or a number

            warning[JSONArgsRecommended]: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
              --> Dockerfile:3:5
               3 | CMD a
                 |     ^
            help: write `CMD ["a"]`

            Dockerfile: 1 error, 2 warnings
        "#]],
    );
}

#[test]
fn json_names_rule_line_and_detail() {
    check(
        FILE,
        &["check", "Dockerfile", "--format", "json"],
        0,
        &expect![[r#"
            {"warnings":[{"detail":"Stage name 'Build' should be lowercase","line":1,"rule":"StageNameCasing"},{"detail":"\"ENV key=value\" should be used instead of legacy \"ENV key value\" format","line":5,"rule":"LegacyKeyValueFormat"},{"detail":"Do not use ARG or ENV instructions for sensitive data (ENV \"TOKEN\")","line":5,"rule":"SecretsUsedInArgOrEnv"}]}
        "#]],
    );
    check(
        "FROM base\nSTOPSIGNAL \\\n  NOPE\n",
        &["check", "--format=json"],
        1,
        &expect![[r#"
            {"error":{"line":2,"message":"invalid signal: NOPE"},"warnings":[]}
        "#]],
    );
}

#[test]
fn github_marks_the_lines() {
    let place = Place::new();
    place.file(
        "a,b/Dockerfile",
        "FROM base\nCOPY a b /x\nCMD 100%\nUSER $X \\\n\n  y\nEXPOSE x\n",
    );
    let outcome = run(&place, &["check", "--format=github", "a,b"], 1);
    expect![[r#"
        ::error file=a%2Cb/Dockerfile,line=7,endLine=7,col=8,endColumn=8,title=invalid-port::invalid containerPort: x
        ::notice file=a%2Cb/Dockerfile,line=2,endLine=2,col=10,endColumn=11,title=SeveralSourcesToFile::several sources, but the destination is no directory: each file replaces the one before%0Ahelp: end the destination with a slash: `/x/`
        ::warning file=a%2Cb/Dockerfile,line=3,endLine=3,col=5,endColumn=8,title=JSONArgsRecommended::JSON arguments recommended for CMD to prevent unintended behavior related to OS signals%0Ahelp: write `CMD ["100%25"]`
        ::warning file=a%2Cb/Dockerfile,line=4,endLine=4,col=6,endColumn=7,title=UndefinedVar::Usage of undefined variable '$X'%0Ahelp: declare it above with `ARG X`, or set it with `ENV X=…`
        ::warning file=a%2Cb/Dockerfile,line=6,endLine=6,col=1,endColumn=3,title=NoEmptyContinuation::Empty continuation line%0Anote: a line inside this instruction is empty; the instruction goes on behind it%0Ahelp: remove the empty line, or put a comment in its place
    "#]]
    .assert_eq(&outcome.stdout);
}

#[test]
fn sarif_has_rules_results_and_regions() {
    let place = Place::new();
    place
        .file("my app/Dockerfile", "FROM base AS é AS\n")
        .file("Dockerfile", FILE);
    let log: Value = serde_json::from_str(&run(&place, &["check", "--format=sarif"], 0).stdout).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let driver = &log["runs"][0]["tool"]["driver"];
    assert_eq!(driver["name"], "rbuild");
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(driver["rules"][index]["id"], result["ruleId"]);
    }
    let first = &results[0];
    assert_eq!(
        (first["ruleId"].as_str(), first["level"].as_str()),
        (Some("StageNameCasing"), Some("warning"))
    );
    let place = &first["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "Dockerfile");
    let region = serde_json::json!({"startLine": 1, "startColumn": 14, "endLine": 1, "endColumn": 19});
    assert_eq!(place["region"], region);
}

#[test]
fn a_folder_has_an_ignore_file_and_a_file_has_none() {
    let place = Place::new();
    place
        .file("Dockerfile", "FROM base\nCOPY a.tar /\n")
        .file(".dockerignore", "*.tar\n");
    let folder = run(&place, &["check"], 0).stdout;
    assert!(
        folder.contains("note: excluded by `*.tar`, line 1 of the ignore file"),
        "{folder}"
    );
    assert_eq!(
        run(&place, &["check", "Dockerfile"], 0).stdout,
        "Dockerfile: nothing found\n"
    );
}

#[test]
fn a_file_may_come_from_stdin() {
    let outcome = Place::new()
        .run_with_stdin(&["check", "--error", "-"], b"FROM base AS X\n")
        .exits(1);
    assert!(outcome.stdout.contains("--> stdin:1:14"), "{}", outcome.stdout);
}

#[test]
fn a_build_shows_warnings_as_it_starts_and_stops_where_they_are_errors() {
    let place = Place::new();
    place.file("Dockerfile", "# check=error=true\nFROM scratch AS X\n");
    let outcome = place.run(&["build", "--in-process", "--progress=plain", "."]).exits(1);
    let outcome = outcome.says("error: lint violation found for rules: StageNameCasing");
    assert!(
        outcome.stderr.contains("warning[StageNameCasing]"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_build_warns_of_copies_that_the_ignore_file_excludes() {
    let place = Place::new();
    place
        .file("Dockerfile", "FROM scratch\nCOPY *.tar /\n")
        .file(".dockerignore", "*.tar\n")
        .file("a.tar", "x");
    let outcome = place.run(&["build", "--in-process", "--progress=plain", "."]);
    assert!(
        outcome
            .stderr
            .contains("warning[CopyIgnoredFile]: Attempting to Copy file \"*.tar\""),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_call_for_checks_has_the_text_of_other_builders() {
    check(
        FILE,
        &["build", "--check", "."],
        1,
        &expect![[r#"
            Check complete, 3 warnings have been found!

            WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
            Stage name 'Build' should be lowercase
            Dockerfile:1
            --------------------
               1 | >>> FROM base AS Build
               2 |     RUN make
               3 |     
            --------------------

            WARNING: LegacyKeyValueFormat - https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/
            "ENV key=value" should be used instead of legacy "ENV key value" format
            Dockerfile:5
            --------------------
               3 |     
               4 |     FROM base
               5 | >>> ENV TOKEN x
               6 |     COPY --from=build /x /x
               7 |     
            --------------------

            WARNING: SecretsUsedInArgOrEnv - https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/
            Do not use ARG or ENV instructions for sensitive data (ENV "TOKEN")
            Dockerfile:5
            --------------------
               3 |     
               4 |     FROM base
               5 | >>> ENV TOKEN x
               6 |     COPY --from=build /x /x
               7 |     
            --------------------
        "#]],
    );
    check(
        "FROM base\n",
        &["build", "--call=check", "."],
        0,
        &expect![[r#"
            Check complete, no warnings found.
        "#]],
    );
}

#[test]
fn a_call_can_ignore_what_it_finds() {
    let place = Place::new();
    place.file("Dockerfile", FILE);
    let outcome = run(
        &place,
        &["build", "--call=check,ignorestatus=true", "--target=build", "."],
        0,
    );
    assert!(
        outcome
            .stdout
            .starts_with("Check complete, 1 warning has been found!\n"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn a_call_for_checks_of_a_wrong_file_tells_why() {
    let place = Place::new();
    place.file("Dockerfile", "FROM base AS X\nSTOPSIGNAL NOPE\n");
    let outcome = run(&place, &["build", "--check", "."], 1).says("error: invalid signal: NOPE");
    assert!(
        outcome.stdout.starts_with("Check complete, 1 warning has been found!"),
        "{}",
        outcome.stdout
    );
    let json = run(&place, &["build", "--call=check,format=json", "."], 1);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["buildError"]["message"], "invalid signal: NOPE");
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
}

#[test]
fn checks_as_json_have_rules_places_and_the_file() {
    let place = Place::new();
    place.file("Dockerfile", FILE);
    let json: Value =
        serde_json::from_str(&run(&place, &["build", "--call=check,format=json", "."], 1).stdout).unwrap();
    let warning = &json["warnings"][2];
    assert_eq!(warning["ruleName"], "SecretsUsedInArgOrEnv");
    assert_eq!(
        warning["detail"],
        "Do not use ARG or ENV instructions for sensitive data (ENV \"TOKEN\")"
    );
    assert_eq!(
        warning["url"],
        "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/"
    );
    let ranges = serde_json::json!([{"start": {"line": 5}, "end": {"line": 5}}]);
    assert_eq!(warning["location"]["ranges"], ranges);
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert_eq!(json["sources"][0]["language"], "Dockerfile");
}

/// Something of everything that an outline has.
const OFFERS: &str = "\
# VERSION of the base
ARG VERSION=1
# app is what runs
FROM base:$VERSION AS app
ARG LONG_NAME=some text
RUN --mount=type=secret,id=token,required=true --mount=type=secret,id=netrc x
RUN --mount=type=ssh x
FROM app
";

#[test]
fn an_outline_is_a_list_of_tables() {
    check(
        OFFERS,
        &["build", "--call=outline", "--target=app", "--build-arg=VERSION=3", "."],
        0,
        &expect![[r#"
            TARGET:      app
            DESCRIPTION: is what runs

            BUILD ARG   VALUE   DESCRIPTION
            VERSION     3       of the base
            LONG_NAME   some    
            text                

            SECRET   REQUIRED
            netrc    
            token    true

            SSH       REQUIRED
            default   

        "#]],
    );
    let place = Place::new();
    place.file("Dockerfile", OFFERS);
    let json = run(&place, &["build", "--call=format=json,outline", "."], 0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.get("name"), None, "the last stage has none");
    assert_eq!(json["args"][0]["description"], "of the base");
    assert_eq!(json["secrets"][1]["name"], "token");
    assert_eq!(json["secrets"][1]["required"], true);
    assert_eq!(json["ssh"][0]["location"]["ranges"][0]["start"]["line"], 7);
}

#[test]
fn targets_are_a_table() {
    check(
        OFFERS,
        &["build", "--call=targets", "."],
        0,
        &expect![[r#"
            TARGET    DESCRIPTION
            app       is what runs
            (default) 
        "#]],
    );
    let place = Place::new();
    place.file("Dockerfile", OFFERS);
    let json: Value =
        serde_json::from_str(&run(&place, &["build", "--call=targets,format=json", "."], 0).stdout).unwrap();
    assert_eq!(json["targets"][0]["base"], "base:$VERSION");
    assert_eq!(json["targets"][1]["default"], true);
    let unknown = run(&place, &["build", "--call=outline", "--target=none", "."], 1);
    assert_eq!(unknown.stderr, "error: target stage \"none\" could not be found\n");
}

#[test]
fn the_calls_describe_themselves() {
    check(
        "FROM base\n",
        &["build", "--call=subrequests.describe", "."],
        0,
        &expect![[r#"
            NAME                 VERSION DESCRIPTION
            outline              1.0.0   list what a build of the target can be given
            targets              1.0.0   list the stages that can be built
            lint                 1.0.0   check the Dockerfile
            subrequests.describe 1.0.0   list these questions
        "#]],
    );
    let refused = Place::new().run(&["build", "--call=magic", "."]).exits(2);
    assert!(
        refused.stderr.contains("there is no method `magic`"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_options_of_check_are_explained() {
    let outcome = Place::new().run(&["check", "--help"]).exits(0);
    expect_file!["golden/check.txt"].assert_eq(&outcome.stdout);
}
