//! Base images of registries: when their layers are fetched, how often, and what becomes of those that are not what they should be.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::process::{Child, Stdio};

use testdata::machine::Need;
use testdata::registry::{PROGRAM, Registry};

use crate::support::Place;
use crate::support::build::needs;
use crate::support::damage::{damage, files_below};
use crate::support::leaks::nothing_is_left;

const REGISTRY: Need = Need::Program(PROGRAM);

/// A base image in `registry` with a shell and two layers more: its name, and the digests of its layers.
fn pushed(registry: &Registry) -> (String, Vec<String>) {
    let (place, name) = (Place::new(), registry.name("base:1"));
    place.file("large", &"some text\n".repeat(200_000));
    place.dockerfile("FROM base\nCOPY large /large\nRUN ln /large /linked && ln -s /bin /tools\n");
    drop(place.build(&["-t", &name, "--push", "."]).exits(0));
    let manifest = place.other(
        "/usr/bin/skopeo",
        &["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")],
    );
    let manifest: proto::oci::Manifest = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest.layers.iter().map(|layer| layer.digest.to_string());
    (name, layers.collect())
}

fn sent(registry: &Registry, layers: &[String]) -> Vec<usize> {
    let all = registry.blobs_sent();
    let times = |layer| all.iter().filter(|sent| *sent == layer).count();
    layers.iter().map(times).collect()
}

#[test]
fn what_no_step_looks_into_is_not_fetched() {
    needs!(REGISTRY, Need::Program("/usr/bin/skopeo"));
    let registry = Registry::start();
    let (base, layers) = pushed(&registry);
    let place = Place::new();
    place.file("new", "new\n").dockerfile(&format!(
        "FROM {base}\nENV A=b\nCOPY --link new /tools/new\nUSER 1000:1000\nENTRYPOINT [\"/new\"]\n"
    ));
    let before = sent(&registry, &layers);
    drop(place.build(&["-t", "app:1", "."]).exits(0));
    drop(place.build(&["-t", &registry.name("base:2"), "--push", "."]).exits(0));
    assert_eq!(sent(&registry, &layers), before);
    // The layer is as it would be on any other base: there is no link to follow.
    assert_eq!(place.image(&[]).paths(3), ["tools/", "tools/new"]);
}

#[test]
fn builds_that_need_one_base_at_the_same_time_fetch_it_once() {
    needs!(REGISTRY, Need::Program("/usr/bin/skopeo"));
    let registry = Registry::start();
    let (base, layers) = pushed(&registry);
    let place = Place::new();
    let builds: Vec<Child> = (0..4)
        .map(|number| {
            let file = format!("Dockerfile.{number}");
            place.file(
                &file,
                &format!("FROM {base}\nRUN test -e /tools/sh && echo {number} > /n\n"),
            );
            let mut command = place.command(&["build", "-f", &file, "."]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for build in builds {
        drop(place.outcome(build.wait_with_output().unwrap()).exits(0));
    }
    assert_eq!(sent(&registry, &layers), [1, 1, 1]);
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_used_for_nothing() {
    needs!(REGISTRY, Need::Program("/usr/bin/skopeo"));
    let registry = Registry::start();
    let (base, layers) = pushed(&registry);
    let hex = layers[1].strip_prefix("sha256:").unwrap();
    let data = files_below(&registry.data());
    let blob = data.iter().find(|path| path.ends_with(format!("{hex}/data"))).unwrap();
    damage(blob);
    let place = Place::new();
    for step in ["RUN cat /large", "COPY Dockerfile /"] {
        place.dockerfile(&format!("FROM {base}\n{step}\n"));
        let failed = place.build(&["."]).exits(4);
        drop(
            failed
                .says(&format!("instead of `{}`", layers[1]))
                .says("push the image again"),
        );
    }
    damage(blob);
    place.dockerfile(&format!("FROM {base}\nRUN test $(wc -c < /linked) = 2000000\n"));
    drop(place.build(&["."]).exits(0));
    place.end_server();
    nothing_is_left(&place.root());
}
