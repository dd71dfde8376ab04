//! Where results go: files, directories, stdout, and what scripts read about them.

use std::os::unix::fs::MetadataExt;

use testdata::image::entries;

use crate::support::Place;
use crate::support::build::needs;

fn small() -> Place {
    let place = Place::new();
    place.dockerfile("FROM base AS build\nRUN mkdir /out && echo hi > /out/f && chmod 600 /out/f\nFROM scratch\nCOPY --from=build /out /\n");
    place
}

#[test]
fn a_directory_gets_the_files_and_nothing_else() {
    needs!();
    let place = small();
    let outcome = place.build(&["-o", "out", "."]).exits(0);
    assert_eq!(outcome.code, Some(0));
    let names: Vec<_> = std::fs::read_dir(place.work().join("out"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["f"]);
    assert_eq!(std::fs::read_to_string(place.work().join("out/f")).unwrap(), "hi\n");
    assert_eq!(
        std::fs::metadata(place.work().join("out/f")).unwrap().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_tar_goes_to_a_file_or_to_stdout_with_the_same_bytes() {
    needs!();
    let place = small();
    place.build(&["-o", "type=tar,dest=f.tar", "."]).exits(0);
    let stdout = place.build(&["-o", "-", "."]).exits(0);
    let file = std::fs::read(place.work().join("f.tar")).unwrap();
    let files = entries(&file);
    assert_eq!(files.last().unwrap().path, "f");
    assert_eq!(files.last().unwrap().content, b"hi\n");
    assert!(stdout.raw_stdout == file, "the tar on stdout differs");
}

#[test]
fn an_archive_on_stdout_leaves_no_digest_beside_it() {
    needs!();
    let place = small();
    let outcome = place.build(&["-o", "type=oci,dest=-", "."]).exits(0);
    let names: Vec<String> = entries(&outcome.raw_stdout)
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert!(names.contains(&"index.json".to_owned()), "{names:?}");
    assert!(names.contains(&"oci-layout".to_owned()), "{names:?}");
}

#[test]
fn scripts_find_the_image_in_files() {
    needs!();
    let place = small();
    let files = ["--iidfile=id", "--metadata-file=meta"];
    let outcome = place
        .build(&["-t=a:1", "-t=b", "-o=type=oci,dest=o.tar", files[0], files[1], "."])
        .exits(0);
    let id = std::fs::read_to_string(place.work().join("id")).unwrap();
    assert!(id.starts_with("sha256:") && id != outcome.digest(), "{id}");
    let metadata = std::fs::read(place.work().join("meta")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(metadata["containerimage.digest"], outcome.digest());
    assert_eq!(metadata["containerimage.descriptor"]["digest"], outcome.digest());
}

#[test]
fn a_quiet_build_prints_the_image_id_and_nothing_else() {
    needs!();
    let place = small();
    let outcome = place.run(&["build", "--in-process", &place.base(), "-q", "."]).exits(0);
    assert_eq!(outcome.stdout, "sha256:[digest]\n");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn layers_can_be_zstd_or_plain_and_hold_the_same_files() {
    needs!();
    let place = small();
    let base = place.base();
    let mut diff_ids = Vec::new();
    for (compression, suffix) in [("gzip", "+gzip"), ("zstd", "+zstd"), ("uncompressed", "")] {
        let output = format!("type=oci,tar=false,dest={compression},compression={compression}");
        place
            .run(&["build", "--in-process", &base, "-o", &output, "."])
            .exits(0);
        let image = testdata::image::Image::read(&place.work().join(compression));
        assert_eq!(
            image.manifest.layers[0].media_type,
            format!("application/vnd.oci.image.layer.v1.tar{suffix}")
        );
        assert_eq!(image.paths(0), ["f"]);
        diff_ids.push(image.config.rootfs.diff_ids);
    }
    assert_eq!(diff_ids[0], diff_ids[1]);
    assert_eq!(diff_ids[0], diff_ids[2]);
}

#[test]
fn events_are_lines_of_json() {
    needs!();
    let place = small();
    let outcome = place
        .run(&["build", "--in-process", &place.base(), "--progress=json", "."])
        .exits(0);
    let events: Vec<serde_json::Value> = outcome
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(events.len() > 5, "{}", outcome.stderr);
}

#[test]
fn metadata_names_what_was_exported() {
    needs!();
    let place = small();
    let words = ["-t=a:1", "-t=b", "-o=type=oci,dest=o.tar", "--metadata-file=meta", "."];
    place.build(&words).exits(0);
    let metadata = std::fs::read(place.work().join("meta")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!(
        metadata["image.name"],
        "docker.io/library/a:1,docker.io/library/b:latest"
    );
}
