//! What lowering refuses or warns of: where, with which words, and with which way out.

use crate::support::{Setup, setup};
use expect_test::{Expect, expect};

fn errors(setup: &Setup, text: &str, expected: &Expect) {
    expected.assert_eq(&setup.errors(&text.replace('⏎', "\n")));
}

/// What several small files are refused for, one below the other.
fn all_errors(texts: &[&str], expected: &Expect) {
    let errors: Vec<String> = texts
        .iter()
        .map(|text| setup().errors(&text.replace('⏎', "\n")))
        .collect();
    expected.assert_eq(&errors.concat());
}

fn warnings(text: &str, expected: &Expect) {
    expected.assert_eq(&setup().warnings(&text.replace('⏎', "\n")));
}

#[test]
fn unknown_targets_are_named_with_the_nearest_stage() {
    errors(
        &setup().target("biuld"),
        "FROM b AS build",
        &expect![[r#"
        1 `` error[unknown-target]: target stage "biuld" could not be found
          help: did you mean the stage `build`?
    "#]],
    );
    errors(
        &setup().target("0"),
        "FROM b",
        &expect![[r#"
        1 `` error[unknown-target]: target stage "0" could not be found
    "#]],
    );
}

#[test]
fn a_stage_reads_only_from_stages_above() {
    all_errors(
        &[
            "FROM b AS x⏎COPY --from=x /a /b",
            "FROM b⏎COPY --from=0 /a /b",
            "FROM b⏎COPY --from=-1 /a /b⏎COPY --from=7 /a /b",
        ],
        &expect![[r#"
            2 `x` error[circular-stage]: circular dependency detected on stage: x
            2 `0` error[circular-stage]: circular dependency detected on stage: 0
            2 `-1` error[unknown-stage]: invalid stage index -1
              note: this file has the stages 0 to 0
            3 `7` error[unknown-stage]: invalid stage index 7
              note: this file has the stages 0 to 0
        "#]],
    );
    let later = "FROM b AS x⏎COPY --from=y /a /b⏎RUN --mount=from=y,target=/m true⏎FROM b AS y";
    errors(
        &setup().target("x"),
        later,
        &expect![[r#"
        2 `y` error[later-stage]: cannot copy from stage "y", it needs to be defined before current stage "x"
          help: move the stage `y` above this one
        3 `y` error[later-stage]: cannot mount from stage "y" to "/m", stage needs to be defined before current command
          help: move the stage `y` above this one
    "#]],
    );
    // What the target does not need is not looked at.
    setup().plan(&later.replace('⏎', "\n"));
}

#[test]
fn names_of_images_are_checked_in_stages_that_nothing_needs() {
    all_errors(
        &[
            "FROM Bad AS x⏎FROM b",
            "FROM b AS x⏎COPY --from=a:b:c / /⏎RUN --mount=from=B,target=/m y⏎FROM b",
            "FROM b AS x⏎COPY --from=7 / /⏎COPY --from=scratch / /⏎FROM b",
        ],
        &expect![[r#"
            1 `Bad` error[invalid-reference]: failed to parse stage name "Bad": invalid reference format
              note: names of stages and repositories are lower case
            2 `a:b:c` error[invalid-reference]: failed to parse stage name "a:b:c": invalid reference format
            3 `B` error[invalid-reference]: failed to parse stage name "B": invalid reference format
              note: names of stages and repositories are lower case
            2 `7` error[unknown-stage]: invalid stage index 7
              note: this file has the stages 0 to 1
        "#]],
    );
    // Other mistakes there are nobody's business.
    setup().plan("FROM b AS x\nUSER ${A?}\nFROM b\n");
}

#[test]
fn an_empty_array_is_nothing_to_run() {
    all_errors(
        &["FROM b⏎RUN []"],
        &expect![[r#"
            2 `RUN []` error[nothing-to-run]: RUN has nothing to run: the array is empty
              help: write `RUN ["program", "argument"]`
        "#]],
    );
    setup().plan("FROM b\nRUN\n");
}

#[test]
fn a_broken_trigger_is_an_error_only_where_it_runs() {
    setup().plan("FROM b\nONBUILD COPY a\n");
    warnings(
        "FROM b⏎ONBUILD RNU x",
        &expect![[r#"
        2 `RNU` warning[broken-trigger]: no build from this image can run this trigger: unknown instruction: RNU (did you mean RUN?)
    "#]],
    );
    all_errors(
        &["FROM b AS p⏎ONBUILD COPY a⏎FROM p"],
        &expect![[r#"
        2 `COPY` error[missing-argument]: COPY requires at least two arguments, but only one was provided. Destination could not be determined
          help: write `COPY <source> <destination>`
    "#]],
    );
}

#[test]
fn numbers_are_stages_for_copies_and_images_for_mounts() {
    let setup = setup();
    let rounds = |text: &str| setup.lower(text).1.concat();
    assert_eq!(
        rounds("FROM b\nFROM c\nRUN --mount=from=0,target=/m x\n"),
        [
            "docker.io/library/c:latest linux/amd64",
            "docker.io/library/0:latest linux/amd64"
        ]
    );
    assert_eq!(
        rounds("FROM c\nFROM c\nCOPY --from=0 / /\n"),
        ["docker.io/library/c:latest linux/amd64"]
    );
}

#[test]
fn of_two_stages_with_one_name_the_last_is_meant_everywhere() {
    all_errors(
        &[
            "FROM b AS x⏎FROM b AS x⏎COPY --from=x / /",
            "FROM b AS x⏎FROM b AS y⏎COPY --from=x / /⏎FROM y AS x",
        ],
        &expect![[r#"
            3 `x` error[circular-stage]: circular dependency detected on stage: x
            3 `x` error[later-stage]: cannot copy from stage "x", it needs to be defined before current stage "y"
              help: move the stage `x` above this one
        "#]],
    );
}

#[test]
fn a_stage_may_be_called_scratch() {
    let plan = setup().plan("FROM b AS scratch\nENV A=1\nFROM scratch\n");
    assert_eq!(plan.stages, [0, 1]);
    assert!(plan.image.config.env.contains(&"A=1".to_owned()));
    let plan = setup().plan("FROM --platform=linux/386 scratch\n");
    assert_eq!(plan.image.platform.to_string(), "linux/amd64");
}

#[test]
fn an_image_that_may_be_a_misspelt_stage_is_asked_for_with_the_stage() {
    let source = frontend::source::SourceFile::new("Dockerfile", "FROM a AS build\nFROM b\nCOPY --from=biuld /a /b\n");
    let parsed = frontend::parse(&source);
    let images = frontend::lower::Images::new();
    let Ok(frontend::Lowered::Need(requests)) = frontend::lower(&source, &parsed, &setup().options, &images) else {
        panic!("images are needed");
    };
    let near: Vec<_> = requests.iter().map(|request| request.near_stage.as_deref()).collect();
    assert_eq!(near, [None, Some("build")], "{requests:?}");
}

#[test]
fn a_word_behind_from_is_an_image_and_elsewhere_perhaps_a_stage() {
    let text = "FROM alpine\nCOPY --from=two /a /\nCOPY --from=build-1 /a /\nCOPY --from=nginx:1 /a /\nCOPY --from=h.example/a /a /\n";
    let source = frontend::source::SourceFile::new("Dockerfile", text);
    let parsed = frontend::parse(&source);
    let images = frontend::lower::Images::new();
    let Ok(frontend::Lowered::Need(requests)) = frontend::lower(&source, &parsed, &setup().options, &images) else {
        panic!("images are needed");
    };
    let words: Vec<_> = requests.iter().map(|request| request.no_stage.as_deref()).collect();
    assert_eq!(words, [None, Some("two"), Some("build-1"), None, None], "{requests:?}");
}

#[test]
fn bad_bases_are_refused() {
    all_errors(
        &[
            "FROM ${NO}",
            "FROM b AS base⏎FROM BASE",
            "FROM a:b:c",
            "FROM --platform=linux/ b",
            "ARG A⏎FROM x${A:?needed}",
        ],
        &expect![[r#"
            1 `${NO}` error[blank-base]: base name (${NO}) should not be blank
              help: declare the variable with `ARG` and a default before the first `FROM`
            2 `BASE` error[invalid-reference]: failed to parse stage name "BASE": invalid reference format
              note: names of stages and repositories are lower case
              help: did you mean the stage `base`?
            1 `a:b:c` error[invalid-reference]: failed to parse stage name "a:b:c": invalid reference format
            1 `linux/` error[invalid-platform]: failed to parse platform linux/
              note: `linux/` is not a platform: expected `os/arch` or `os/arch/variant`
            2 `x${A:?needed}` error[invalid-substitution]: failed to process "x${A:?needed}": A: needed
        "#]],
    );
    let plan = setup().plan("FROM busybox AS Base\nRUN x\nFROM base\n");
    assert_eq!(plan.definition.vertices.len(), 2);
}

#[test]
fn mistakes_are_reported_all_at_once() {
    let text = "FROM b⏎EXPOSE 80 99999⏎EXPOSE 80/foo⏎VOLUME $X⏎STOPSIGNAL FOO⏎ENV $X=1⏎ENV A=\"${X:?is needed}\"";
    errors(
        &setup(),
        text,
        &expect![[r#"
            2 `99999` error[invalid-port]: invalid containerPort: 99999
            3 `80/foo` error[invalid-port]: invalid port: "80/foo": invalid proto: foo
            4 `$X` error[empty-volume]: VOLUME specified can not be an empty string
            5 `FOO` error[invalid-signal]: invalid signal: FOO
              help: give a name like `SIGTERM` or a number
            6 `$X` error[blank-name]: ENV names can not be blank
            7 `"${X:?is needed}"` error[invalid-substitution]: failed to process "\"${X:?is needed}\"": X: is needed
        "#]],
    );
}

#[test]
fn bad_copies_are_refused() {
    all_errors(
        &[
            "FROM b⏎COPY --from=$X f /p",
            "FROM b⏎COPY --chmod=08 f /p",
            "FROM b⏎COPY --chmod=77777 f /p",
            "FROM b⏎COPY --chmod=a+y f /p",
            "FROM b⏎COPY --chmod=u+x, f /p",
            "FROM b⏎COPY --chown=9999999999 f /p",
            "FROM b⏎COPY https://e.example/f /p⏎COPY git@e.example:a/b.git /p",
            "FROM b⏎ADD https://e.example/r.git?depth=1 /p⏎ADD --keep-git-dir=false https://e.example/r.git?keep-git-dir /p",
            "FROM b⏎ADD --checksum=ab https://e.example/r.git?checksum=cd /p⏎ADD --checksum=sha256:00 https://e.example/f /p",
            "FROM b⏎ADD --checksum=sha256:00 https://e.example/f https://e.example/g /p/",
            "FROM b⏎ADD --checksum=sha256:00 f /p",
        ],
        &expect![[r#"
            2 `$X` error[variable-in-from]: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround
            2 `08` error[invalid-chmod]: invalid chmod parameter: '08'. it should be octal string and between 0 and 07777
            2 `77777` error[invalid-chmod]: invalid chmod parameter: '77777'. it should be octal string and between 0 and 07777
            2 `a+y` error[invalid-chmod]: invalid chmod parameter: 'a+y'. invalid syntax
            2 `u+x,` error[invalid-chmod]: invalid chmod parameter: 'u+x,'. invalid syntax
            2 `9999999999` error[invalid-chown]: invalid id `9999999999`: expected a number up to 2147483646
            2 `https://e.example/f` error[copy-remote]: source can't be a URL for COPY
              help: `ADD` takes remote sources
            3 `git@e.example:a/b.git` error[copy-remote]: source can't be a git ref for COPY
              help: `ADD` takes remote sources
            2 `https://e.example/r.git?depth=1` error[invalid-git-reference]: unexpected query "depth"
            3 `https://e.example/r.git?keep-git-dir` error[invalid-git-reference]: inconsistent keep-git-dir configuration
            2 `ab` error[invalid-checksum]: checksum mismatch "ab" != "cd"
            3 `sha256:00` error[invalid-checksum]: invalid checksum digest format: "sha256:00"
              help: write `--checksum=sha256:` and 64 hex digits
            2 `sha256:00` error[checksum-of-local]: checksum can't be specified for multiple sources
            2 `sha256:00` error[checksum-of-local]: checksum requires HTTP(S) or Git sources
        "#]],
    );
}

#[test]
fn bad_mounts_are_refused() {
    let texts = [
        "type=foo,target=/x",
        "type=cahce,target=/x",
        "type=bind,target=/",
        "type=cache,target=/c,sharing=x",
        "target=/c,ro=maybe",
        "target=/c,mode=0700",
        "type=secret",
        "type=secret,id=a,source=b",
        "type=secret,id=a,from=b",
        "foo=1,target=/x",
        "taget=/x",
        "target=/x,from=$A",
        "type=tmpfs,target=/t,size=1x",
        "type=cache,target=/c,mode=9",
    ]
    .map(|mount| format!("FROM b⏎RUN --mount={mount} true"));
    all_errors(
        &texts.each_ref().map(String::as_str),
        &expect![[r#"
            2 `foo` error[invalid-mount]: unsupported mount type "foo"
            2 `cahce` error[invalid-mount]: unsupported mount type "cahce"
              help: did you mean `cache`?
            2 `type=bind,target=/` error[invalid-mount]: invalid mount target "/"
            2 `x` error[invalid-mount]: unsupported sharing value "x"
              help: the values are `shared`, `private` and `locked`
            2 `maybe` error[invalid-mount]: invalid value for ro: maybe
            2 `mode` error[invalid-mount]: mode not allowed for "bind" type mounts
            2 `type=secret` error[invalid-mount]: invalid secret mount. one of source, target required
            2 `type=secret,id=a,source=b` error[invalid-mount]: both source and id can't be set
            2 `b` error[invalid-mount]: secret mount should not have a from
            2 `foo` error[invalid-mount]: unexpected key 'foo' in 'foo=1'
            2 `taget` error[invalid-mount]: unexpected key 'taget' in 'taget=/x'
              help: did you mean `target`?
            2 `$A` error[variable-in-from]: 'from' doesn't support variable expansion, define alias stage instead
            2 `1x` error[invalid-mount]: invalid value for size: 1x
            2 `9` error[invalid-mount]: invalid value for mode: 9
        "#]],
    );
}

#[test]
fn privileges_must_be_allowed() {
    all_errors(
        &[
            "FROM b⏎RUN --network=host x",
            "FROM b⏎RUN --network=foo x",
            "FROM b⏎RUN --security=insecure x",
            "FROM b⏎RUN --security=foo x",
            "FROM b⏎RUN --device=v.com/c=x,required x",
            "FROM b⏎RUN --device=v.com/c=x,require=1 x",
        ],
        &expect![[r#"
            2 `host` error[not-allowed]: network.host is not allowed
              help: allow it for this build with `--allow network.host`
            2 `foo` error[invalid-network]: invalid network mode "foo"
              help: use one of: default, none, host
            2 `insecure` error[not-allowed]: security.insecure is not allowed
              help: allow it for this build with `--allow security.insecure`
            2 `foo` error[invalid-security]: security "foo" is not valid
              help: use one of: sandbox, insecure
            2 `v.com/c=x,required` error[not-allowed]: device=v.com/c=x is not allowed
              help: allow it for this build with `--allow device=v.com/c=x`
            2 `v.com/c=x,require=1` error[invalid-device]: unexpected key 'require' in 'require=1'
              help: did you mean `required`?
        "#]],
    );
    let mut allowed = setup();
    let words = ["network.host", "security.insecure", "device=v.com/c"];
    allowed.options.entitlements = words.iter().map(|word| word.parse().unwrap()).collect();
    let steps = "FROM b\nRUN --network=host x\nRUN --security=insecure x\nRUN --device=v.com/c=x x\n";
    assert!(allowed.lower(steps).0.is_ok());
}

#[test]
fn variables_without_a_value_are_pointed_at() {
    warnings(
        "FROM b⏎ENV NAME=1⏎LABEL a=x${NMAE}y b=$other",
        &expect![[r#"
            3 `${NMAE}` warning[UndefinedVar]: Usage of undefined variable '$NMAE' (did you mean $NAME?)
              help: declare it above with `ARG NMAE`, or set it with `ENV NMAE=…`
            3 `$other` warning[UndefinedVar]: Usage of undefined variable '$other'
              help: declare it above with `ARG other`, or set it with `ENV other=…`
        "#]],
    );
    warnings(
        "ARG VERSION=1⏎FROM b:${VERSIN:-2}",
        &expect![[r#"
            2 `${VERSIN` warning[UndefinedArgInFrom]: FROM argument 'VERSIN' is not declared (did you mean VERSION?)
              help: declare it before the first `FROM`: `ARG VERSIN`
        "#]],
    );
    warnings("ARG V⏎FROM b:${V:-2}", &expect![[r#""#]]);
    warnings("FROM b⏎RUN echo $NOT_OURS", &expect![[r#""#]]);
}

#[test]
fn build_arguments_that_nothing_declares_are_named_once() {
    let setup = setup()
        .arg("VERSIN", "1")
        .arg("HTTP_PROXY", "x")
        .arg("BUILDKIT_X", "1")
        .arg("TARGETARCH", "x");
    let text = "FROM b\nARG VERSION\n";
    assert_eq!(setup.plan(text).ignored_build_args, ["VERSIN"]);
    expect![[r#"
        1 `` warning[UnusedBuildArg]: `VERSIN` is given as build argument but no `ARG` declares it
          help: for `VERSIN`, did you mean `VERSION`?
    "#]]
    .assert_eq(&setup.warnings(text));
}

#[test]
fn stage_names_are_checked() {
    warnings(
        "FROM b AS Build⏎FROM b as build⏎FROM b AS scratch",
        &expect![[r#"
            1 `Build` warning[StageNameCasing]: Stage name 'Build' should be lowercase
              help: write `build`
            2 `as` warning[FromAsCasing]: 'as' and 'FROM' keywords' casing do not match
              help: write `AS`
            2 `build` warning[DuplicateStageName]: Duplicate stage name "build", stage names should be unique
              note: the other one is on line 1; the name means the last one above
              help: give one of them another name
            3 `scratch` warning[ReservedStageName]: Stage name should not use the same name as reserved stage "scratch"
              help: give the stage another name
        "#]],
    );
    warnings(
        "FROM --platform=$TARGETPLATFORM b⏎FROM --platform=linux/arm64 b AS c",
        &expect![[r#"
            1 `$TARGETPLATFORM` warning[RedundantTargetPlatform]: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior
              help: remove `--platform=$TARGETPLATFORM`
            2 `linux/arm64` warning[FromPlatformFlagConstDisallowed]: FROM --platform flag should not use constant value "linux/arm64"
              help: remove it and build with `--platform linux/arm64`, or name the stage after the platform
        "#]],
    );
}

#[test]
fn commands_are_checked() {
    warnings(
        "FROM b⏎CMD a⏎CMD b⏎HEALTHCHECK NONE⏎HEALTHCHECK CMD x",
        &expect![[r#"
            2 `CMD` warning[MultipleInstructionsDisallowed]: Multiple CMD instructions should not be used in the same stage because only the last one will be used
              note: line 3 replaces it
              help: remove this one
            2 `a` warning[JSONArgsRecommended]: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
              help: write `CMD ["a"]`
            3 `b` warning[JSONArgsRecommended]: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
              help: write `CMD ["b"]`
            4 `HEALTHCHECK` warning[MultipleInstructionsDisallowed]: Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used
              note: line 5 replaces it
              help: remove this one
        "#]],
    );
    warnings("FROM b⏎SHELL [\"/bin/sh\"]⏎ENTRYPOINT x", &expect![[r#""#]]);
    warnings(
        "FROM b⏎run x⏎Run y",
        &expect![[r#"
            2 `run` warning[ConsistentInstructionCasing]: Command 'run' should match the case of the command majority (uppercase)
              help: write `RUN`
            3 `Run` warning[ConsistentInstructionCasing]: Command 'Run' should match the case of the command majority (uppercase)
              help: write `RUN`
        "#]],
    );
}

#[test]
fn settings_are_checked() {
    warnings(
        "FROM b⏎ENV a b⏎LABEL c d⏎MAINTAINER me",
        &expect![[r#"
            2 `ENV a b` warning[LegacyKeyValueFormat]: "ENV key=value" should be used instead of legacy "ENV key value" format
              help: write `ENV a=b`
            3 `LABEL c d` warning[LegacyKeyValueFormat]: "LABEL key=value" should be used instead of legacy "LABEL key value" format
              help: write `LABEL c=d`
            4 `MAINTAINER` warning[MaintainerDeprecated]: Maintainer instruction is deprecated in favor of using label
              help: write `LABEL org.opencontainers.image.authors=me`
        "#]],
    );
    warnings(
        "FROM b⏎WORKDIR a⏎WORKDIR /b⏎WORKDIR c",
        &expect![[r#"
            2 `a` warning[WorkdirRelativePath]: Relative workdir "a" can have unexpected results if the base image changes
              help: write `WORKDIR /a`
        "#]],
    );
    warnings(
        "FROM b⏎ARG API_TOKEN⏎ENV PASSWORD_FILE=x KEY=y",
        &expect![[r#"
        2 `API_TOKEN` warning[SecretsUsedInArgOrEnv]: Do not use ARG or ENV instructions for sensitive data (ARG "API_TOKEN")
          help: give it to the step that needs it with `RUN --mount=type=secret`
        3 `KEY` warning[SecretsUsedInArgOrEnv]: Do not use ARG or ENV instructions for sensitive data (ENV "KEY")
          help: give it to the step that needs it with `RUN --mount=type=secret`
    "#]],
    );
    warnings(
        "FROM b⏎EXPOSE 80/TCP 1.2.3.4:5:6",
        &expect![[r#"
            2 `80/TCP` warning[ExposeProtoCasing]: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase
              help: write `80/tcp`
            2 `1.2.3.4:5:6` warning[ExposeInvalidFormat]: EXPOSE instruction should not define an IP address or host-port mapping, found '1.2.3.4:5:6'
              help: write `6`; ports of the host are chosen when a container is run
        "#]],
    );
    warnings(
        "FROM b⏎COPY x y /z⏎COPY x y /z/",
        &expect![[r#"
        2 `/z` warning[SeveralSourcesToFile]: several sources, but the destination is no directory: each file replaces the one before
          help: end the destination with a slash: `/z/`
    "#]],
    );
}

#[test]
fn a_base_for_another_platform_is_pointed_at() {
    let setup = setup().image("docker.io/library/b:latest", |config| {
        config.architecture = "arm64".into()
    });
    expect![[r#"
        1 `b` warning[InvalidBaseImagePlatform]: Base image b was pulled with platform "linux/arm64", expected "linux/amd64" for current build
          help: name an image for linux/amd64, or build for it with `--platform linux/arm64`
    "#]].assert_eq(&setup.warnings("FROM b\n"));
}

#[test]
fn a_platform_that_nobody_chose_is_taken_over_from_the_base_image() {
    let mut setup = setup().image("docker.io/library/b:latest", |config| {
        config.architecture = "arm64".into()
    });
    let platforms = |setup: &Setup, text: &str| {
        let plan = setup.plan(text);
        let step = plan.definition.vertices.last().unwrap().platform.to_string();
        let warnings = plan
            .diagnostics
            .iter()
            .filter(|found| found.code == "InvalidBaseImagePlatform");
        (step, plan.image.platform.to_string(), warnings.count())
    };
    let (arm64, amd64) = ("linux/arm64".to_owned(), "linux/amd64".to_owned());
    // Chosen: the image says so, whatever it is made of.
    assert_eq!(platforms(&setup, "FROM b\nRUN x\n"), (amd64.clone(), amd64.clone(), 1));
    setup.options.adoptable = Some(vec!["linux/amd64".parse().unwrap()]);
    assert_eq!(platforms(&setup, "FROM b\nRUN x\n"), (amd64.clone(), arm64.clone(), 1));
    setup.options.adoptable = Some(
        ["linux/amd64", "linux/arm64"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
    );
    assert_eq!(platforms(&setup, "FROM b\nRUN x\n"), (arm64.clone(), arm64.clone(), 0));
    let explicit = "FROM --platform=linux/amd64 b\nRUN x\n";
    assert_eq!(platforms(&setup, explicit), (amd64, arm64, 1));
}

#[test]
fn files_choose_which_checks_they_hear() {
    let codes = |setup: &Setup, text: &str| {
        let plan = setup.plan(&text.replace('⏎', "\n"));
        plan.diagnostics.iter().map(|found| found.code).collect::<Vec<_>>()
    };
    let text = "FROM b AS X⏎CMD a⏎MAINTAINER me";
    assert_eq!(
        codes(&setup(), text),
        ["StageNameCasing", "JSONArgsRecommended", "MaintainerDeprecated"]
    );
    let skip = format!("# check=skip=StageNameCasing,JSONArgsRecommended;error=false a remark⏎{text}");
    assert_eq!(codes(&setup(), &skip), ["MaintainerDeprecated"]);
    assert_eq!(codes(&setup(), &format!("# check=skip=all;error=true⏎{text}")), [""; 0]);
    let here = text.replace("CMD", "# check=skip=JSONArgsRecommended⏎CMD");
    assert_eq!(codes(&setup(), &here), ["StageNameCasing", "MaintainerDeprecated"]);
    let argument = setup().arg("BUILDKIT_DOCKERFILE_CHECK", "skip=all");
    assert_eq!(codes(&argument, &format!("# check=error=true⏎{text}")), [""; 0]);
}

#[test]
fn files_choose_that_warnings_are_errors() {
    errors(
        &setup(),
        "# check=error=true⏎FROM b⏎MAINTAINER me",
        &expect![[r#"
            1 `error=true` error[lint]: lint violation found for rules: MaintainerDeprecated
            3 `MAINTAINER` warning[MaintainerDeprecated]: Maintainer instruction is deprecated in favor of using label
              help: write `LABEL org.opencontainers.image.authors=me`
        "#]],
    );
}
