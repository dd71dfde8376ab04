//! What every snapshotter promises.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use builder::snapshot::overlay::OverlaySnapshotter;
use builder::snapshot::rootfs::Rootfs;
use builder::snapshot::{CreateError, SnapshotError, Snapshotter, create};
use proto::digest::{ChainId, Digest};
use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, OFlags};
use testdata::machine::{Need, lacks};

fn chain(text: &str) -> ChainId {
    ChainId(Digest::of(text.as_bytes()))
}

fn store() -> (tempfile::TempDir, OverlaySnapshotter) {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = OverlaySnapshotter::open(&dir.path().join("snapshots")).unwrap();
    (dir, snapshots)
}

fn commit(snapshots: &dyn Snapshotter, parents: &[ChainId], name: &str) -> ChainId {
    let active = snapshots.prepare(parents).unwrap();
    std::fs::write(active.upper.join(name), name).unwrap();
    snapshots.commit(active, &chain(name)).unwrap();
    chain(name)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_a_failed_step_left_is_kept_elsewhere_and_lies_on_its_parents() {
    let (dir, snapshots) = store();
    let base = commit(&snapshots, &[], "base");
    snapshots.sync().unwrap();
    let active = snapshots.prepare(&[base]).unwrap();
    std::fs::write(active.upper.join("half"), "half").unwrap();
    rustix::fs::chmod(&active.upper, Mode::from_raw_mode(0o710)).unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    snapshots.keep(active, &kept).unwrap();
    assert_eq!(snapshots.others().unwrap(), [""; 0], "nothing of it is left here");
    snapshots.sweep().unwrap();
    assert_eq!(names(&snapshots.kept_dir(&kept)), ["half"]);
    let again = snapshots.prepare_on_kept(&[base], &kept).unwrap();
    let Rootfs::Overlay { lower, upper } = &again.rootfs else {
        panic!("{:?}", again.rootfs)
    };
    assert_eq!(*lower, [snapshots.kept_dir(&kept), snapshots.layer_dir(&base)]);
    assert_eq!(upper.as_ref().unwrap().dir, again.upper);
    let mode = std::fs::metadata(&again.upper).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o710, "the root directory is as the step left it");
    snapshots.abandon(again).unwrap();
    assert_eq!(names(&snapshots.kept_dir(&kept)), ["half"]);
    let missing = snapshots.prepare_on_kept(&[chain("none")], &kept);
    assert!(matches!(missing, Err(SnapshotError::Missing(_))));
}

#[test]
fn a_committed_snapshot_is_a_parent() {
    let (_dir, snapshots) = store();
    assert!(!snapshots.contains(&chain("one")));
    let one = commit(&snapshots, &[], "one");
    let two = commit(&snapshots, &[one], "two");
    assert!(snapshots.contains(&one) && snapshots.contains(&two));
    let active = snapshots.prepare(&[one, two]).unwrap();
    let Rootfs::Overlay { lower, upper } = &active.rootfs else {
        panic!("{:?}", active.rootfs)
    };
    assert_eq!(
        *lower,
        [snapshots.layer_dir(&two), snapshots.layer_dir(&one)],
        "topmost first"
    );
    assert_eq!(upper.as_ref().unwrap().dir, active.upper);
    let view = snapshots.view(&[one, two]).unwrap();
    assert_eq!(
        view,
        Rootfs::Overlay {
            lower: lower.clone(),
            upper: None
        }
    );
    snapshots.abandon(active).unwrap();
}

#[test]
fn a_missing_parent_is_named() {
    let (_dir, snapshots) = store();
    let one = commit(&snapshots, &[], "one");
    for result in [
        snapshots.prepare(&[one, chain("none")]).map(drop),
        snapshots.view(&[one, chain("none")]).map(drop),
    ] {
        assert!(matches!(result, Err(SnapshotError::Missing(missing)) if missing == chain("none")));
    }
}

#[test]
fn of_two_snapshots_with_one_name_the_first_stays() {
    let (dir, snapshots) = store();
    let (first, second) = (snapshots.prepare(&[]).unwrap(), snapshots.prepare(&[]).unwrap());
    std::fs::write(first.upper.join("first"), "").unwrap();
    std::fs::write(second.upper.join("second"), "").unwrap();
    snapshots.commit(first, &chain("x")).unwrap();
    snapshots.commit(second, &chain("x")).unwrap();
    assert_eq!(names(&snapshots.layer_dir(&chain("x"))), ["first"]);
    assert_eq!(names(&dir.path().join("snapshots")).len(), 1, "nothing else is left");
}

#[test]
fn an_abandoned_snapshot_leaves_nothing() {
    let (dir, snapshots) = store();
    let active = snapshots.prepare(&[]).unwrap();
    std::fs::create_dir_all(active.upper.join("a/b")).unwrap();
    snapshots.abandon(active).unwrap();
    assert_eq!(names(&dir.path().join("snapshots")), [""; 0]);
}

#[test]
fn the_root_directory_looks_as_it_does_below() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, snapshots) = store();
    let active = snapshots.prepare(&[]).unwrap();
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&active.upper), 0o755);
    std::fs::set_permissions(&active.upper, std::fs::Permissions::from_mode(0o711)).unwrap();
    snapshots.commit(active, &chain("x")).unwrap();
    let above = snapshots.prepare(&[chain("x")]).unwrap();
    assert_eq!(mode(&above.upper), 0o711);
    snapshots.abandon(above).unwrap();
}

#[test]
fn creating_ends_in_all_or_nothing() {
    let (dir, snapshots) = store();
    let one = commit(&snapshots, &[], "one");
    let made = create(&snapshots, &[one], &chain("two"), |dest, lowers| {
        assert_eq!(lowers, [snapshots.layer_dir(&one)]);
        std::fs::write(dest.join("file"), "").map(|()| 7)
    });
    assert_eq!(made.unwrap(), 7);
    assert_eq!(names(&snapshots.layer_dir(&chain("two"))), ["file"]);
    let failed = create(&snapshots, &[], &chain("three"), |dest, _| {
        std::fs::write(dest.join("file"), "")?;
        Err::<(), _>(std::io::Error::other("full"))
    });
    assert!(matches!(failed, Err(CreateError::Fill(_))));
    assert!(!snapshots.contains(&chain("three")));
    assert_eq!(names(&dir.path().join("snapshots")).len(), 2);
}

#[test]
fn listing_tells_sizes() {
    let (_dir, snapshots) = store();
    let one = commit(&snapshots, &[], "one");
    let active = snapshots.prepare(&[]).unwrap();
    std::fs::write(active.upper.join("big"), vec![7; 1 << 20]).unwrap();
    snapshots.commit(active, &chain("big")).unwrap();
    snapshots.sync().unwrap();
    let list = snapshots.list().unwrap();
    let size = |chain| list.iter().find(|info| info.chain == chain).unwrap().disk_bytes;
    assert_eq!(list.len(), 2);
    assert!(size(one) < 1 << 20);
    assert!((1 << 20..2 << 20).contains(&size(chain("big"))));
    assert!(list.is_sorted_by_key(|info| info.chain));
}

#[test]
fn sweeping_keeps_what_is_durable_only() {
    let (dir, snapshots) = store();
    let kept = commit(&snapshots, &[], "kept");
    snapshots.sync().unwrap();
    let lost = commit(&snapshots, &[], "lost");
    drop(snapshots.prepare(&[kept]).unwrap());
    let next_owner = OverlaySnapshotter::open(&dir.path().join("snapshots")).unwrap();
    next_owner.sweep().unwrap();
    assert!(next_owner.contains(&kept) && !next_owner.contains(&lost));
    assert_eq!(names(&dir.path().join("snapshots")).len(), 1);
}

#[test]
fn what_a_killed_process_committed_is_kept_while_the_machine_runs_on() {
    let dir = tempfile::tempdir().unwrap();
    let open = |boot: Option<&str>| {
        let snapshots = OverlaySnapshotter::open(&dir.path().join("snapshots")).unwrap();
        snapshots.on_boot(boot.map(str::to_owned))
    };
    let kept = commit(&open(Some("one")), &[], "kept");
    let next_owner = open(Some("one"));
    next_owner.sweep().unwrap();
    assert!(next_owner.contains(&kept));
    // From now on it is durable.
    next_owner.sync().unwrap();
    let lost = commit(&next_owner, &[], "lost");
    let after_power_cut = open(Some("two"));
    after_power_cut.sweep().unwrap();
    assert!(after_power_cut.contains(&kept) && !after_power_cut.contains(&lost));
    let nameless = commit(&open(None), &[], "nameless");
    let nobody_knows = open(None);
    nobody_knows.sweep().unwrap();
    assert!(
        !nobody_knows.contains(&nameless),
        "nothing says that the machine ran on"
    );
}

#[test]
fn removal_copes_with_deep_trees() {
    let (dir, snapshots) = store();
    let active = snapshots.prepare(&[]).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = rustix::fs::open(&active.upper, flags, Mode::empty()).unwrap();
    // Deeper than any path can say, and than we may open files.
    for _ in 0..1200 {
        rustix::fs::mkdirat(&here, "deep", Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "deep", flags, Mode::empty()).unwrap();
        rustix::fs::symlinkat("/", &here, "moved-1").unwrap();
    }
    snapshots.abandon(active).unwrap();
    assert_eq!(names(&dir.path().join("snapshots")), [""; 0]);
}

#[test]
fn removal_copes_with_what_root_can_make() {
    if lacks("removal_copes_with_what_root_can_make", &[Need::Root]) {
        return;
    }
    let (_dir, snapshots) = store();
    let one = commit(&snapshots, &[], "one");
    let layer = snapshots.layer_dir(&one);
    rustix::fs::mknodat(CWD, layer.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    std::fs::create_dir(layer.join("locked")).unwrap();
    std::fs::write(layer.join("locked/file"), "").unwrap();
    for name in ["locked/file", "locked"] {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(layer.join(name), flags, Mode::empty()).unwrap();
        // File systems without such marks have nothing to cope with.
        if let Err(error) = set_immutable(&file) {
            assert!(
                matches!(error, rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP),
                "{error}"
            );
        }
    }
    snapshots.remove(&one).unwrap();
    assert!(!snapshots.contains(&one));
    assert!(rustix::fs::accessat(CWD, &layer, rustix::fs::Access::EXISTS, AtFlags::empty()).is_err());
    snapshots.remove(&one).unwrap();
}

fn set_immutable(file: &OwnedFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(file)?;
    rustix::fs::ioctl_setflags(file, flags | IFlags::IMMUTABLE)
}

#[test]
fn a_damaged_snapshot_is_out_of_sight_and_stays_for_who_runs_on_it() {
    let (dir, snapshots) = store();
    let one = commit(&snapshots, &[], "one");
    let file = std::fs::File::open(snapshots.layer_dir(&one)).unwrap();
    let hidden = snapshots.set_aside(&one).unwrap();
    assert!(!snapshots.contains(&one));
    let opened = std::path::PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    assert_eq!(std::fs::read_to_string(opened.join("one")).unwrap(), "one");
    drop(snapshots.set_aside(&one).unwrap());
    snapshots.remove_hidden(hidden).unwrap();
    assert_eq!(snapshots.others().unwrap(), [""; 0], "nothing is left of it");
    commit(&snapshots, &[], "one");
    assert!(snapshots.contains(&one));
    snapshots.sync().unwrap();
    snapshots.sweep().unwrap();
    assert_eq!(names(&dir.path().join("snapshots")), [one.0.hex()]);
}
