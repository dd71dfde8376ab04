//! What instructions do to an image, from Dockerfile to layers.

use testdata::machine::Need;

use crate::support::Place;
use crate::support::build::needs;

const TWO_STAGES: &str = "\
FROM base AS compile
WORKDIR /src
COPY main.c .
RUN wc -c < main.c > size && echo compiled
FROM base
ENV MODE=fast
COPY --from=compile /src/size /srv/
RUN rm /etc/group && cat /srv/size
EXPOSE 80
CMD [\"cat\", \"/srv/size\"]
";

fn two_stages() -> Place {
    let place = Place::new();
    place.dockerfile(TWO_STAGES).file("main.c", "int main;\n");
    place
}

#[test]
fn a_second_build_finds_every_step_and_gives_the_same_image() {
    needs!();
    let place = two_stages();
    let first = place.build(&["-t", "app", "."]).exits(0);
    assert_eq!(first.step("RUN rm /etc/group && cat /srv/size").log, "10\n");
    let second = place.build(&["-t", "app", "."]).exits(0);
    assert_eq!(second.digest(), first.digest());
    assert_eq!(
        second.summary(),
        "CACHED [compile] WORKDIR /src\nCACHED [compile] COPY main.c .\n\
         CACHED [compile] RUN wc -c < main.c > size && echo compiled\n\
         CACHED [stage-1] COPY --from=compile /src/size /srv/\n\
         CACHED [stage-1] RUN rm /etc/group && cat /srv/size\n"
    );
}

#[test]
fn the_image_says_how_it_came_about() {
    needs!();
    let place = two_stages();
    let image = place.image(&[]);
    let history: Vec<(&str, bool)> = image
        .config
        .history
        .iter()
        .map(|entry| (entry.created_by.as_str(), entry.empty_layer))
        .collect();
    assert_eq!(
        history,
        [
            ("busybox", false),
            ("ENV MODE=fast", true),
            ("COPY /src/size /srv/ # buildkit", false),
            ("RUN /bin/sh -c rm /etc/group && cat /srv/size # buildkit", false),
            ("EXPOSE [80/tcp]", true),
            ("CMD [\"cat\" \"/srv/size\"]", true),
        ]
    );
    let config = &image.config.config;
    assert_eq!(config.env, ["PATH=/usr/bin:/bin", "MODE=fast"]);
    assert_eq!(
        config.cmd.as_deref(),
        Some(&["cat".to_owned(), "/srv/size".to_owned()][..])
    );
    assert!(config.exposed_ports.contains_key("80/tcp"));
    assert_eq!(image.manifest.layers.len(), 3);
    assert_eq!(image.paths(1), ["srv/", "srv/size"]);
    assert_eq!(image.paths(2), ["etc/", "etc/.wh.group"]);
}

#[test]
fn other_programs_read_the_image() {
    needs!(Need::Program("/usr/bin/skopeo"), Need::Program("/usr/bin/umoci"));
    let place = two_stages();
    place
        .build(&["-t", "app:7", "-o", "type=oci,dest=app.tar", "."])
        .exits(0);
    let inspected = place.other("/usr/bin/skopeo", &["inspect", "--config", "oci-archive:app.tar"]);
    let config: serde_json::Value = serde_json::from_slice(&inspected).unwrap();
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["cat", "/srv/size"]));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    std::fs::create_dir(place.work().join("layout")).unwrap();
    place.other("/bin/tar", &["-xf", "app.tar", "-C", "layout"]);
    place.other("/usr/bin/umoci", &["unpack", "--image", "layout:7", "bundle"]);
    let root = place.work().join("bundle/rootfs");
    assert_eq!(std::fs::read_to_string(root.join("srv/size")).unwrap(), "10\n");
    assert!(root.join("etc/passwd").exists());
    assert!(!root.join("etc/group").exists());
    assert!(!root.join("src").exists(), "files of other stages stay there");
}

#[test]
fn a_stage_can_be_the_target_and_arguments_and_labels_are_applied() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS a\nARG V=1\nRUN echo $V > /v\nFROM base AS b\nRUN false\n");
    let image = place.image(&["--target=a", "--build-arg=V=2", "--label=team=x", "--label", "who=y z"]);
    assert_eq!(image.layer(1)[0].content, b"2\n");
    assert_eq!(image.config.config.labels["team"], "x");
    assert_eq!(image.config.config.labels["who"], "y z");
    assert_eq!(image.config.config.labels[testdata::image::LABEL], "base");
}

#[test]
fn users_and_directories_of_steps_are_those_of_the_dockerfile() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nWORKDIR /srv\nWORKDIR data\nRUN pwd\nRUN chown alice .\nUSER alice\n\
         RUN id -u && id -g && id -G && echo $HOME && touch mine\nUSER 5:6\nRUN id -u && id -g\n",
    );
    let outcome = place.build(&["-o", "type=tar,dest=out.tar", "."]).exits(0);
    assert_eq!(outcome.step("RUN pwd").log, "/srv/data\n");
    let alice = outcome
        .step("RUN id -u && id -g && id -G && echo $HOME && touch mine")
        .log;
    assert_eq!(alice, "1000\n1001\n1001 2000\n/home/alice\n");
    assert_eq!(outcome.step("RUN id -u && id -g").log, "5\n6\n");
    let entries = testdata::image::entries(&std::fs::read(place.work().join("out.tar")).unwrap());
    let mine = entries.iter().find(|entry| entry.path == "srv/data/mine").unwrap();
    assert_eq!(mine.owner, (1000, 1001));
}

#[test]
fn here_documents_are_scripts_and_files() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nARG WHO=you\nRUN <<EOF\necho one\necho two > /two\nEOF\n\
         COPY <<one.txt <<'raw' /files/\nhello $WHO\none.txt\nraw $WHO\nraw\n",
    );
    let image = place.image(&[]);
    assert_eq!(image.paths(1), ["two"]);
    let files = image.layer(2);
    let contents: Vec<(&str, &[u8])> = files
        .iter()
        .map(|entry| (entry.path.as_str(), entry.content.as_slice()))
        .collect();
    assert_eq!(
        contents,
        [
            ("files/", &b""[..]),
            ("files/one.txt", b"hello you\n"),
            ("files/raw", b"raw $WHO\n"),
        ]
    );
}

#[test]
fn copies_take_what_patterns_select_with_owner_and_mode() {
    needs!();
    let place = Place::new();
    place
        .file("a1.txt", "1")
        .file("a2.txt", "2")
        .file("b.md", "3")
        .file("d/e/f", "4");
    place.file(".dockerignore", "a2*\n");
    place.dockerfile("FROM base\nCOPY --chown=alice:staff --chmod=0640 a*.txt b.md /in/\nCOPY d /d/\n");
    let image = place.image(&[]);
    let entries = image.layer(1);
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.mode, entry.owner))
        .collect();
    assert_eq!(
        seen[1..],
        [("in/a1.txt", 0o640, (1000, 1001)), ("in/b.md", 0o640, (1000, 1001))]
    );
    assert_eq!(image.paths(2), ["d/", "d/e/", "d/e/f"]);
    assert_eq!(
        image.layer(2)[2].owner,
        (0, 0),
        "files belong to root, whoever checked them out"
    );
}

#[test]
fn add_unpacks_archives_and_copy_does_not() {
    needs!();
    let place = Place::new();
    place.file("in/x", "content");
    place.other("/bin/tar", &["-czf", "x.tgz", "in"]);
    place.dockerfile("FROM base\nADD x.tgz /added/\nCOPY x.tgz /copied/\n");
    let image = place.image(&[]);
    assert_eq!(image.paths(1), ["added/", "added/in/", "added/in/x"]);
    assert_eq!(image.paths(2), ["copied/", "copied/x.tgz"]);
}

#[test]
fn a_dockerfile_comes_from_stdin_or_from_elsewhere() {
    needs!();
    let place = Place::new();
    place
        .file("ctx/data", "d")
        .file("files/My.Dockerfile", "FROM base\nCOPY data /one\n");
    let base = place.base();
    place.build(&["-f", "files/My.Dockerfile", "ctx"]).exits(0);
    let outcome = place
        .run_with_stdin(
            &["build", "--in-process", &base, "-f", "-", "ctx"],
            b"FROM base\nCOPY data /two\n",
        )
        .exits(0);
    assert_eq!(outcome.summary().lines().count(), 1);
    assert!(
        outcome.summary().starts_with("DONE COPY data /two"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn steps_on_a_named_context_count_its_load_but_are_numbered_without_it() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a\nRUN echo b\n");
    let progress = place.build(&["."]).exits(0).stderr;
    // As other builders number them, so that tools that read progress read ours.
    assert!(
        progress.contains("[1/3] RUN echo a\n") && progress.contains("[2/3] RUN echo b\n"),
        "{progress}"
    );
}
