//! Which hierarchies of control groups are mounted, and where in them this process is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Controller, PROCESSORS, USUAL, Version};

/// A hierarchy that this process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) version: Version,
    pub(super) at: PathBuf,
    /// The group of this process, as a directory.
    pub(super) own: PathBuf,
    /// What it controls, of what steps need.
    pub(super) controllers: Vec<Controller>,
}

impl Mounted {
    /// The group of this process, as far as it can be seen.
    pub(super) fn own_dir(&self) -> &Path {
        match self.own.is_dir() {
            true => &self.own,
            // The path is one of another cgroup namespace.
            false => &self.at,
        }
    }

    /// Whether this process may make groups below its own.
    pub(super) fn is_writable(&self) -> bool {
        rustix::fs::access(self.own_dir(), rustix::fs::Access::WRITE_OK).is_ok()
    }
}

/// Those that control something that steps need.
pub(super) fn read() -> io::Result<Vec<Mounted>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    // A hierarchy of version 2 that cannot be asked controls nothing for us.
    Ok(parse(&table, &membership, |at| {
        fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default()
    }))
}

fn parse(table: &str, membership: &str, controllers_of: impl Fn(&Path) -> String) -> Vec<Mounted> {
    let mut found: Vec<Mounted> = Vec::new();
    for line in table.lines() {
        let Some(mount) = mounted(line, membership, &controllers_of) else {
            continue;
        };
        // The same hierarchy may be mounted at several places; one is enough.
        let known = |controller| found.iter().any(|mount| mount.controllers.contains(controller));
        if !mount.controllers.is_empty() && !mount.controllers.iter().any(known) {
            found.push(mount);
        }
    }
    found
}

fn mounted(line: &str, membership: &str, controllers_of: &impl Fn(&Path) -> String) -> Option<Mounted> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, at) = (mount.next()?, PathBuf::from(mount.next()?));
    let mut file_system = file_system.split(' ');
    let (version, names) = match file_system.next()? {
        "cgroup" => (Version::One, file_system.nth(1)?.replace(',', " ")),
        "cgroup2" => (Version::Two, controllers_of(&at)),
        _ => return None,
    };
    let wanted = USUAL.into_iter().chain(PROCESSORS);
    let controllers: Vec<Controller> = wanted
        .filter(|controller| names.split_whitespace().any(|name| name == controller.name()))
        .collect();
    let own = own_path(membership, version, controllers.first()?.name())?;
    // The mount may show only a part of the hierarchy, which begins at its root.
    let below = Path::new(own).strip_prefix(root).ok();
    let own = below.map_or_else(|| at.clone(), |below| at.join(below));
    Some(Mounted {
        version,
        at,
        own,
        controllers,
    })
}

/// The path of the group from lines such as `8:pids:/a` and `0::/b`.
fn own_path<'a>(membership: &'a str, version: Version, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let matches = match version {
            Version::One => names.split(',').any(|name| name == controller),
            Version::Two => names.is_empty(),
        };
        matches.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(table: &str, membership: &str, version_2: &str, expected: &[(&str, &str, &[Controller])]) {
        let found = parse(table, membership, |_| version_2.to_owned());
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.at, &*one.own, &*one.controllers))
            .collect();
        let expected = expected
            .iter()
            .map(|(at, own, controllers)| (Path::new(at), Path::new(own), *controllers));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    const ALL: &[Controller] = &[
        Controller::Pids,
        Controller::Memory,
        Controller::Cpu,
        Controller::Cpuset,
    ];

    #[test]
    fn version_2_controls_everything_in_one_place() {
        check(
            "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n31 25 0:27 / /proc rw - proc proc rw\n",
            "0::/system.slice/rbuild.service\n",
            "cpuset cpu io memory pids\n",
            &[("/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/rbuild.service", ALL)],
        );
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller_and_version_2_beside_it_none() {
        check(
            "1 2 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             1 2 0:2 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
             1 2 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             1 2 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             1 2 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n1:name=systemd:/\n0::/\n",
            "hugetlb\n",
            &[
                (
                    "/sys/fs/cgroup/cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct/c",
                    &[Controller::Cpu],
                ),
                ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids", &[Controller::Pids]),
                (
                    "/sys/fs/cgroup/memory",
                    "/sys/fs/cgroup/memory/a/b",
                    &[Controller::Memory],
                ),
            ],
        );
    }

    #[test]
    fn a_container_sees_its_own_part_only() {
        check(
            "1 2 0:3 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            "4:memory:/docker/1f/inner\n",
            "",
            &[(
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/memory/inner",
                &[Controller::Memory],
            )],
        );
    }
}
