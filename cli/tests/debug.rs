//! The debug commands: what rbuild makes of a file, a word, an ignore file. They touch neither store nor server.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use crate::support::Place;

/// The JSON that a command prints, whatever it ends with.
fn json_of(place: &Place, arguments: &[&str], code: i32) -> Value {
    let outcome = place.run(arguments).exits(code);
    assert_eq!(outcome.stderr, "");
    assert!(!place.root().exists(), "a store was made");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn parsed(text: &str) -> Value {
    let place = Place::new();
    place.file("Dockerfile", text);
    json_of(&place, &["debug", "parse", "Dockerfile", "--json"], 0)
}

/// The one instruction behind `FROM a`, without its lines.
fn instruction(text: &str) -> Value {
    let mut file = parsed(&format!("FROM a\n{text}\n"));
    let mut instruction = file["stages"][0]["instructions"][0].take();
    instruction.as_object_mut().unwrap().remove("lines");
    instruction
}

fn answers(command: &str, cases: &[Value]) -> Vec<Value> {
    let stdin: String = cases.iter().map(|case| format!("{case}\n")).collect();
    let outcome = Place::new().run_with_stdin(&["debug", command, "--jsonl"], stdin.as_bytes());
    let outcome = outcome.exits(0);
    outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn shows(text: &str, arguments: &[&str], expected: &Expect) {
    let place = Place::new();
    place.file("Dockerfile", text);
    let outcome = place.run(arguments).exits(0);
    assert_eq!(outcome.stderr, "");
    expected.assert_eq(&outcome.stdout);
}

#[test]
fn a_file_is_shown_stage_by_stage() {
    let file =
        parsed("# escape=`\nARG V=1\nFROM --platform=$BUILDPLATFORM golang:$V AS Build\nRUN a `\n  b\nFROM scratch\n");
    assert_eq!(
        file,
        json!({
            "ok": true, "escape": "`", "directives": {"escape": "`"},
            "meta_args": [{"name": "arg", "lines": [2, 2], "args": [{"name": "V", "value": "1"}]}],
            "stages": [
                {"index": 0, "name": "build", "base": "golang:$V", "platform": "$BUILDPLATFORM", "lines": [3, 3],
                 "instructions": [{"name": "run", "lines": [4, 5], "cmd": ["a   b"], "shell_form": true}]},
                {"index": 1, "base": "scratch", "lines": [6, 6]},
            ],
        })
    );
}

#[test]
fn every_instruction_has_its_members() {
    for (text, expected) in [
        (
            "ENV A=\"b c\" D=",
            json!({"name": "env", "pairs": [["A", "\"b c\""], ["D", ""]]}),
        ),
        ("LABEL a b c", json!({"name": "label", "pairs": [["a", "b c"]]})),
        (
            "ARG A \"B\"=",
            json!({"name": "arg", "args": [{"name": "A", "value": null}, {"name": "\"B\"", "value": ""}]}),
        ),
        ("MAINTAINER me", json!({"name": "maintainer", "maintainer": "me"})),
        ("CMD [\"a\"]", json!({"name": "cmd", "cmd": ["a"]})),
        ("CMD", json!({"name": "cmd", "shell_form": true})),
        (
            "EXPOSE 9 80/udp 10",
            json!({"name": "expose", "ports": ["10", "80/udp", "9"]}),
        ),
        ("USER u:g", json!({"name": "user", "user": "u:g"})),
        ("WORKDIR a b", json!({"name": "workdir", "path": "a b"})),
        ("VOLUME [\"/a\"]", json!({"name": "volume", "volumes": ["/a"]})),
        ("STOPSIGNAL TERM", json!({"name": "stopsignal", "signal": "TERM"})),
        ("SHELL [\"a\"]", json!({"name": "shell", "shell": ["a"]})),
        (
            "ONBUILD RUN <<E\nx\nE",
            json!({"name": "onbuild", "expression": "RUN <<E\nx\nE"}),
        ),
        (
            "HEALTHCHECK --interval=1s --retries=3 CMD x",
            json!({"name": "healthcheck", "test": ["CMD-SHELL", "x"], "interval_ns": 1_000_000_000, "retries": 3}),
        ),
        ("HEALTHCHECK NONE", json!({"name": "healthcheck", "test": ["NONE"]})),
    ] {
        assert_eq!(instruction(text), expected, "{text}");
    }
}

#[test]
fn files_and_scripts_bring_their_text() {
    assert_eq!(
        instruction("COPY --from=b --link --exclude=x --exclude=y a <<-\"E\" /d/\n\ttext\n\tE"),
        json!({"name": "copy", "sources": ["a"], "dest": "/d/", "from": "b", "link": true, "exclude": ["x", "y"],
               "heredocs": [{"name": "E", "data": "text\n"}]})
    );
    assert_eq!(
        instruction("ADD --unpack --keep-git-dir=true --checksum=c a /d"),
        json!({"name": "add", "sources": ["a"], "dest": "/d", "unpack": true, "keep_git_dir": true, "checksum": "c"})
    );
    assert_eq!(
        instruction("RUN --network=none --security=sandbox --device=v/c=d,required <<-E\n\tx\nE"),
        json!({"name": "run", "cmd": ["<<-E"], "shell_form": true, "network": "none",
               "heredocs": [{"name": "E", "data": "x\n", "chomp": true}],
               "devices": [{"name": "v/c=d", "required": true}]})
    );
}

#[test]
fn mounts_are_read_unless_one_has_a_variable() {
    let run = instruction(
        "RUN --mount=type=cache,target=/c,sharing=locked,mode=0755,uid=0 --mount=type=secret,id=s,required,env=E x",
    );
    assert_eq!(
        run["mounts"],
        json!([
            {"type": "cache", "target": "/c", "sharing": "locked", "mode": 0o755, "uid": 0},
            {"type": "secret", "readonly": true, "id": "s", "required": true, "env": "E"},
        ])
    );
    assert_eq!(
        instruction("RUN --mount=target=/$A --mount=target=/b x")["mounts"],
        Value::Null
    );
    let wrong = instruction("RUN --mount=required,type=secret,id=a x");
    assert_eq!(wrong["mount_error"], "unexpected key 'required' for mount type 'bind'");
}

#[test]
fn the_first_error_is_that_of_a_builder_that_stops_there() {
    for (text, line) in [
        // What an instruction says comes after what all of them look like.
        ("FROM a\nFOO\nCMD [1]\n", 3),
        ("FROM a\nRUN x\\\n --y\nUSER\nFOO\n", 4),
        ("RUN --x\nFROM a\nENV A\n", 3),
        ("FROM a\nRUN <<E\nx\n", 2),
        ("FROM a\nCOPY \\\n--nope a b\n", 2),
        ("# escape=`\n# escape=`\nFROM a\n", 1),
        ("# only\n# comments\n", 2),
        ("FROM a\nUN <<E\nb\n", 2),
        ("FOO\nENV =a b\n", 2),
        ("FROM a\nRUN --network= x\n", 2),
        ("FROM a\nRUN --mount= x\n", 2),
        ("FROM a\nRUN --device=a=b,c=d x\n", 2),
    ] {
        let place = Place::new();
        place.file("Dockerfile", text);
        let answer = json_of(&place, &["debug", "parse", "Dockerfile", "--json"], 1);
        assert_eq!(
            (&answer["ok"], &answer["error"]["line"]),
            (&json!(false), &json!(line)),
            "{text}"
        );
    }
}

#[test]
fn a_file_from_stdin_is_shown_for_people() {
    let place = Place::new();
    let text = "FROM a AS b\nRUN <<E\nx\ny\nE\n";
    let outcome = place.run_with_stdin(&["debug", "parse", "-"], text.as_bytes()).exits(0);
    expect![[r#"
        1       FROM a AS b
        2-5       RUN <<E
                    <<E: 2 lines
    "#]]
    .assert_eq(&outcome.stdout);
    let outcome = place
        .run_with_stdin(&["debug", "parse", "-"], b"FROM a\nRNU x\n")
        .exits(1);
    assert_eq!(outcome.stdout, "");
    expect![[r"
        error[unknown-instruction]: unknown instruction: RNU (did you mean RUN?)
          --> stdin:2:1
           2 | RNU x
             | ^^^
    "]]
    .assert_eq(&outcome.stderr);
}

const GRAPH: &str = "\
FROM busybox AS one
ENV A=1
FROM one AS two
COPY --from=nginx:1 / /
RUN --mount=from=three,target=/m x
FROM scratch AS three
MAINTAINER me
FROM two
COPY --from=2 / /
WORKDIR /w/
";

#[test]
fn a_graph_tells_what_stages_and_targets_need() {
    let place = Place::new();
    place.file("Dockerfile", &GRAPH.replace("from=three", "from=one"));
    let graph = json_of(&place, &["debug", "graph", "Dockerfile", "--json", "--stub-images"], 0);
    assert_eq!(
        graph["stages"],
        json!([
            {"index": 0, "name": "one", "base_image": "docker.io/library/busybox:latest"},
            {"index": 1, "name": "two", "base_stage": 0, "uses_stages": [0], "uses_images": ["docker.io/library/nginx:1"]},
            {"index": 2, "name": "three", "base_image": "scratch"},
            {"index": 3, "base_stage": 1, "uses_stages": [2]},
        ])
    );
    let targets = graph["targets"].as_array().unwrap();
    let needed: Vec<_> = targets
        .iter()
        .map(|target| (&target["target"], &target["stages_needed"]))
        .collect();
    let expected = [
        ("", json!([0, 1, 2, 3])),
        ("one", json!([0])),
        ("two", json!([0, 1])),
        ("three", json!([2])),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(name, needed)| (json!(name), needed))
        .collect();
    assert_eq!(
        needed,
        expected.iter().map(|(name, needed)| (name, needed)).collect::<Vec<_>>()
    );
    assert_eq!(
        targets[0]["image"],
        json!({"architecture": "amd64", "os": "linux", "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1"], "WorkingDir": "/w/"}})
    );
    assert_eq!(targets[3]["image"]["author"], "me");
}

#[test]
fn a_stage_below_is_an_edge_and_no_way_to_build() {
    let place = Place::new();
    place.file("Dockerfile", GRAPH);
    let graph = json_of(&place, &["debug", "graph", "Dockerfile", "--json", "--stub-images"], 0);
    assert_eq!(graph["stages"][1]["uses_stages"], json!([2]));
    let ok: Vec<_> = graph["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| &target["ok"])
        .collect();
    assert_eq!(ok, [false, true, false, true]);
    let circle = "FROM a AS x\nCOPY --from=y / /\nFROM x AS y\n";
    place.file("Dockerfile", circle);
    let graph = json_of(&place, &["debug", "graph", "Dockerfile", "--json", "--stub-images"], 1);
    assert_eq!(graph["error"]["message"], "circular dependency detected on stage: x");
}

#[test]
fn a_graph_is_drawn_for_people_and_for_graphviz() {
    let text = "FROM a AS one\nFROM scratch\nCOPY --from=one / /\nCOPY --from=b:2 / /\n";
    let graph = ["debug", "graph", "Dockerfile", "--stub-images"];
    shows(
        text,
        &graph,
        &expect![[r"
            stage 0 (one) from docker.io/library/a:latest
            stage 1 from scratch
              reads stage 0 (one)
              reads docker.io/library/b:2
            the last stage needs stage 0 (one), stage 1
            target one needs stage 0 (one)
        "]],
    );
    shows(
        text,
        &[&graph[..], &["--dot"]].concat(),
        &expect![[r#"
            digraph stages {
              rankdir=LR;
              s0 [shape=box, label="stage 0 (one)"];
              s1 [shape=box, label="stage 1"];
              "docker.io/library/a:latest" -> s0;
              "scratch" -> s1;
              s0 -> s1 [style=dashed];
              "docker.io/library/b:2" -> s1 [style=dashed];
            }
        "#]],
    );
}

#[test]
fn a_target_that_cannot_be_built_is_shown_with_its_reason_once() {
    let place = Place::new();
    place.file("Dockerfile", "FROM a AS one\nUSER ${U?}\nFROM one\nFROM b AS two\n");
    let outcome = place.run(&["debug", "graph", "Dockerfile", "--stub-images"]).exits(1);
    let targets: Vec<&str> = outcome.stdout.lines().skip(3).collect();
    assert_eq!(
        targets,
        [
            "the last stage needs stage 2 (two)",
            "target one cannot be built",
            "target two needs stage 2 (two)"
        ]
    );
    let outcome = place
        .run(&["debug", "graph", "Dockerfile", "--stub-images", "--target", "one"])
        .exits(1);
    expect![[r#"
        error[invalid-substitution]: failed to process "${U?}": U: is not allowed to be unset
          --> Dockerfile:2:6
           2 | USER ${U?}
             |      ^^^^^
    "#]]
    .assert_eq(&outcome.stderr);
}

#[test]
fn without_stubs_only_files_without_images_have_a_graph() {
    let graph = ["debug", "graph", "Dockerfile"];
    shows(
        "FROM scratch AS one\nFROM one\n",
        &graph,
        &expect![[r"
            stage 0 (one) from scratch
            stage 1 from stage 0 (one)
            the last stage needs stage 0 (one), stage 1
            target one needs stage 0 (one)
        "]],
    );
    let place = Place::new();
    place.file("Dockerfile", "ARG TAG\nFROM busybox:$TAG\n");
    let outcome = place.run(&[&graph[..], &["--build-arg", "TAG=1"]].concat()).exits(2);
    expect![[r"
        error: the config of the image `docker.io/library/busybox:1` is needed, and no registry is asked
        help: add `--stub-images` to take every image for the same small one
    "]]
    .assert_eq(&outcome.stderr);
}

#[test]
fn words_are_expanded_line_by_line() {
    let case =
        |id: u32, input: &str, opts: Value| json!({"id": id, "input": input, "env": ["A=1 2", "A=x y"], "opts": opts});
    let cases = [
        case(1, "'$A' $A$B", json!({})),
        case(
            2,
            "'$A' \\$A $B",
            json!({"raw_quotes": true, "raw_escapes": true, "skip_unset_env": true}),
        ),
        case(3, "'$A'", json!({"skip_process_quotes": true})),
        case(4, "\"$A", json!({})),
        json!({"id": "tick", "input": "`$A\\", "escape": "`"}),
    ];
    assert_eq!(
        answers("shell", &cases),
        [
            json!({"id": 1, "word": "$A x y", "words": ["$A", "x", "y"], "unset": ["B"]}),
            json!({"id": 2, "word": "'$A' \\$A $B", "words": ["'$A'", "\\$A", "$B"], "unset": ["B"]}),
            json!({"id": 3, "word": "'x y'", "words": ["'x", "y'"], "unset": []}),
            json!({"id": 4, "word": null, "words": null, "unset": []}),
            json!({"id": "tick", "word": "$A\\", "words": ["$A\\"], "unset": []}),
        ]
    );
}

#[test]
fn ignore_files_are_matched_read_and_walked() {
    let place = Place::new();
    place
        .file("d/keep", "")
        .file("d/other", "")
        .file("e/f", "")
        .file("top", "");
    std::os::unix::fs::symlink("../top", place.work().join("e/link")).unwrap();
    let dir = place.work();
    let cases = [
        json!({"id": 1, "kind": "match", "patterns": ["d", "!d/keep"], "path": "d/keep"}),
        json!({"id": 2, "kind": "match", "patterns": ["d"], "path": "d/x/y"}),
        json!({"id": 3, "kind": "match", "patterns": ["[a"], "path": "a"}),
        json!({"id": 4, "kind": "parse", "text": "\u{feff}# no\n#no\n /a/./b/ \n! x/../y\n!\n/\n"}),
        json!({"id": 5, "kind": "walk", "text": "d\n!d/keep\ntop", "dir": dir}),
    ];
    let found = answers("ignore", &cases);
    assert_eq!(
        &found[..2],
        [json!({"id": 1, "matched": false}), json!({"id": 2, "matched": true})]
    );
    assert_eq!(found[2]["error"], "line 1: syntax error in pattern `[a`");
    assert_eq!(found[3]["patterns"], json!(["a/b", "!y", "!", "/"]));
    assert_eq!(
        found[4]["sent"],
        json!(["d/", "d/keep", "e/", "e/f", "e/link -> ../top"])
    );
}

#[test]
fn a_line_that_is_no_case_ends_the_answers() {
    let outcome = Place::new().run_with_stdin(&["debug", "shell", "--jsonl"], b"{\"id\": 1, \"input\": \"a\"}\n\n{}\n");
    let outcome = outcome
        .exits(2)
        .says("error: line 3 of stdin is no case: missing field `id`");
    assert_eq!(outcome.stdout.lines().count(), 1);
}
