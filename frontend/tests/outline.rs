//! What files offer to those who build them.

use frontend::outline::{Outline, outline, targets};
use frontend::source::SourceFile;
use frontend::{LowerOptions, parse};
use proto::platform::Platform;

const FILE: &str = "\
# VERSION of everything
ARG VERSION=1
ARG BASE=base:$VERSION
ARG UNUSED=x
ARG LATER=global

# tools has a compiler
FROM $BASE AS tools
# CFLAGS for the compiler
ARG CFLAGS=-O2
RUN --mount=type=secret,id=netrc --mount=type=ssh make

FROM base AS other
ARG NEVER=1
RUN --mount=type=secret,id=never,required true

# words without a name
FROM base AS Final
ARG VERSION
ARG TARGETARCH
ARG LATER=$CFLAGS
COPY --from=tools /x /x
RUN --mount=type=secret,id=token,required=true --mount=type=secret,id=netrc,required=true x
";

fn options(target: &str) -> LowerOptions {
    LowerOptions {
        target: Some(target.to_owned()),
        ..LowerOptions::new(Platform::new("linux", "amd64", ""))
    }
}

fn describe(options: &LowerOptions) -> Outline {
    let source = SourceFile::new("Dockerfile", FILE);
    outline(&source, &parse(&source), options).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn args(outline: &Outline) -> Vec<(&str, &str, &str, u32)> {
    let args = outline.args.iter();
    args.map(|arg| {
        (
            arg.name.as_str(),
            arg.value.as_str(),
            arg.description.as_str(),
            arg.lines.0,
        )
    })
    .collect()
}

#[test]
fn an_outline_lists_the_arguments_that_reach_the_target() {
    let found = describe(&options("final"));
    assert_eq!((found.name.as_str(), found.description.as_str()), ("final", ""));
    assert_eq!(
        args(&found),
        [
            ("VERSION", "1", "of everything", 2),
            ("BASE", "base:1", "", 3),
            ("CFLAGS", "-O2", "for the compiler", 10),
            ("LATER", "", "", 21),
        ]
    );
    let tools = describe(&options("tools"));
    assert_eq!(tools.description, "has a compiler");
    assert_eq!(args(&tools).len(), 3);
}

#[test]
fn build_arguments_show_their_values() {
    let mut given = options("tools");
    given.build_args.insert("VERSION".into(), "7".into());
    given.build_args.insert("CFLAGS".into(), "-g".into());
    let values: Vec<String> = describe(&given).args.into_iter().map(|arg| arg.value).collect();
    assert_eq!(values, ["7", "base:7", "-g"]);
}

#[test]
fn secrets_and_agents_are_listed_once_where_they_are_needed() {
    let found = describe(&options("final"));
    let secrets: Vec<_> = found
        .secrets
        .iter()
        .map(|lent| (lent.id.as_str(), lent.required, lent.lines.0))
        .collect();
    assert_eq!(secrets, [("netrc", true, 23), ("token", true, 23)]);
    let ssh: Vec<_> = found.ssh.iter().map(|lent| (lent.id.as_str(), lent.required)).collect();
    assert_eq!(ssh, [("default", false)]);
}

#[test]
fn targets_are_the_stages_with_what_is_said_of_them() {
    let list = targets(&parse(&SourceFile::new("Dockerfile", FILE))).unwrap();
    let shown: Vec<_> = list
        .iter()
        .map(|target| {
            (
                target.name.as_str(),
                target.description.as_str(),
                target.base.as_str(),
                target.is_default,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("tools", "has a compiler", "$BASE", false),
            ("other", "", "base", false),
            ("final", "", "base", true),
        ]
    );
}

#[test]
fn checks_that_are_errors_stop_builds_and_not_outlines() {
    let source = SourceFile::new("Dockerfile", "# check=error=true\nFROM base AS X\n");
    let found = outline(&source, &parse(&source), &options("x")).unwrap();
    assert_eq!(found.name, "x");
}

#[test]
fn a_file_with_a_mistake_has_no_outline() {
    let source = SourceFile::new("Dockerfile", "FROM base\nSTOPSIGNAL NOPE\n");
    let errors = outline(&source, &parse(&source), &options("")).unwrap_err();
    assert_eq!(errors[0].message, "invalid signal: NOPE");
    let broken = targets(&parse(&SourceFile::new("Dockerfile", "FRM base\n"))).unwrap_err();
    assert!(broken[0].message.starts_with("unknown instruction: FRM"), "{broken:?}");
}
