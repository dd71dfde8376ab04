//! A thousand random trees: whatever happens to a context between two builds, the image has what the disk has.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use testdata::trees::{Seen, Trees, see};

use crate::support::Place;

/// Contexts that are built at the same time on one server.
const CONTEXTS: usize = 2;
/// Directories of a context that are copied each by itself, with so many trees in each of them.
const DIRECTORIES: usize = 5;
const TREES: usize = 20;
/// Every tree is edited between one and the next.
const ROUNDS: usize = 5;

/// Where the trees of a context are.
fn roots(context: &Path) -> impl Iterator<Item = PathBuf> {
    (0..DIRECTORIES * TREES).map(|number| context.join(format!("d{}/t{number}", number % DIRECTORIES)))
}

/// Makes the trees of a context, and its Dockerfile.
fn make(context: &Path, trees: &mut Trees) {
    roots(context).for_each(|root| trees.make(&root));
    let copies = (0..DIRECTORIES).map(|number| format!("COPY d{number} /d{number}/\n"));
    let dockerfile = format!("FROM scratch\n{}", copies.collect::<String>());
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
}

fn start(place: &Place, context: usize) -> Child {
    let output = format!("--output=type=tar,dest=out{context}.tar");
    let mut command = place.command(&["build", "--progress=plain", &output, &format!("c{context}")]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What is in the trees of an image, the trees themselves left out.
fn in_image(tar: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut seen = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        let (kind, mut mode) = (header.entry_type(), header.mode().unwrap());
        let path = entry.path().unwrap().components().collect::<PathBuf>();
        let content = if kind.is_dir() {
            None
        } else if kind.is_symlink() {
            mode = 0;
            Some(entry.link_name_bytes().unwrap().into_owned())
        } else if kind.is_hard_link() {
            // A further name of a file that came before.
            let first: &Seen = &seen[&*entry.link_name().unwrap().unwrap()];
            mode = first.mode;
            first.content.clone()
        } else {
            assert!(kind.is_file(), "{path:?} is {kind:?}");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            Some(bytes)
        };
        if path.components().count() > 1 {
            seen.insert(path, Seen { mode, content });
        }
    }
    seen
}

fn on_disk(context: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = see(context);
    seen.retain(|path, _| path.components().count() > 1);
    seen
}

#[test]
fn images_of_a_thousand_trees_have_what_the_disk_has_whatever_was_edited() {
    let place = Place::new();
    let contexts: Vec<PathBuf> = (0..CONTEXTS)
        .map(|number| place.work().join(format!("c{number}")))
        .collect();
    let mut trees: Vec<Trees> = (0..CONTEXTS as u64).map(Trees::new).collect();
    for round in 0..ROUNDS {
        for (context, trees) in contexts.iter().zip(&mut trees) {
            if round == 0 {
                make(context, trees);
            } else {
                roots(context).for_each(|root| trees.edit(&root));
            }
        }
        let builds: Vec<Child> = (0..CONTEXTS).map(|number| start(&place, number)).collect();
        for (number, build) in builds.into_iter().enumerate() {
            let outcome = place.outcome(build.wait_with_output().unwrap()).exits(0);
            let steps = outcome.steps();
            assert_eq!(steps.len(), DIRECTORIES);
            let image = in_image(&place.work().join(format!("out{number}.tar")));
            let disk = on_disk(&contexts[number]);
            assert_eq!(image.keys().collect::<Vec<_>>(), disk.keys().collect::<Vec<_>>());
            for (path, on_disk) in &disk {
                let path_shown = OsStr::from_bytes(path.as_os_str().as_bytes());
                assert_eq!(&image[path], on_disk, "round {round}, context {number}, {path_shown:?}");
            }
        }
    }
    place.end_server();
}
