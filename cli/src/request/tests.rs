//! Flags to requests, without a server.

use clap::Parser;

use super::*;
use crate::args::{Cli, Command, ServerArgs};

fn resolve_with(flags: &[&str], pairs: &[(&str, &str)], stdin: &[u8]) -> Result<Build, Problem> {
    let cli = Cli::try_parse_from(["rbuild", "build"].iter().chain(flags)).unwrap();
    let Command::Build(args) = cli.command else {
        panic!("not a build")
    };
    let root = ServerArgs {
        root: Some("/unused".into()),
        ..ServerArgs::default()
    };
    let config = Config::new(&root, Environment::of(pairs)).unwrap();
    super::resolve(&args, &config, stdin)
}

fn context() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    directory
}

fn resolved(flags: &[&str], pairs: &[(&str, &str)]) -> Result<Build, Problem> {
    let context = context();
    let mut all = flags.to_vec();
    all.push(context.path().to_str().unwrap());
    resolve_with(&all, pairs, b"")
}

fn refused(flags: &[&str]) -> String {
    resolved(flags, &[]).unwrap_err().message
}

#[test]
fn without_flags_the_image_stays_in_the_store() {
    let build = resolved(&[], &[]).unwrap();
    assert_eq!(build.request.outputs, [v1::Output::from(&Output::image(false))]);
    assert!(!build.exports_manifest);
    assert_eq!(build.request.network, "default");
    assert_eq!(build.request.dockerfile_name, "Dockerfile");
    assert_eq!(build.request.source_date_epoch, None);
    assert_eq!(build.session.contexts.keys().collect::<Vec<_>>(), ["context"]);
}

#[test]
fn push_needs_a_name_and_turns_the_image_output_into_a_push() {
    assert_eq!(refused(&["--push"]), "tag is needed when pushing to registry");
    assert_eq!(
        refused(&["-o", "type=registry"]),
        "tag is needed when pushing to registry"
    );
    let build = resolved(&["--push", "-t", "r.example/a", "-o", "type=image"], &[]).unwrap();
    assert_eq!(build.request.outputs, [v1::Output::from(&Output::image(true))]);
    assert_eq!(build.request.tags, ["r.example/a:latest"]);
    assert!(build.exports_manifest);
}

#[test]
fn load_keeps_the_image_beside_other_outputs() {
    let build = resolved(&["--load", "-o", "out"], &[]).unwrap();
    assert_eq!(
        build.destinations,
        [Destination::Directory("out".into()), Destination::Nowhere]
    );
    assert_eq!(resolved(&["-o", "type=cacheonly"], &[]).unwrap().request.outputs, []);
}

#[test]
fn values_come_from_flags_then_from_the_environment() {
    let environment = [
        ("FROM_ENV", "e"),
        ("SOURCE_DATE_EPOCH", "1"),
        ("DOCKER_DEFAULT_PLATFORM", "linux/aarch64"),
    ];
    let flags = [
        "--build-arg",
        "A=1=2",
        "--build-arg",
        "FROM_ENV",
        "--build-arg",
        "UNSET",
    ];
    let request = resolved(&flags, &environment).unwrap().request;
    let expected = [("A", "1=2"), ("FROM_ENV", "e")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(request.build_args, HashMap::from(expected));
    assert_eq!(request.source_date_epoch, Some(1));
    assert_eq!(request.platforms, ["linux/arm64"]);
    let flags = [
        "--build-arg",
        "SOURCE_DATE_EPOCH=2",
        "--platform",
        "linux/amd64,linux/x86_64",
    ];
    let request = resolved(&flags, &environment).unwrap().request;
    assert_eq!(request.source_date_epoch, Some(2));
    assert_eq!(request.platforms, ["linux/amd64"]);
}

#[test]
fn host_network_is_granted_by_its_flag() {
    let request = resolved(&["--network", "host", "--allow", "network.host"], &[])
        .unwrap()
        .request;
    assert_eq!(request.entitlements, ["network.host"]);
    let words = "security.insecure,network.host,device=v.com/c,security.insecure";
    let request = resolved(&["--allow", words], &[]).unwrap().request;
    assert_eq!(
        request.entitlements,
        ["network.host", "security.insecure", "device=v.com/c"]
    );
    assert!(resolved(&[], &[]).unwrap().request.entitlements.is_empty());
}

#[test]
fn hosts_are_normalised() {
    for (text, host) in [
        ("a:1.2.3.4", "a:1.2.3.4"),
        ("a=::1", "a:::1"),
        ("a:[::1]", "a:::1"),
        ("gw:host-gateway", "gw:host-gateway"),
    ] {
        assert_eq!(add_host(text).unwrap(), host);
    }
    for bad in ["a", ":1.2.3.4", "a:b", "a b:1.2.3.4"] {
        assert!(add_host(bad).is_err(), "{bad}");
    }
}

#[test]
fn flags_that_can_not_act_are_refused() {
    for (flags, words) in [
        (&["--network", "bridge"][..], "no mode `bridge`"),
        (&["--allow", "security.none"], "no entitlement `security.none`"),
        (&["--ssh", "default"], "SSH_AUTH_SOCK is not set"),
        (&["--shm-size", "0"], "no size"),
        (&["--platform", "linux/a/b/c"], "not a platform"),
        (&["-t", "App"], "lower case"),
        (&["--label", "=x"], "KEY=VALUE"),
        (&["--iidfile", "x", "-o", "out"], "has no ID"),
        (
            &["-o", "-", "-o", "type=oci,dest=-"],
            "only one output can go to stdout",
        ),
        (&["--build-context", "context=."], "can not be replaced"),
        (&["--build-context", "a=.", "--build-context", "a=."], "given twice"),
        (&["--build-context", "a=oci-layout://."], "no `index.json`"),
        (&["--build-context", "a=/does/not/exist"], "/does/not/exist"),
        (&["--secret", "id=a,src=/does/not/exist"], "/does/not/exist"),
        (
            &["-f", "/does/not/exist"],
            "open /does/not/exist: no such file or directory",
        ),
    ] {
        let message = refused(flags);
        assert!(message.contains(words), "{flags:?}: {message}");
    }
}

#[test]
fn remote_contexts_are_left_to_the_server() {
    let kind = |flags: &[&str]| {
        let build = resolve_with(flags, &[], b"FROM scratch\n").unwrap();
        assert!(!build.session.contexts.contains_key("context"));
        let in_context = !build.request.dockerfile_path.is_empty();
        let kind = build.request.contexts["context"].kind.clone();
        (kind, build.request.dockerfile_name, in_context)
    };
    let git = |text: &str| Some(Kind::Git(text.to_owned()));
    let text = "https://r.example/x.git#main:sub";
    assert_eq!(kind(&[text]), (git(text), "Dockerfile".to_owned(), true));
    assert_eq!(kind(&["-f", "a/D", text]), (git(text), "a/D".to_owned(), true));
    assert_eq!(kind(&["-f", "-", text]), (git(text), "stdin".to_owned(), false));
    assert_eq!(kind(&["git@r.example:a/b"]).0, git("git@r.example:a/b"));
    let archive = "http://r.example/x.tar.gz";
    assert_eq!(kind(&[archive]).0, Some(Kind::Http(archive.to_owned())));
    let problem = resolve_with(&["https://me:secret@r.example/x.git?depth=1"], &[], b"").unwrap_err();
    assert!(
        problem.message.ends_with("unexpected query \"depth\""),
        "{}",
        problem.message
    );
    assert!(!problem.message.contains("secret"), "{}", problem.message);
}

#[test]
fn times_may_be_taken_from_a_context() {
    let build = resolved(
        &["--build-context", "x=https://r.example/x.git"],
        &[("SOURCE_DATE_EPOCH", "x")],
    )
    .unwrap();
    assert_eq!(build.request.source_date_epoch, None);
    assert_eq!(build.request.build_args["SOURCE_DATE_EPOCH"], "x");
    assert!(resolved(&[], &[("SOURCE_DATE_EPOCH", "x")]).is_err());
}

#[test]
fn a_dockerfile_from_stdin_has_an_empty_context() {
    let build = resolve_with(&["-"], &[], b"FROM scratch\n").unwrap();
    assert_eq!(build.request.dockerfile_name, "stdin");
    assert_eq!(build.session.description.unwrap().dockerfile.bytes, b"FROM scratch\n");
    assert!(resolve_with(&["-f", "-", "-"], &[], b"").is_err());
}

#[test]
fn an_archive_from_stdin_is_a_context() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(7);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "sub/My.file", &b"FROM b\n"[..])
        .unwrap();
    let archive = builder.into_inner().unwrap();
    let build = resolve_with(&["-f", "sub/My.file", "-"], &[], &archive).unwrap();
    assert_eq!(build.session.description.unwrap().dockerfile.bytes, b"FROM b\n");
}

#[test]
fn layouts_have_tags_and_digests() {
    let hex = "a".repeat(64);
    let parts = |text| layout_parts(text);
    assert_eq!(parts("/a:b/c"), ("/a:b/c", String::new(), String::new()));
    assert_eq!(parts("c:1"), ("c", "1".to_owned(), String::new()));
    let pinned = format!("c:1@sha256:{hex}");
    assert_eq!(layout_parts(&pinned), ("c", "1".to_owned(), format!("sha256:{hex}")));
}
