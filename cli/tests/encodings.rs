//! How layers leave the store: levels, compressions that are forced on the base, and large layers that go as files.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use testdata::image::Image;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::damage::{damage, files_below};
use crate::support::server::{end_of, send};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A layer on a base in gzip; large enough to leave as a file, and for levels to differ.
fn words() -> Place {
    let place = Place::new();
    let words: String = (0..90_000_u32)
        .map(|n| format!("{} ", n.wrapping_mul(2_654_435_761) % 4099))
        .collect();
    place.file("words", &words).dockerfile("FROM base\nCOPY words /\n");
    place
}

/// The image that the attributes make of `place`, in a directory of its own.
fn exported(place: &Place, attributes: &str) -> Image {
    let number = std::fs::read_dir(place.work()).unwrap().count();
    let output = format!("-o=type=oci,tar=false,dest=out{number}{attributes}");
    place.build(&[&output, "."]).exits(0);
    Image::read(&place.work().join(format!("out{number}")))
}

#[test]
fn a_level_that_is_asked_for_is_the_level_that_is_used() {
    needs!();
    let place = words();
    let layer = |image: &Image| image.manifest.layers[1].clone();
    let stored = layer(&exported(&place, ",compression-level=0"));
    let fast = layer(&exported(&place, ",compression-level=1"));
    let best = layer(&exported(&place, ",compression-level=9"));
    assert!(
        stored.size > fast.size && fast.size > best.size,
        "{} {} {}",
        stored.size,
        fast.size,
        best.size
    );
    // What is there already is used again, by whoever asks for just that, or for no level at all.
    assert_eq!(layer(&exported(&place, ",compression-level=1")), fast);
    let any = layer(&exported(&place, ""));
    assert!([&stored, &fast, &best].contains(&&any));
}

#[test]
fn with_a_date_a_layer_has_the_bytes_of_a_new_store_whatever_was_made_before() {
    needs!();
    let date = |place: &Place, attributes: &str| {
        let output = format!("-o=type=oci,tar=false,dest=out{attributes}");
        let mut build = place.build_command(&[&output, "."]);
        let outcome = build.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
        let outcome = place.outcome(outcome).exits(0);
        std::fs::remove_dir_all(place.work().join("out")).unwrap();
        outcome.digest()
    };
    let (new, used) = (words(), words());
    date(&used, ",compression-level=9");
    assert_eq!(date(&used, ""), date(&new, ""));
}

#[test]
fn the_base_keeps_its_compression_unless_another_is_forced() {
    needs!();
    let place = words();
    let types = |image: &Image| -> Vec<String> {
        image
            .manifest
            .layers
            .iter()
            .map(|layer| layer.media_type.clone())
            .collect()
    };
    let kept = exported(&place, ",compression=zstd");
    assert_eq!(types(&kept), [GZIP, ZSTD]);
    let forced = exported(&place, ",compression=zstd,force-compression=true");
    assert_eq!(types(&forced), [ZSTD, ZSTD]);
    assert_eq!(kept.config.rootfs.diff_ids, forced.config.rootfs.diff_ids);
    assert_eq!(kept.paths(0), forced.paths(0));
    // It is in gzip: nothing to force.
    let same = exported(&place, ",compression=gzip,force-compression=true");
    assert_eq!(same.manifest.layers[0], kept.manifest.layers[0]);
}

#[test]
fn a_large_layer_is_the_same_in_a_file_a_directory_and_on_stdout() {
    needs!();
    let place = words();
    let plain = ",compression=uncompressed";
    place.build(&[&format!("-o=type=oci,dest=o.tar{plain}"), "."]).exits(0);
    let stdout = place.build(&[&format!("-o=type=oci,dest=-{plain}"), "."]).exits(0);
    let file = std::fs::read(place.work().join("o.tar")).unwrap();
    assert!(file == stdout.raw_stdout, "the archives differ");
    let image = exported(&place, plain);
    let words = std::fs::read(place.work().join("words")).unwrap();
    assert!(
        image
            .layer(1)
            .iter()
            .any(|entry| entry.path == "words" && entry.content == words)
    );
}

#[test]
fn a_large_layer_that_was_damaged_is_made_again_and_never_exported() {
    needs!();
    let place = words();
    let whole = exported(&place, ",compression=uncompressed");
    let large = |path: &std::path::PathBuf| path.metadata().unwrap().len() > 300_000;
    let blobs: Vec<_> = files_below(&place.root().join("blobs"))
        .into_iter()
        .filter(large)
        .collect();
    assert!(!blobs.is_empty());
    blobs.iter().for_each(|path| damage(path));
    let again = exported(&place, ",compression=uncompressed");
    assert_eq!(again.manifest.layers, whole.manifest.layers);
    assert!(again.layer(1) == whole.layer(1), "damaged bytes were exported");
}

#[test]
fn layers_are_compressed_once_and_only_if_an_output_asks_for_it() {
    needs!();
    let place = words();
    place.dockerfile("FROM base\nCOPY words /\nRUN echo a > /a\n");
    let (mut server, log) = place.serve_with_phases();
    let base = place.base();
    let build = |outputs: &[&str]| {
        let mut arguments = vec!["build", "--no-cache", &base];
        arguments.extend_from_slice(outputs);
        arguments.push(".");
        place.run(&arguments).exits(0);
    };
    build(&[]);
    build(&["-o=type=oci,dest=plain.tar,compression=uncompressed"]);
    // Two layers in zstd, for both outputs together.
    build(&[
        "-o=type=oci,dest=a.tar,compression=zstd",
        "-o=type=oci,dest=b.tar,compression=zstd",
    ]);
    send(&server, rustix::process::Signal::TERM);
    assert_eq!(end_of(&mut server).code(), Some(0));
    let log = log.join().unwrap();
    let compressed = log
        .lines()
        .filter(|line| line.contains(" phase: name=\"compress\""))
        .count();
    // The third is the plain tar of the layer that RUN made, which was only in a snapshot.
    assert_eq!(compressed, 3, "{log}");
}
