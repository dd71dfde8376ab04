//! Several platforms in one build, and platforms that are not this machine's.

use testdata::foreign::{Described, layout, uname_arm64};
use testdata::image::{Image, platforms};
use testdata::machine::Need;
use testdata::registry::{PROGRAM, Registry};

use crate::support::build::needs;
use crate::support::{Outcome, Place};

const SKOPEO: Need = Need::Program("/usr/bin/skopeo");
const REGISTRY: Need = Need::Program(PROGRAM);

/// Two platforms that no machine of these tests is.
const TWO: &str = "--platform=linux/s390x,linux/arm/v6";

/// A stage that runs on this machine and is told what it works for, and an image of its results.
const CROSS: &str = "FROM --platform=$BUILDPLATFORM base AS build
RUN echo once > /shared
ARG TARGETARCH TARGETVARIANT
RUN echo for $TARGETARCH$TARGETVARIANT > /own
FROM scratch
COPY --from=build /own /shared /
ENV A=b
";

fn native() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

fn cross() -> Place {
    let place = Place::new();
    place.dockerfile(CROSS);
    place
}

/// A command that needs a store but no server beside it.
fn run(place: &Place, words: &[&str]) -> Outcome {
    let mut all = vec!["--in-process"];
    all.extend_from_slice(words);
    place.run(&all)
}

/// The context `name` over these images, as a flag.
fn context(place: &Place, name: &str, images: &[Described<'_>]) -> String {
    let directory = place.work().join(format!("../{name}"));
    assert_eq!(
        layout(&directory, images).to_string().len(),
        71,
        "a digest of what was written"
    );
    format!("--build-context={name}=oci-layout://{}", directory.display())
}

#[test]
fn platforms_share_steps_that_are_not_told_of_them_and_become_one_index() {
    needs!();
    let place = cross();
    let outcome = place
        .build(&[
            TWO,
            "-o=type=oci,tar=false,dest=o",
            "--iidfile=id",
            "--metadata-file=meta",
            ".",
        ])
        .exits(0);
    let native = native();
    let mut lines: Vec<String> = outcome.summary().lines().map(str::to_owned).collect();
    lines.sort();
    let expected = [
        format!("DONE [{native} build] RUN echo once > /shared: never built before"),
        format!("DONE [{native}->arm/v6 build] RUN echo for armv6 > /own: never built before"),
        format!("DONE [{native}->s390x build] RUN echo for s390x > /own: never built before"),
        "DONE [linux/arm/v6 stage-1] COPY --from=build /own /shared /: never built before".to_owned(),
        "DONE [linux/s390x stage-1] COPY --from=build /own /shared /: never built before".to_owned(),
    ];
    assert_eq!(lines, expected);

    let (digest, images) = platforms(&place.work().join("o"));
    assert_eq!(outcome.digest(), digest.to_string());
    let names: Vec<String> = images.iter().map(|(platform, _)| platform.to_string()).collect();
    assert_eq!(names, ["linux/s390x", "linux/arm/v6"]);
    for ((platform, image), text) in images.iter().zip(["for s390x\n", "for armv6\n"]) {
        let config = &image.config;
        let said = (&config.os, &config.architecture, &config.variant);
        assert_eq!(said, (&platform.os, &platform.architecture, &platform.variant));
        let files = image.layer(0);
        assert_eq!(
            (files[0].path.as_str(), files[0].content.as_slice()),
            ("own", text.as_bytes())
        );
        assert_eq!(files[1].content, b"once\n");
    }

    let read = |name: &str| std::fs::read_to_string(place.work().join(name)).unwrap();
    assert_eq!(read("id"), digest.to_string());
    let metadata: serde_json::Value = serde_json::from_str(&read("meta")).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest.to_string());
    let media_type = &metadata["containerimage.descriptor"]["mediaType"];
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    assert_eq!(metadata.get("containerimage.config.digest"), None);
}

#[test]
fn what_one_platform_changed_the_other_does_not_build_again() {
    needs!();
    let place = cross();
    place.build(&[TWO, "."]).exits(0);
    let again = place.build(&[TWO, "."]).exits(0).summary();
    assert!(!again.contains("DONE"), "{again}");
    let changed = CROSS.replace("ENV A=b", "COPY Dockerfile /");
    place.dockerfile(&changed);
    let one = place.build(&["--platform=linux/s390x", "."]).exits(0).summary();
    assert!(one.contains("DONE [stage-1] COPY Dockerfile /"), "{one}");
    let both = place.build(&[TWO, "."]).exits(0).summary();
    assert!(
        both.contains("CACHED [linux/s390x stage-1] COPY Dockerfile /"),
        "{both}"
    );
    assert!(both.contains("DONE [linux/arm/v6 stage-1] COPY Dockerfile /"), "{both}");
}

#[test]
fn an_index_is_pushed_with_its_images_and_read_back_by_others() {
    needs!(SKOPEO, REGISTRY);
    let (place, registry) = (cross(), Registry::start());
    let name = registry.name("team/app:1");
    let pushed = place.build(&[TWO, "-t", &name, "--push", "."]).exits(0);
    let remote = format!("docker://{name}");
    let raw = place.other("/usr/bin/skopeo", &["inspect", "--tls-verify=false", "--raw", &remote]);
    assert_eq!(proto::digest::Digest::of(&raw).to_string(), pushed.digest());
    let index: proto::oci::Index = serde_json::from_slice(&raw).unwrap();
    assert_eq!(index.manifests.len(), 2);
    for (arch, variant, text) in [("s390x", "", "for s390x\n"), ("arm", "v6", "for armv6\n")] {
        let target = format!("oci:copied-{arch}:1");
        let words = [
            "--override-os=linux",
            &format!("--override-arch={arch}"),
            &format!("--override-variant={variant}"),
            "copy",
            "--src-tls-verify=false",
            &remote,
            &target,
        ];
        place.other("/usr/bin/skopeo", &words);
        let image = Image::read(&place.work().join(format!("copied-{arch}")));
        assert_eq!(image.layer(0)[0].content, text.as_bytes(), "{arch}");
    }
    let again = place.build(&[TWO, "-t", &name, "--push", "."]).exits(0);
    assert_eq!(again.digest(), pushed.digest());
    assert_eq!(again.stderr.matches(" already exists").count(), 2, "{}", again.stderr);
}

#[test]
fn an_index_in_the_store_is_listed_shown_tagged_and_pushed() {
    needs!(REGISTRY, SKOPEO);
    let (place, registry) = (cross(), Registry::start());
    let name = registry.name("app:2");
    let id = place.build(&[TWO, "-t", "app:2", "."]).exits(0).digest();
    let listed = run(&place, &["images", "--quiet"]).exits(0);
    assert_eq!(listed.raw_stdout, format!("{id}\n").as_bytes());
    let table = run(&place, &["images"]).exits(0).stdout;
    assert!(table.contains("linux/s390x,linux/arm/v6"), "{table}");

    let shown = run(&place, &["inspect", "app:2"]).exits(0);
    let shown: serde_json::Value = serde_json::from_slice(&shown.raw_stdout).unwrap();
    assert_eq!(shown[0]["id"], id);
    assert_eq!(shown[0]["images"][1]["platform"], "linux/arm/v6");
    assert_eq!(shown[0]["images"][0]["config"]["architecture"], "s390x");
    let one = run(&place, &["inspect", "--platform=linux/arm/v6", "app:2"]).exits(0);
    let one: serde_json::Value = serde_json::from_slice(&one.raw_stdout).unwrap();
    assert_eq!(one[0]["images"][0]["config"]["variant"], "v6");
    let history = run(&place, &["history", "--platform=linux/s390x", "app:2"])
        .exits(0)
        .stdout;
    assert!(history.contains("COPY /own /shared / # buildkit"), "{history}");
    let missing = run(&place, &["history", "--platform=linux/386", "app:2"]);
    assert_ne!(missing.code, Some(0));
    missing.says("no image for linux/386, only for linux/s390x, linux/arm/v6");

    run(&place, &["tag", "app:2", &name]).exits(0);
    assert_eq!(run(&place, &["push", &name]).exits(0).digest(), id);
    let remote = format!("docker://{name}");
    let raw = place.other("/usr/bin/skopeo", &["inspect", "--tls-verify=false", "--raw", &remote]);
    assert_eq!(proto::digest::Digest::of(&raw).to_string(), id);
}

#[test]
fn a_name_of_an_index_is_a_base_image_for_each_of_its_platforms() {
    needs!();
    let place = cross();
    place.build(&[TWO, "-t", "r.example/bases/cross:1", "."]).exits(0);
    place.dockerfile("FROM r.example/bases/cross:1\nCOPY Dockerfile /\n");
    place.build(&[TWO, "-o=type=oci,tar=false,dest=o", "."]).exits(0);
    let (_, images) = platforms(&place.work().join("o"));
    let own: Vec<Vec<u8>> = images
        .iter()
        .map(|(_, image)| image.layer(0)[0].content.clone())
        .collect();
    assert_eq!(own, [b"for s390x\n", b"for armv6\n"]);
}

#[test]
fn platforms_of_one_build_never_start_from_different_versions_of_a_name() {
    needs!(REGISTRY);
    let (place, registry) = (cross(), Registry::start());
    let name = registry.name("base:1");
    let store = Place::new();
    place.build(&[TWO, "-t", &name, "--push", "."]).exits(0);
    run(&store, &["pull", "--platform=linux/s390x", &name]).exits(0);
    place.dockerfile(&CROSS.replace("ENV A=b", "ENV A=newer"));
    place.build(&[TWO, "-t", &name, "--push", "."]).exits(0);

    store.dockerfile(&format!("FROM {name}\nCOPY Dockerfile /\n"));
    let environments = |flags: &[&str]| {
        let words = [flags, &["-o=type=oci,tar=false,dest=o", "."]].concat();
        store.build(&words).exits(0);
        let (_, images) = platforms(&store.work().join("o"));
        let last = |image: &Image| image.config.config.env.last().cloned().unwrap();
        images.iter().map(|(_, image)| last(image)).collect::<Vec<_>>()
    };
    assert_eq!(environments(&[TWO]), ["A=newer", "A=newer"]);
    // The store has what one platform needs.
    let one = ["--platform=linux/s390x", "--build-arg=BUILDKIT_MULTI_PLATFORM=1"];
    assert_eq!(environments(&one), ["A=b"]);
    assert_eq!(environments(&[one[0], one[1], "--pull"]), ["A=newer"]);
}

#[test]
fn a_name_that_the_store_has_for_other_platforms_only_is_said_to_be_there() {
    needs!();
    let place = cross();
    // Nobody listens on the first port.
    let name = "127.0.0.1:1/base:1";
    place.build(&[TWO, "-t", name, "."]).exits(0);
    place.dockerfile(&format!("FROM {name}\n"));
    place
        .build(&["--platform=linux/riscv64", "."])
        .exits(4)
        .says("note: the store has `127.0.0.1:1/base:1` for linux/s390x, linux/arm/v6 only");
}

#[test]
fn files_of_each_platform_get_a_directory() {
    needs!();
    let place = cross();
    place.build(&[TWO, "-o=out", "."]).exits(0);
    let read = |name: &str| std::fs::read_to_string(place.work().join("out").join(name)).unwrap();
    assert_eq!(read("linux_s390x/own"), "for s390x\n");
    assert_eq!(read("linux_arm_v6/own"), "for armv6\n");
    let tar = place.build(&[TWO, "-o", "-", "."]).exits(0);
    let names: Vec<String> = testdata::image::entries(&tar.raw_stdout)
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert!(names.contains(&"linux_arm_v6/shared".to_owned()), "{names:?}");
    let one = [
        "--platform=linux/s390x",
        "-o=type=local,dest=one,platform-split=true",
        ".",
    ];
    place.build(&one).exits(0);
    assert!(place.work().join("one/linux_s390x/own").exists());
    place
        .build(&[TWO, "-o=type=local,dest=flat,platform-split=false", "."])
        .exits(1)
        .says("cannot overwrite `own` from linux/s390x with linux/arm/v6 when split option is disabled");
    assert!(!place.work().join("flat/own").exists());
}

#[test]
fn files_of_platforms_share_a_directory_where_they_do_not_meet() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /bin/app-$TARGETARCH\n");
    place
        .build(&[TWO, "-o=type=local,dest=flat,platform-split=false", "."])
        .exits(0);
    for name in ["app-s390x", "app-arm"] {
        assert!(place.work().join("flat/bin").join(name).exists(), "{name}");
    }
}

#[test]
fn a_single_image_is_wrapped_in_an_index_on_request() {
    needs!();
    let place = cross();
    let words = ["--platform=linux/s390x", "-o=type=oci,tar=false,dest=o", "."];
    let build = |more: &[&str]| place.build(&[&words[..], more].concat());
    build(&["--build-arg=BUILDKIT_MULTI_PLATFORM=1"]).exits(0);
    let (_, images) = platforms(&place.work().join("o"));
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].0.to_string(), "linux/s390x");
    let refused = place.build(&[TWO, "--build-arg=BUILDKIT_MULTI_PLATFORM=0", "."]);
    assert_ne!(refused.code, Some(0));
    refused.says("returning multiple target platforms is not allowed");
}

#[test]
fn an_archive_for_docker_holds_no_index() {
    let place = cross();
    place
        .run(&["build", TWO, "-o=type=docker,dest=d.tar", "."])
        .exits(2)
        .says("docker exporter does not currently support exporting manifest lists");
    assert!(!place.work().join("d.tar").exists());
}

#[test]
fn the_local_platform_is_this_machines_own_and_counts_once() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nARG TARGETPLATFORM BUILDPLATFORM\nRUN echo $TARGETPLATFORM on $BUILDPLATFORM\n");
    let native = native();
    let image = place.image(&[&format!("--platform=local,{native}")]);
    assert_eq!(format!("{}/{}", image.config.os, image.config.architecture), native);
    let both = place
        .build(&[&format!("--platform=local,{native}"), "--no-cache", "."])
        .exits(0);
    assert_eq!(both.steps()[0].log, format!("{native} on {native}\n"));
}

#[test]
fn a_base_image_with_an_index_gives_each_platform_its_own() {
    needs!();
    let place = Place::new();
    let multi = context(
        &place,
        "multi",
        &[
            Described {
                platform: "linux/s390x",
                files: &[("who", b"s390x")],
            },
            Described {
                platform: "linux/arm/v5",
                files: &[("who", b"armv5")],
            },
            Described {
                platform: "linux/arm/v7",
                files: &[("who", b"armv7")],
            },
        ],
    );
    place.dockerfile("FROM multi\nCOPY Dockerfile /\n");
    place
        .build(&[&multi, TWO, "-o=type=oci,tar=false,dest=o", "."])
        .exits(0);
    let (_, images) = platforms(&place.work().join("o"));
    let bases: Vec<&str> = images
        .iter()
        .map(|(_, image)| image.config.config.env[0].as_str())
        .collect();
    // v7 would not run on v6; v5 does.
    assert_eq!(bases, ["BASE=linux/s390x", "BASE=linux/arm/v5"]);
    place
        .build(&[&multi, "--platform=linux/riscv64", "."])
        .exits(1)
        .says("no image for linux/riscv64")
        .says("it is for linux/s390x, linux/arm/v5, linux/arm/v7");
}

#[test]
fn a_base_image_of_another_platform_is_warned_of_and_not_renamed() {
    needs!();
    let place = Place::new();
    let other = context(
        &place,
        "other",
        &[Described {
            platform: "linux/s390x",
            files: &[],
        }],
    );
    place.dockerfile("FROM other\nCOPY Dockerfile /\n");
    let words = [
        other.as_str(),
        "--platform=linux/riscv64",
        "-o=type=oci,tar=false,dest=o",
        ".",
    ];
    let warned = place.build(&words).exits(0);
    let warned = warned.says("warning[InvalidBaseImagePlatform]");
    warned.says("was pulled with platform \"linux/s390x\", expected \"linux/riscv64\" for current build");
    assert_eq!(Image::read(&place.work().join("o")).config.architecture, "riscv64");
    // Where nobody asked for a platform, the image is what its base is.
    let words = [other.as_str(), "-o=type=oci,tar=false,dest=p", "."];
    place.build(&words).exits(0);
    assert_eq!(Image::read(&place.work().join("p")).config.architecture, "s390x");
}

#[test]
fn a_step_without_an_emulator_is_refused_before_it_starts() {
    needs!();
    let place = Place::new();
    // No emulator is made for it.
    let odd = context(
        &place,
        "odd",
        &[Described {
            platform: "linux/odd",
            files: &[("bin/sh", b"#!")],
        }],
    );
    place.dockerfile("FROM odd\nWORKDIR /w\nRUN make all\n");
    let outcome = place.build(&[&odd, "--platform=linux/odd", "."]).exits(1);
    assert_eq!(outcome.step("RUN make all").log, "");
    let native = native();
    outcome
        .says("exec format error")
        .says(&format!(
            "it is for linux/odd, and this machine ({native}) has no emulator for it"
        ))
        .says("Dockerfile:3")
        .says("RUN make all")
        .says("help: register an emulator")
        .says("FROM --platform=$BUILDPLATFORM");
    place.dockerfile("FROM odd\nWORKDIR /w\nCOPY Dockerfile .\n");
    place.build(&[&odd, "--platform=linux/odd", "."]).exits(0);
}

#[test]
fn a_program_that_nobody_knew_to_be_foreign_is_explained_when_it_fails() {
    needs!();
    let place = Place::new();
    place.file("tool", "\x7fELF not really");
    place.dockerfile("FROM scratch\nCOPY --chmod=755 tool /tool\nRUN [\"/tool\"]\n");
    place
        .build(&["--platform=linux/odd", "."])
        .exits(1)
        .says("exec format error")
        .says("the step is for linux/odd");
}

#[test]
fn steps_for_arm64_run_under_emulation() {
    needs!(Need::Arm64Emulator);
    let place = Place::new();
    let program = uname_arm64();
    let arm = context(
        &place,
        "arm",
        &[Described {
            platform: "linux/arm64",
            files: &[("uname", &program)],
        }],
    );
    place.dockerfile("FROM arm\nRUN [\"/uname\"]\n");
    let asked = place.build(&[&arm, "--platform=linux/arm64", "."]).exits(0);
    assert_eq!(asked.step("RUN [\"/uname\"]").log, "aarch64\n");
    let doctor = run(&place, &["doctor"]).stdout;
    assert!(doctor.contains("linux/arm64"), "{doctor}");

    // Nobody chose a platform: the build takes over the base image's, which runs here.
    let words = [arm.as_str(), "--no-cache", "-o=type=oci,tar=false,dest=o", "."];
    let adopted = place.build(&words).exits(0);
    assert!(
        !adopted.stderr.contains("InvalidBaseImagePlatform"),
        "{}",
        adopted.stderr
    );
    assert_eq!(adopted.step("RUN [\"/uname\"]").log, "aarch64\n");
    assert_eq!(Image::read(&place.work().join("o")).config.architecture, "arm64");
}
