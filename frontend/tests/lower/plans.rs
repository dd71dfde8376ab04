//! Dockerfile text → plan, through the public API: what becomes a vertex, what becomes config, what becomes history.
//!
//! Long because the golden plans are one table.

use crate::support::{Setup, image, setup, vertices};
use expect_test::{Expect, expect};
use frontend::NamedContext;

fn check(setup: &Setup, text: &str, expected: &Expect) {
    expected.assert_eq(&vertices(&setup.plan(text)));
}

fn check_image(setup: &Setup, text: &str, expected: &Expect) {
    expected.assert_eq(&image(&setup.plan(text)));
}

const EVERY_INSTRUCTION: &str = r#"ARG GLOB=g
FROM busybox AS base
ARG A=1
ARG B
ARG GLOB
LABEL l1=v1 "l 2"='v 2'
ENV E1=a E2="b c"
ENV OLD some   value  here
RUN echo $A
RUN ["echo","exec"]
RUN <<EOF
echo one
echo two
EOF
RUN --mount=type=cache,target=/c --network=none echo cached
COPY a.txt /dst/
COPY --chown=1:2 --chmod=600 a.txt d /dst2/
COPY <<F1 <<F2 /hd/
one
F1
two
F2
ADD --link a.txt /x/
WORKDIR /w
WORKDIR sub
WORKDIR /
EXPOSE 80 443/udp 9000-9002
VOLUME /v1 /v2
USER 1000:1000
STOPSIGNAL SIGINT
SHELL ["/bin/sh","-ec"]
HEALTHCHECK --interval=5s --retries=2 CMD echo ok
CMD echo cmd
ENTRYPOINT ["/bin/echo","x"]
ONBUILD RUN echo hi
MAINTAINER Me <me@x>
"#;

#[test]
fn every_instruction_gives_the_config_and_history_that_other_builders_give() {
    let mut setup = setup().arg("B", "bee");
    setup.options.labels.insert("z".into(), "y".into());
    check_image(
        &setup,
        EVERY_INSTRUCTION,
        &expect![[r#"
        linux/amd64 author="Me <me@x>"
        {"User":"1000:1000","ExposedPorts":{"443/udp":{},"80/tcp":{},"9000/tcp":{},"9001/tcp":{},"9002/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","E1=a","E2=b c","OLD=some   value  here"],"Entrypoint":["/bin/echo","x"],"Cmd":["/bin/sh","-ec","echo cmd"],"Volumes":{"/v1":{},"/v2":{}},"WorkingDir":"/","Labels":{"l 2":"v 2","l1":"v1","z":"y"},"StopSignal":"SIGINT","ArgsEscaped":true,"Healthcheck":{"Test":["CMD-SHELL","echo ok"],"Interval":5000000000,"Retries":2},"OnBuild":["RUN echo hi"],"Shell":["/bin/sh","-ec"]}
        base mkoci
        e ARG A=1
        e ARG B=bee
        e ARG GLOB=g
        e LABEL l1=v1 l 2=v 2
        e ENV E1=a E2=b c
        e ENV OLD=some   value  here
        L1 RUN |3 A=1 B=bee GLOB=g /bin/sh -c echo $A # buildkit
        L2 RUN |3 A=1 B=bee GLOB=g echo exec # buildkit
        L3 RUN |3 A=1 B=bee GLOB=g /bin/sh -c echo one⏎echo two⏎ # buildkit
        L4 RUN |3 A=1 B=bee GLOB=g /bin/sh -c echo cached # buildkit
        L6 COPY a.txt /dst/ # buildkit
        L7 COPY --chown=1:2 --chmod=600 a.txt d /dst2/ # buildkit
        L8 COPY <<F1 <<F2 /hd/ # buildkit
        L9 ADD a.txt /x/ # buildkit
        L10 WORKDIR /w
        L11 WORKDIR /w/sub
        e WORKDIR /
        e EXPOSE [443/udp 80/tcp 9000/tcp 9001/tcp 9002/tcp]
        e VOLUME [/v1 /v2]
        e USER 1000:1000
        e STOPSIGNAL SIGINT
        e SHELL [/bin/sh -ec]
        e HEALTHCHECK {Test:[CMD-SHELL echo ok] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}
        e CMD ["/bin/sh" "-ec" "echo cmd"]
        e ENTRYPOINT ["/bin/echo" "x"]
        e MAINTAINER Me <me@x>
    "#]],
    );
    expect![[r#"
        8 `ENV OLD some   value  here` warning[LegacyKeyValueFormat]: "ENV key=value" should be used instead of legacy "ENV key value" format
          help: write `ENV OLD="some   value  here"`
        36 `MAINTAINER` warning[MaintainerDeprecated]: Maintainer instruction is deprecated in favor of using label
          help: write `LABEL org.opencontainers.image.authors="Me <me@x>"`
    "#]].assert_eq(&setup.warnings(EVERY_INSTRUCTION));
}

#[test]
fn every_instruction_gives_its_vertices() {
    check(
        &setup().arg("B", "bee"),
        EVERY_INSTRUCTION,
        &expect![[r#"
        0 [base  1/12] FROM docker.io/library/busybox:latest@sha256:… @2-2
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [base  2/12] RUN echo 1 @9-9
            exec on 0 ["/bin/sh", "-c", "echo $A"] in / env=["A=1", "B=bee", "GLOB=g", "E1=a", "E2=b c", "OLD=some   value  here"]
        2 [base  3/12] RUN ["echo","exec"] @10-10
            exec on 1 ["echo", "exec"] in / env=["A=1", "B=bee", "GLOB=g", "E1=a", "E2=b c", "OLD=some   value  here"]
        3 [base  4/12] RUN <<EOF (echo one...) @11-14
            exec on 2 ["/bin/sh", "-c", "echo one\necho two\n"] in / env=["A=1", "B=bee", "GLOB=g", "E1=a", "E2=b c", "OLD=some   value  here"]
        4 [base  5/12] RUN --mount=type=cache,target=/c --network=none echo cached @15-15
            exec on 3 ["/bin/sh", "-c", "echo cached"] in / env=["A=1", "B=bee", "GLOB=g", "E1=a", "E2=b c", "OLD=some   value  here"] network=None
            mount /c Cache { id: "/c", sharing: Shared, from: None, writable: true, access: MountAccess { mode: 493, uid: 0, gid: 0 } }
        5 [internal] load build context
            local context
        6 [base  6/12] COPY a.txt /dst/ @16-16
            copy on 4 5:a.txt → /dst dir
        7 [base  7/12] COPY --chown=1:2 --chmod=600 a.txt d /dst2/ @17-17
            copy on 6 5:a.txt 5:d → /dst2 dir Some(Owner { user: Some(Number(1)), group: Some(Number(2)) }) Some(Octal(384))
        8 [base  8/12] COPY <<F1 <<F2 /hd/ @18-22
            copy on 7 <<F1:"one\n" <<F2:"two\n" → /hd dir
        9 [base  9/12] ADD --link a.txt /x/ @23-23
            copy on 8 5:a.txt → /x dir link unpack
        10 [base 10/12] WORKDIR /w @24-24
            mkdir on 9 /w
        11 [base 11/12] WORKDIR sub @25-25
            mkdir on 10 /w/sub
        target 11
    "#]],
    );
}

#[test]
fn scratch_with_a_copy_has_a_path_and_a_working_directory_and_nothing_else() {
    let text = "FROM scratch\nCOPY app /\n";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [internal] load build context
            local context
        1 [1/1] COPY app / @2-2
            copy on - 0:app → / dir
        target 1
    "#]],
    );
    check_image(
        &setup(),
        text,
        &expect![[r#"
        linux/amd64 author=""
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"}
        L1 COPY app / # buildkit
    "#]],
    );
}

#[test]
fn scratch_alone_is_an_empty_image() {
    check(
        &setup(),
        "FROM scratch\nLABEL a=b\n",
        &expect![[r#"
        target empty
    "#]],
    );
}

#[test]
fn stages_are_numbered_and_named_as_users_know_it() {
    let text = "FROM golang:1.22 AS Build
WORKDIR /src
COPY go.mod .
RUN go build
FROM scratch AS unused
COPY x y
FROM alpine
COPY --from=build /src/app /usr/bin/
COPY --from=0 /src/b /b
COPY --from=nginx:latest /etc/nginx /etc/nginx/
RUN --mount=from=build,target=/m true
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [build 1/4] FROM docker.io/library/golang:1.22@sha256:… @1-1
            image docker.io/library/golang:1.22 (1 layers) linux/amd64
        1 [build 2/4] WORKDIR /src @2-2
            mkdir on 0 /src
        2 [internal] load build context
            local context
        3 [build 3/4] COPY go.mod . @3-3
            copy on 1 2:go.mod → /src dir
        4 [build 4/4] RUN go build @4-4
            exec on 3 ["/bin/sh", "-c", "go build"] in /src
        5 [stage-2 1/5] FROM docker.io/library/alpine:latest@sha256:… @7-7
            image docker.io/library/alpine:latest (1 layers) linux/amd64
        6 [stage-2 2/5] COPY --from=build /src/app /usr/bin/ @8-8
            copy on 5 4:/src/app → /usr/bin dir
        7 [stage-2 3/5] COPY --from=0 /src/b /b @9-9
            copy on 6 4:/src/b → /b
        8 FROM docker.io/library/nginx:latest@sha256:… @10-10
            image docker.io/library/nginx:latest (1 layers) linux/amd64
        9 [stage-2 4/5] COPY --from=nginx:latest /etc/nginx /etc/nginx/ @10-10
            copy on 7 8:/etc/nginx → /etc/nginx dir
        10 [stage-2 5/5] RUN --mount=from=build,target=/m true @11-11
            exec on 9 ["/bin/sh", "-c", "true"] in /
            mount /m Bind { from: (4), source: "/", writable: false }
        target 10
    "#]],
    );
}

#[test]
fn a_stage_over_a_stage_keeps_its_filesystem_config_and_history() {
    let text = "FROM busybox AS a
ENV X=1
RUN one
CMD [\"c\"]
FROM a AS b
RUN two
ENTRYPOINT [\"e\"]
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [a 1/2] FROM docker.io/library/busybox:latest@sha256:… @1-1
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [a 2/2] RUN one @3-3
            exec on 0 ["/bin/sh", "-c", "one"] in / env=["X=1"]
        2 [b 1/1] RUN two @6-6
            exec on 1 ["/bin/sh", "-c", "two"] in / env=["X=1"]
        target 2
    "#]],
    );
    check_image(
        &setup(),
        text,
        &expect![[r#"
        linux/amd64 author=""
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","X=1"],"Entrypoint":["e"],"ArgsEscaped":true}
        base mkoci
        e ENV X=1
        L1 RUN /bin/sh -c one # buildkit
        e CMD ["c"]
        L2 RUN /bin/sh -c two # buildkit
        e ENTRYPOINT ["e"]
    "#]],
    );
}

#[test]
fn equal_steps_of_two_stages_are_one_vertex() {
    let text = "FROM busybox AS a
RUN same
FROM busybox AS b
RUN same
FROM scratch
COPY --from=a /x /
COPY --from=b /y /
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [a 1/2] FROM docker.io/library/busybox:latest@sha256:… @1-1
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [a 2/2] RUN same @2-2
            exec on 0 ["/bin/sh", "-c", "same"] in /
        2 [stage-2 1/2] COPY --from=a /x / @6-6
            copy on - 1:/x → / dir
        3 [stage-2 2/2] COPY --from=b /y / @7-7
            copy on 2 1:/y → / dir
        target 3
    "#]],
    );
}

#[test]
fn images_are_asked_for_all_at_once_and_only_if_the_target_needs_them() {
    let text = "FROM one AS a
FROM two AS b
FROM three
COPY --from=a / /
COPY --from=four / /
RUN --mount=from=five,target=/x true
";
    let (plan, rounds) = setup().lower(text);
    assert!(plan.is_ok());
    let expected = ["one", "three", "four", "five"].map(|name| format!("docker.io/library/{name}:latest linux/amd64"));
    assert_eq!(rounds, [expected]);
    let (_, rounds) = setup().target("b").lower(text);
    assert_eq!(rounds, [["docker.io/library/two:latest linux/amd64"]]);
}

#[test]
fn triggers_of_a_base_image_run_first_and_may_need_further_images() {
    let setup = setup().image("docker.io/library/onbuild:latest", |config| {
        config.config.on_build = vec!["COPY --from=tools /t /t".into(), "RUN echo $V".into(), "ENV T=1".into()];
    });
    let text = "FROM onbuild\nRUN own\n";
    let (_, rounds) = setup.lower(text);
    assert_eq!(
        rounds,
        [
            ["docker.io/library/onbuild:latest linux/amd64"],
            ["docker.io/library/tools:latest linux/amd64"]
        ]
    );
    check(
        &setup,
        text,
        &expect![[r#"
        0 [1/4] FROM docker.io/library/onbuild:latest@sha256:… @1-1
            image docker.io/library/onbuild:latest (1 layers) linux/amd64
        1 FROM docker.io/library/tools:latest@sha256:… @1-1
            image docker.io/library/tools:latest (1 layers) linux/amd64
        2 [2/4] ONBUILD COPY --from=tools /t /t @1-1
            copy on 0 1:/t → /t
        3 [3/4] ONBUILD RUN echo $V @1-1
            exec on 2 ["/bin/sh", "-c", "echo $V"] in /
        4 [4/4] RUN own @2-2
            exec on 3 ["/bin/sh", "-c", "own"] in / env=["T=1"]
        target 4
    "#]],
    );
    check_image(
        &setup,
        text,
        &expect![[r#"
        linux/amd64 author=""
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","T=1"],"Cmd":["sh"]}
        base mkoci
        L2 COPY /t /t # buildkit
        L3 RUN /bin/sh -c echo $V # buildkit
        e ENV T=1
        L4 RUN /bin/sh -c own # buildkit
    "#]],
    );
}

#[test]
fn triggers_of_a_stage_run_in_its_child_only() {
    let text = "FROM busybox AS par
ONBUILD COPY a /a
ONBUILD RUN echo hi
FROM par AS child
RUN own
FROM child
RUN last
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [par 1/1] FROM docker.io/library/busybox:latest@sha256:… @1-1
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [internal] load build context
            local context
        2 [child 1/3] ONBUILD COPY a /a @2-2
            copy on 0 1:a → /a
        3 [child 2/3] ONBUILD RUN echo hi @3-3
            exec on 2 ["/bin/sh", "-c", "echo hi"] in /
        4 [child 3/3] RUN own @5-5
            exec on 3 ["/bin/sh", "-c", "own"] in /
        5 [stage-2 1/1] RUN last @7-7
            exec on 4 ["/bin/sh", "-c", "last"] in /
        target 5
    "#]],
    );
}

#[test]
fn a_bad_trigger_is_reported_at_the_from_that_brought_it() {
    let check = |trigger: &str, expected: Expect| {
        let setup = setup().image("docker.io/library/x:latest", |config| {
            config.config.on_build = vec![trigger.into()];
        });
        expected.assert_eq(&setup.errors("FROM x\n"));
    };
    check(
        "FROM y",
        expect![[r#"
            1 `x` error[invalid-trigger]: the base image has a trigger that cannot run: FROM isn't allowed as an ONBUILD trigger
              note: the trigger is `FROM y`
        "#]],
    );
    check(
        "COPY --from=9 a b",
        expect![[r#"
            1 `x` error[unknown-stage]: invalid stage index 9
              note: this file has the stages 0 to 0
              note: in the base's trigger `COPY --from=9 a b`
        "#]],
    );
    check(
        "RUN --mount=type=foo true",
        expect![[r#"
            1 `x` error[invalid-mount]: unsupported mount type "foo"
              note: in the base's trigger `RUN --mount=type=foo true`
        "#]],
    );
}

#[test]
fn mounts_are_lowered_with_their_defaults() {
    let text = "FROM busybox
WORKDIR /wd
ENV N=name
RUN --mount=target=. --mount=type=bind,target=m,source=d,rw --mount=type=cache,target=/c/../k/ \\
  --mount=type=cache,id=$N,target=/d,sharing=locked,mode=0700,uid=5,gid=6,ro \\
  --mount=type=tmpfs,target=/t,size=1m --mount=type=cache,target=/s,from=busybox,source=/etc true
RUN --mount=type=secret,id=a/b --mount=type=secret,id=x,env=TOK,required --mount=type=secret,target=/run/k \\
  --mount=type=secret,id=y,env=Y,target=/y --mount=type=ssh --mount=type=ssh,id=o,required=true,mode=0660 true
";
    check(
        &setup().arg("BUILDKIT_CACHE_MOUNT_NS", "ns"),
        text,
        &expect![[r#"
        0 [stage-0 1/4] FROM docker.io/library/busybox:latest@sha256:… @1-1
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [stage-0 2/4] WORKDIR /wd @2-2
            mkdir on 0 /wd
        2 [internal] load build context
            local context
        3 [stage-0 3/4] RUN --mount=target=. --mount=type=bind,target=m,source=d,rw --mount=type=cache,target=/c/../k/   --mount=type=cache,id=name,target=/d,sharing=locked,mode=0700,uid=5,gid=6,ro   --mount=type=tmpfs,target=/t,size=1m --mount=type=cache,target=/s,from=busybox,source=/etc true @4-6
            exec on 1 ["/bin/sh", "-c", "true"] in /wd env=["N=name"]
            mount /wd Bind { from: (2), source: "/", writable: false }
            mount /wd/m Bind { from: (2), source: "/d", writable: true }
            mount /k Cache { id: "ns//k", sharing: Shared, from: None, writable: true, access: MountAccess { mode: 493, uid: 0, gid: 0 } }
            mount /d Cache { id: "ns/name", sharing: Locked, from: None, writable: false, access: MountAccess { mode: 448, uid: 5, gid: 6 } }
            mount /t Tmpfs { size_bytes: Some(1048576) }
            mount /s Cache { id: "ns//s", sharing: Shared, from: Some(((0), "/etc")), writable: true, access: MountAccess { mode: 493, uid: 0, gid: 0 } }
        4 [stage-0 4/4] RUN --mount=type=secret,id=a/b --mount=type=secret,id=x,env=TOK,required --mount=type=secret,target=/run/k   --mount=type=secret,id=y,env=Y,target=/y --mount=type=ssh --mount=type=ssh,id=o,required=true,mode=0660 true @7-8
            exec on 3 ["/bin/sh", "-c", "true"] in /wd env=["N=name"]
            mount /run/secrets/b Secret { id: "a/b", file: true, env: None, access: MountAccess { mode: 256, uid: 0, gid: 0 }, required: false }
            mount /run/secrets/x Secret { id: "x", file: false, env: Some("TOK"), access: MountAccess { mode: 256, uid: 0, gid: 0 }, required: true }
            mount /run/k Secret { id: "k", file: true, env: None, access: MountAccess { mode: 256, uid: 0, gid: 0 }, required: false }
            mount /y Secret { id: "y", file: true, env: Some("Y"), access: MountAccess { mode: 256, uid: 0, gid: 0 }, required: false }
            mount /run/buildkit/ssh_agent.0 Ssh { id: "default", access: MountAccess { mode: 384, uid: 0, gid: 0 }, required: false }
            mount /run/buildkit/ssh_agent.1 Ssh { id: "o", access: MountAccess { mode: 432, uid: 0, gid: 0 }, required: true }
        target 4
    "#]],
    );
}

#[test]
fn heredocs_become_text_scripts_or_stay_with_their_command() {
    let text = "FROM busybox
RUN <<E
echo one
E
RUN <<\"E\"
#!/bin/sh -e
false
E
RUN cat <<A <<-B | tr a-z A-Z
x
A
\ty
\tB
SHELL [\"/bin/bash\", \"-c\"]
RUN 3<<A
fd
A
";
    check(
        &setup(),
        text,
        &expect![[r##"
            0 [1/5] FROM docker.io/library/busybox:latest@sha256:… @1-1
                image docker.io/library/busybox:latest (1 layers) linux/amd64
            1 [2/5] RUN <<E (echo one) @2-4
                exec on 0 ["/bin/sh", "-c", "echo one\n"] in /
            2 [3/5] RUN <<"E" (#!/bin/sh -e...) @5-8
                exec on 1 ["/bin/sh", "-c", "/dev/pipes/E"] in / script=E:"#!/bin/sh -e\nfalse\n"
            3 [4/5] RUN cat <<A <<-B | tr a-z A-Z @9-13
                exec on 2 ["/bin/sh", "-c", "cat <<A <<-B | tr a-z A-Z\nx\nA\n\ty\nB"] in /
            4 [5/5] RUN 3<<A (fd) @15-17
                exec on 3 ["/bin/bash", "-c", "fd\n"] in /
            target 4
        "##]],
    );
    check_image(
        &setup(),
        text,
        &expect![[r#"
            linux/amd64 author=""
            {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"],"Shell":["/bin/bash","-c"]}
            base mkoci
            L1 RUN /bin/sh -c echo one⏎ # buildkit
            L2 RUN /bin/sh -c /dev/pipes/E # buildkit
            L3 RUN /bin/sh -c cat <<A <<-B | tr a-z A-Z⏎x⏎A⏎	y⏎B # buildkit
            e SHELL [/bin/bash -c]
            L4 RUN /bin/bash -c fd⏎ # buildkit
        "#]],
    );
}

#[test]
fn heredoc_files_expand_unless_their_mark_is_quoted() {
    let text = "FROM scratch
ENV V=val
COPY <<A <<'B' /d/
$V \\$V \"q\"
A
$V \\$V
B
COPY <<-A /1
\t\tx
\ty
\tA
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [1/2] COPY <<A <<'B' /d/ @3-7
            copy on - <<A:"val $V \"q\"\n" <<B:"$V \\$V\n" → /d dir
        1 [2/2] COPY <<-A /1 @8-11
            copy on 0 <<A:"x\ny\n" → /1
        target 1
    "#]],
    );
}

#[test]
fn copies_carry_their_flags_and_clean_destinations() {
    let text = "FROM busybox
ENV D=dir O=7
WORKDIR /w
COPY f .
COPY f sub
COPY f sub2/
COPY $D/x /a/../b/./c
COPY --chown=$O --chmod=u+rwX,go=r --link f /l
COPY --parents --exclude=*.md --exclude=$D x/./y /p/
ADD t.tar /t
ADD --unpack=false t.tar /t/
COPY --chown=joe: [\"a b\", \"/with blank/\"]
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [1/11] FROM docker.io/library/busybox:latest@sha256:… @1-1
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [2/11] WORKDIR /w @3-3
            mkdir on 0 /w
        2 [internal] load build context
            local context
        3 [3/11] COPY f . @4-4
            copy on 1 2:f → /w dir
        4 [4/11] COPY f sub @5-5
            copy on 3 2:f → /w/sub
        5 [5/11] COPY f sub2/ @6-6
            copy on 4 2:f → /w/sub2 dir
        6 [6/11] COPY dir/x /a/../b/./c @7-7
            copy on 5 2:dir/x → /b/c
        7 [7/11] COPY --chown=7 --chmod=u+rwX,go=r --link f /l @8-8
            copy on 6 2:f → /l Some(Owner { user: Some(Number(7)), group: None }) Some(Symbolic("u+rwX,go=r")) link
        8 [8/11] COPY --parents --exclude=*.md --exclude=dir x/./y /p/ @9-9
            copy on 7 2:x/./y → /p dir parents exclude=["*.md", "$D"]
        9 [9/11] ADD t.tar /t @10-10
            copy on 8 2:t.tar → /t unpack
        10 [10/11] ADD --unpack=false t.tar /t/ @11-11
            copy on 9 2:t.tar → /t dir
        11 [11/11] COPY --chown=joe: ["a b", "/with blank/"] @12-12
            copy on 10 2:a b → /with blank dir Some(Owner { user: Some(Name("joe")), group: Some(Number(0)) })
        target 11
    "#]],
    );
}

#[test]
fn remote_sources_are_vertices_of_their_own() {
    let text = "FROM scratch
ARG REF=v1
ADD https://me:word@e.example/a%20b?token=1 local https://e.example/r.git#$REF:sub /d/
ADD --unpack=true https://e.example/x[1].tgz /d
ADD --keep-git-dir=true --checksum=ab12 git@e.example:r.git?submodules=0 /d
ADD github.com/o/r /d
";
    check(
        &setup(),
        text,
        &expect![[r#"
        0 [internal] load https://e.example/a%20b?… @3-3
            http https://me:word@e.example/a%20b?token=1 as a b
        1 [internal] load build context
            local context
        2 [internal] load https://e.example/r.git @3-3
            git GitRemote { address: "https://e.example/r.git", reference: "v1", checksum: None, by_commit: false } GitFiles { subdir: "sub", keep_git_dir: false, submodules: true, times: Commit }
        3 [1/4] ADD https://e.example/a%20b?token=1 local https://e.example/r.git#v1:sub /d/ @3-3
            copy on - 0:/a b 1:local 2:/ → /d dir unpack
        4 [internal] load https://e.example/x[1].tgz @4-4
            http https://e.example/x[1].tgz as x[1].tgz
        5 [2/4] ADD --unpack=true https://e.example/x[1].tgz /d @4-4
            copy on 3 4:/x\[1].tgz → /d unpack-everything
        6 [internal] load git@e.example:r.git @5-5
            git GitRemote { address: "git@e.example:r.git", reference: "", checksum: Some("ab12"), by_commit: false } GitFiles { subdir: "", keep_git_dir: true, submodules: false, times: Commit }
        7 [3/4] ADD --keep-git-dir=true --checksum=ab12 git@e.example:r.git?submodules=0 /d @5-5
            copy on 5 6:/ → /d unpack
        8 [4/4] ADD github.com/o/r /d @6-6
            copy on 7 1:github.com/o/r → /d unpack
        target 8
    "#]],
    );
}

#[test]
fn selections_name_what_each_context_gives() {
    let text = "FROM busybox
COPY a.txt ./b/../c /d/
COPY ../x* /
RUN --mount=source=src,target=/m --mount=target=/n true
COPY --from=assets /img/ /
COPY --from=busybox /etc /
";
    let plan = setup().context("assets", NamedContext::Local).plan(text);
    let selections = plan.selections();
    assert_eq!(selections.len(), 2);
    assert_eq!(selections["context"], [".", "a.txt", "c", "src", "x*"]);
    assert_eq!(selections["assets"], ["img"]);
}

#[test]
fn named_contexts_replace_images_and_stages() {
    let setup = setup()
        .context("base", NamedContext::Image("other:1".into()))
        .context("debian", NamedContext::Image("oci-layout://deb".into()))
        .context("files", NamedContext::Local)
        .context("scratch", NamedContext::Local);
    let text = "FROM nowhere AS base
RUN skipped
FROM docker.io/library/debian
COPY --from=base /a /
COPY --from=files b /
";
    check(
        &setup,
        text,
        &expect![[r#"
        0 [context debian] oci-layout://deb @3-3
            image oci-layout://deb (1 layers) linux/amd64
        1 [context base] docker.io/library/other:1 @4-4
            image docker.io/library/other:1 (1 layers) linux/amd64
        2 [stage-1 1/3] COPY --from=base /a / @4-4
            copy on 0 1:/a → / dir
        3 [context files] load from client
            local files
        4 [stage-1 2/3] COPY --from=files b / @5-5
            copy on 2 3:b → / dir
        target 4
    "#]],
    );
    let over_files = "FROM debian:12 AS other-tag\nFROM files\nCOPY --from=other-tag /x /\nRUN own\n";
    check(
        &setup,
        over_files,
        &expect![[r#"
        0 [other-tag 1/1] FROM docker.io/library/debian:12@sha256:… @1-1
            image docker.io/library/debian:12 (1 layers) linux/amd64
        1 [context files] load from client
            local files
        2 [context files] as root filesystem @2-2
            copy on - 1:/ → / dir
        3 [stage-1 1/2] COPY --from=other-tag /x / @3-3
            copy on 2 0:/x → / dir
        4 [stage-1 2/2] RUN own @4-4
            exec on 3 ["/bin/sh", "-c", "own"] in /
        target 4
    "#]],
    );
    check(
        &setup,
        "FROM scratch\nCOPY a /\n",
        &expect![[r#"
        0 [internal] load build context
            local context
        1 [1/1] COPY a / @2-2
            copy on - 0:a → / dir
        target 1
    "#]],
    );
}

#[test]
fn a_named_context_for_one_platform_goes_before_the_general_one() {
    let setup = setup()
        .context("base", NamedContext::Image("general".into()))
        .context("base::linux/amd64", NamedContext::Image("special".into()))
        .context("base::linux/arm64", NamedContext::Image("wrong".into()));
    let (_, rounds) = setup.lower("FROM base\n");
    assert_eq!(rounds, [["docker.io/library/special:latest linux/amd64"]]);
}

#[test]
fn platforms_of_stages_are_their_own() {
    let mut setup = setup();
    setup.options.platform = "linux/arm64".parse().unwrap();
    setup.options.multi_platform = true;
    let text = "ARG P=linux/arm/v7
FROM --platform=$BUILDPLATFORM golang AS build
ARG TARGETARCH
RUN GOARCH=$TARGETARCH go build
FROM --platform=$P busybox AS old
FROM alpine
COPY --from=build /a /
COPY --from=old /a /b
";
    check(
        &setup,
        text,
        &expect![[r#"
        0 [linux/amd64 build 1/2] FROM docker.io/library/golang:latest@sha256:… @2-2
            image docker.io/library/golang:latest (1 layers) linux/amd64
        1 [linux/amd64->arm64 build 2/2] RUN GOARCH=arm64 go build @4-4
            exec on 0 ["/bin/sh", "-c", "GOARCH=$TARGETARCH go build"] in / env=["TARGETARCH=arm64"]
        2 [linux/arm/v7 old 1/1] FROM docker.io/library/busybox:latest@sha256:… @5-5
            image docker.io/library/busybox:latest (1 layers) linux/arm/v7
        3 [linux/arm64 stage-2 1/3] FROM docker.io/library/alpine:latest@sha256:… @6-6
            image docker.io/library/alpine:latest (1 layers) linux/arm64
        4 [linux/arm64 stage-2 2/3] COPY --from=build /a / @7-7
            copy on 3 1:/a → / dir
        5 [linux/arm64 stage-2 3/3] COPY --from=old /a /b @8-8
            copy on 4 2:/a → /b
        target 5
    "#]],
    );
}

#[test]
fn a_step_shows_values_but_never_secret_ones() {
    let text = "FROM busybox
ARG V=1
ENV TOK=old
RUN --mount=type=secret,id=t,env=TOK use $V $TOK '$V' ${W}
";
    let plan = setup().plan(text);
    assert_eq!(
        plan.definition.vertices[1].name,
        "[2/2] RUN --mount=type=secret,id=t,env=TOK use 1 **** '$V' ${W}"
    );
}

#[test]
fn proxies_reach_steps_but_neither_history_nor_image() {
    let setup = setup()
        .arg("http_proxy", "http://p")
        .arg("BUILDKIT_SANDBOX_HOSTNAME", "box");
    let text = "FROM busybox\nRUN a\nARG http_proxy\nRUN b\n";
    check(
        &setup,
        text,
        &expect![[r#"
        0 [1/3] FROM docker.io/library/busybox:latest@sha256:… @1-1
            image docker.io/library/busybox:latest (1 layers) linux/amd64
        1 [2/3] RUN a @2-2
            exec on 0 ["/bin/sh", "-c", "a"] in / proxy=[("HTTP_PROXY", "http://p"), ("http_proxy", "http://p")] hostname=box
        2 [3/3] RUN b @4-4
            exec on 1 ["/bin/sh", "-c", "b"] in / env=["http_proxy=http://p"] proxy=[("HTTP_PROXY", "http://p")] hostname=box
        target 2
    "#]],
    );
    check_image(
        &setup,
        text,
        &expect![[r#"
        linux/amd64 author=""
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]}
        base mkoci
        L1 RUN /bin/sh -c a # buildkit
        e ARG http_proxy=http://p
        L2 RUN |1 http_proxy=http://p /bin/sh -c b # buildkit
    "#]],
    );
}

#[test]
fn the_environment_of_a_step_is_ordered_by_last_assignment_that_of_the_image_by_first() {
    let setup = setup().image("docker.io/library/b:latest", |config| {
        config.config.env = vec!["PATH=/bin".into(), "Z=1".into()];
    });
    let plan = setup.plan("FROM b\nENV A=1 B=2\nENV Z=9\nARG A=7\nRUN x\n");
    let text = vertices(&plan);
    assert!(text.contains(r#"env=["PATH=/bin", "B=2", "Z=9", "A=7"]"#), "{text}");
    assert_eq!(plan.image.config.env, ["PATH=/bin", "Z=9", "A=1", "B=2"]);
}

#[test]
fn an_entrypoint_drops_only_an_inherited_command() {
    let cmd = |text: &str| setup().plan(text).image.config.cmd;
    assert_eq!(cmd("FROM b\n"), Some(vec!["sh".to_owned()]));
    assert_eq!(cmd("FROM b\nENTRYPOINT [\"e\"]\n"), None);
    assert_eq!(
        cmd("FROM b\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n"),
        Some(vec!["c".to_owned()])
    );
    assert_eq!(cmd("FROM b AS p\nCMD [\"c\"]\nFROM p\nENTRYPOINT [\"e\"]\n"), None);
    assert_eq!(cmd("FROM b\nCMD []\n"), None);
    assert_eq!(
        cmd("FROM b\nCMD\n"),
        Some(["/bin/sh", "-c", ""].map(str::to_owned).to_vec())
    );
}

#[test]
fn a_directory_made_by_workdir_belongs_to_the_user() {
    let text = vertices(&setup().plan("FROM b\nUSER 7\nWORKDIR /u\nUSER joe:grp\nWORKDIR v\n"));
    assert!(
        text.contains("/u Owner { user: Some(Number(7)), group: None }"),
        "{text}"
    );
    let named = "/u/v Owner { user: Some(Name(\"joe\")), group: Some(Name(\"grp\")) }";
    assert!(text.contains(named), "{text}");
}

#[test]
fn times_are_limited_by_option_argument_or_global_default() {
    let epoch = |setup: Setup, text: &str| setup.plan(text).source_date_epoch;
    let text = "ARG SOURCE_DATE_EPOCH=12\nFROM scratch\n";
    assert_eq!(epoch(setup(), text), Some(12));
    assert_eq!(epoch(setup().arg("SOURCE_DATE_EPOCH", "7"), text), Some(7));
    assert_eq!(epoch(setup(), "FROM scratch\n"), None);
    let mut wish = setup().arg("SOURCE_DATE_EPOCH", "7");
    wish.options.source_date_epoch = Some(3);
    assert_eq!(epoch(wish, text), Some(3));
    expect![[r#"
        1 `soon` error[invalid-epoch]: invalid SOURCE_DATE_EPOCH: soon
          help: give seconds since 1970 as a decimal number
    "#]]
    .assert_eq(&setup().errors("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n"));
}
