//! Build contexts that are no directory of the user: git repositories, URLs, archives on stdin.

use testdata::machine::Need;
use testdata::web::Web;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::remote::{Repository, image_of, one, page, sample, web_of};

/// A directory with a context of a Dockerfile, an ignore file and a file.
fn write_context(write: impl Fn(&str, &str)) {
    write("Dockerfile", "FROM scratch\nCOPY . /all/\nCOPY a.txt /\n");
    write(".dockerignore", "a.txt\n");
    write("a.txt", "from afar\n");
    write("sub/Other", "FROM scratch\nCOPY Other /other\n");
}

#[test]
fn a_repository_is_a_context() {
    needs!(Need::Git);
    let place = Place::new();
    let repository = Repository::new(&place, "app.git");
    write_context(|path, content| {
        repository.write(path, content);
    });
    repository.commit();
    let web = web_of(&place);
    let url = web.url("/git/app.git");
    let image = image_of(&place, &[&url]);
    assert_eq!(one(&image.layer(0), "all/a.txt").3, "from afar\n");
    assert_eq!(
        one(&image.layer(1), "a.txt"),
        (0o644, 0, 1_000_000_000, "from afar\n".to_owned())
    );
    let told = place
        .build(&[&url])
        .exits(0)
        .says("`.dockerignore` of the build context is not applied");
    assert!(
        told.steps().iter().all(|step| step.status == "CACHED"),
        "{}",
        told.stderr
    );
    let below = format!("{url}#main:sub");
    assert_eq!(
        one(&image_of(&place, &["-f", "Other", &below]).layer(0), "other").3,
        "FROM scratch\nCOPY Other /other\n"
    );
    drop(
        place
            .build(&[&below])
            .exits(1)
            .says("open Dockerfile: no such file or directory"),
    );
    let epoch = image_of(&place, &["--build-arg=SOURCE_DATE_EPOCH=context", &url]);
    assert_eq!(epoch.config.created.as_deref(), Some("2001-09-09T01:46:40Z"));
}

#[test]
fn an_archive_behind_a_url_is_a_context_and_a_file_is_a_dockerfile() {
    needs!();
    let (place, inside, web) = (Place::new(), Place::new(), Web::start());
    write_context(|path, content| {
        inside.file(path, content);
    });
    let mut archive = page("");
    archive.body = inside.other("tar", &["-cJf", "-", "."]);
    web.put("/c.tar.xz", archive);
    web.put("/My.Dockerfile", page("FROM scratch\nLABEL from=url\n"));
    let url = web.url("/c.tar.xz");
    let image = image_of(&place, &[&url]);
    assert_eq!(one(&image.layer(1), "a.txt").3, "from afar\n");
    assert_eq!(web.log(), ["/c.tar.xz 200"]);
    drop(
        place
            .build(&["-f", "sub/Other", &url])
            .exits(1)
            .says("`Other` is not in the build context"),
    );
    assert_eq!(web.log(), ["/c.tar.xz 304"]);
    let alone = image_of(&place, &[&web.url("/My.Dockerfile")]);
    assert_eq!(alone.config.config.labels["from"], "url");
    let epoch = image_of(
        &place,
        &["--build-arg=SOURCE_DATE_EPOCH=context", &web.url("/My.Dockerfile")],
    );
    assert_eq!(epoch.config.created.as_deref(), Some("1994-11-06T08:49:37Z"));
    // The Dockerfile from one place, the files from another.
    let both = image_of(&place, &["-f", &web.url("/My.Dockerfile"), &url]);
    assert_eq!(both.config.config.labels["from"], "url");
}

#[test]
fn archives_on_stdin_may_be_compressed() {
    needs!();
    let (place, inside) = (Place::new(), Place::new());
    write_context(|path, content| {
        inside.file(path, content);
    });
    for compress in ["--gzip", "--bzip2", "--xz", "--zstd", "--format=gnu"] {
        let archive = inside.other("tar", &["-c", compress, "."]);
        let base = place.base();
        let arguments = ["build", "--in-process", "--progress=plain", &base, "-"];
        let outcome = place.run_with_stdin(&arguments, &archive).exits(0);
        // The ignore file hides `a.txt`, and is not applied.
        drop(outcome.says("`.dockerignore` of the context from stdin is not applied"));
    }
}

#[test]
fn further_contexts_come_from_git_and_urls() {
    needs!(Need::Git);
    let place = Place::new();
    let (_repository, _) = sample(&place);
    let web = web_of(&place);
    web.put("/f", page("single"));
    place.dockerfile("FROM scratch AS files\nCOPY --from=repo sub/b.txt /\nCOPY --from=file context /single\nFROM base\nRUN --mount=from=repo,target=/r cat /r/a.txt\n");
    let repo = format!("--build-context=repo={}#v1", web.url("/git/app.git"));
    let file = format!("--build-context=file={}", web.url("/f"));
    let image = image_of(&place, &[&repo, &file, "--target=files", "."]);
    assert_eq!(one(&image.layer(0), "b.txt").3, "below\n");
    assert_eq!(one(&image.layer(1), "single").3, "single");
    let ran = place.build(&[&repo, &file, "."]).exits(0);
    assert_eq!(ran.step("cat /r/a.txt").log, "first\n");
    place.dockerfile("FROM repo\nLABEL a=b\n");
    let image = image_of(&place, &[&repo, "."]);
    assert_eq!(one(&image.layer(0), "a.txt").3, "first\n");
    // Contexts that nothing reads are not fetched.
    drop(web.seen());
    place.dockerfile("FROM scratch\nLABEL a=b\n");
    drop(place.build(&[&repo, &file, "."]).exits(0));
    assert!(web.log().is_empty());
}
