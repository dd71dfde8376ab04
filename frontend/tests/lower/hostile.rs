//! Dockerfiles that want what is not theirs. Named after the rows of `docs/security.md`.

use expect_test::{Expect, expect};

use crate::support::setup;

/// What each is refused for, one below the other.
fn all_errors(texts: &[&str], expected: &Expect) {
    let errors: Vec<String> = texts
        .iter()
        .map(|text| setup().errors(&format!("FROM b\n{text}")))
        .collect();
    expected.assert_eq(&errors.concat());
}

#[test]
fn t01_no_step_begins_among_processes_of_the_kernel() {
    all_errors(
        &[
            "WORKDIR /proc",
            "WORKDIR /proc/self/fd/7",
            "WORKDIR /x/../proc/1/root",
            "WORKDIR /\nWORKDIR proc/self/cwd",
            "ARG D=/proc/self\nWORKDIR $D/fd/8",
        ],
        &expect![[r#"
            2 `/proc` error[invalid-workdir]: `WORKDIR /proc` is in the file system of the kernel's processes
              help: `RUN cd …` enters a directory of `/proc` for one step
            2 `/proc/self/fd/7` error[invalid-workdir]: `WORKDIR /proc/self/fd/7` is in the file system of the kernel's processes
              help: `RUN cd …` enters a directory of `/proc` for one step
            2 `/x/../proc/1/root` error[invalid-workdir]: `WORKDIR /x/../proc/1/root` is in the file system of the kernel's processes
              help: `RUN cd …` enters a directory of `/proc` for one step
            3 `proc/self/cwd` error[invalid-workdir]: `WORKDIR /proc/self/cwd` is in the file system of the kernel's processes
              help: `RUN cd …` enters a directory of `/proc` for one step
            3 `$D/fd/8` error[invalid-workdir]: `WORKDIR /proc/self/fd/8` is in the file system of the kernel's processes
              help: `RUN cd …` enters a directory of `/proc` for one step
        "#]],
    );
    setup().plan("FROM b\nWORKDIR /process\nWORKDIR /srv/proc\n");
}

#[test]
fn t08_options_of_mounts_are_known_and_said_once() {
    all_errors(
        &[
            "RUN --mount=type=bind,target=/x,bind-propagation=shared true",
            "RUN --mount=type=bind,target=/x,z true",
            "RUN --mount=type=bind,target=/x,U=true true",
            "RUN --mount=type=bind,target=/x,relabel=shared true",
            "RUN --mount=type=bind,target=/x,target=/y true",
            "RUN --mount=type=bind,src=a,source=b,target=/y true",
            "RUN --mount=type=bind,dst=/a,destination=/y true",
            "RUN --mount=type=bind,target=/x,ro,rw true",
            "RUN --mount=type=bind,target=/x,ro=true,readonly=false true",
            "RUN --mount=type=bind,type=cache,target=/x true",
            "RUN --mount=type=cache,target=/x,uid=1,uid=0 true",
        ],
        &expect![[r#"
            2 `bind-propagation` error[invalid-mount]: unexpected key 'bind-propagation' in 'bind-propagation=shared'
            2 `z` error[invalid-mount]: unexpected key 'z' in 'z'
            2 `U` error[invalid-mount]: unexpected key 'u' in 'u=true'
            2 `relabel` error[invalid-mount]: unexpected key 'relabel' in 'relabel=shared'
            2 `target` error[invalid-mount]: the target of a mount is given more than once
            2 `source` error[invalid-mount]: the source of a mount is given more than once
            2 `destination` error[invalid-mount]: the target of a mount is given more than once
            2 `rw` error[invalid-mount]: a mount is said to be readable or writable more than once
            2 `readonly` error[invalid-mount]: a mount is said to be readable or writable more than once
            2 `type` error[invalid-mount]: the type of a mount is given more than once
            2 `uid` error[invalid-mount]: the uid of a mount is given more than once
        "#]],
    );
}

#[test]
fn t10_nothing_is_mounted_over_what_the_kernel_shows() {
    all_errors(
        &[
            "RUN --mount=type=tmpfs,target=/ true",
            "RUN --mount=type=tmpfs,target=/proc true",
            "RUN --mount=type=tmpfs,target=/proc/self/fd true",
            "RUN --mount=type=tmpfs,target=/x/../sys/fs true",
            "RUN --mount=type=tmpfs,target=/dev true",
            "WORKDIR /sys\nRUN --mount=type=cache,target=kernel true",
            "RUN --mount=type=secret,id=a,target=/proc/sys/kernel/core_pattern true",
        ],
        &expect![[r#"
            2 `type=tmpfs,target=/` error[invalid-mount]: invalid mount target "/"
            2 `type=tmpfs,target=/proc` error[invalid-mount]: invalid mount target "/proc"
              note: `/proc`, `/sys` and `/dev` of a step are those of its sandbox
            2 `type=tmpfs,target=/proc/self/fd` error[invalid-mount]: invalid mount target "/proc/self/fd"
              note: `/proc`, `/sys` and `/dev` of a step are those of its sandbox
            2 `type=tmpfs,target=/x/../sys/fs` error[invalid-mount]: invalid mount target "/sys/fs"
              note: `/proc`, `/sys` and `/dev` of a step are those of its sandbox
            2 `type=tmpfs,target=/dev` error[invalid-mount]: invalid mount target "/dev"
              note: `/proc`, `/sys` and `/dev` of a step are those of its sandbox
            3 `type=cache,target=kernel` error[invalid-mount]: invalid mount target "/sys/kernel"
              note: `/proc`, `/sys` and `/dev` of a step are those of its sandbox
            2 `type=secret,id=a,target=/proc/sys/kernel/core_pattern` error[invalid-mount]: invalid mount target "/proc/sys/kernel/core_pattern"
              note: `/proc`, `/sys` and `/dev` of a step are those of its sandbox
        "#]],
    );
    setup().plan("FROM b\nRUN --mount=type=tmpfs,target=/dev/shm --mount=type=tmpfs,target=/device true\n");
}

#[test]
fn t12_no_owner_wraps_to_root() {
    all_errors(
        &[
            "RUN --mount=type=cache,target=/c,uid=4294967296 true",
            "RUN --mount=type=cache,target=/c,gid=4294967295 true",
            "RUN --mount=type=secret,id=a,uid=-1 true",
            "COPY --chown=4294967296 a /",
            "COPY --chown=0:2147483647 a /",
        ],
        &expect![[r#"
            2 `4294967296` error[invalid-mount]: invalid value for uid: 4294967296
            2 `4294967295` error[invalid-mount]: invalid value for gid: 4294967295
            2 `-1` error[invalid-mount]: invalid value for uid: -1
            2 `4294967296` error[invalid-chown]: invalid id `4294967296`: expected a number up to 2147483646
            2 `0:2147483647` error[invalid-chown]: invalid id `2147483647`: expected a number up to 2147483646
        "#]],
    );
}
