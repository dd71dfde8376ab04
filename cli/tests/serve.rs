//! Who serves: sockets, locks and versions.

use crate::support::Place;

#[test]
fn asking_for_versions_starts_no_server() {
    let place = Place::new();
    let outcome = place.run(&["version"]).exits(0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(outcome.stdout, format!("client {version}\nserver not running\n"));
    assert!(!place.root().exists());
}

#[test]
fn a_server_takes_no_address_of_another_one() {
    let place = Place::new();
    let outcome = place.run(&["serve", "--builder", "unix:///x.sock"]).exits(2);
    assert!(outcome.stderr.contains("leave out `--builder`"), "{}", outcome.stderr);
    let outcome = place.run(&["serve", "--idle", "soon"]).exits(2);
    assert!(
        outcome.stderr.contains("`soon` is not a duration"),
        "{}",
        outcome.stderr
    );
}
