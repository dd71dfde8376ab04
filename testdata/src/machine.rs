//! What a test needs of the machine, and what happens if it is not there.

use std::io::Write;
use std::path::Path;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To be root: owners and devices.
    Root,
    /// To be root and to be allowed to mount: steps run in namespaces of their own.
    Sandbox,
    /// The statically linked shell that base images are made of.
    Busybox,
    /// The program `git`, where the system or its owner put it.
    Git,
    /// A program, by its absolute path.
    Program(&'static str),
    /// An emulator for linux/arm64 that steps can use, on a machine of another architecture.
    Arm64Emulator,
}

impl Need {
    /// What is missing, in words; nothing if it is there.
    fn lacking(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "to be run by root".to_owned()),
            Self::Sandbox => (!may_mount()).then(|| "the right to mount, which root has".to_owned()),
            Self::Busybox => Self::Program(crate::image::BUSYBOX).lacking(),
            Self::Arm64Emulator => (!emulates_arm64()).then(|| {
                "a handler for arm64 with the flag F in /proc/sys/fs/binfmt_misc, as qemu-user-static registers it"
                    .to_owned()
            }),
            Self::Git => {
                let places = ["/usr/bin/git", "/usr/local/bin/git"];
                (!places.iter().any(|path| Path::new(path).exists())).then(|| "`git`".to_owned())
            }
            Self::Program(path) => (!Path::new(path).exists()).then(|| format!("`{path}`")),
        }
    }
}

/// Whether this process has `CAP_SYS_ADMIN`: root in a plain container has not.
fn may_mount() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & SYS_ADMIN != 0
}

/// Whether a handler takes the headers of arm64 programs and holds its emulator open.
fn emulates_arm64() -> bool {
    const MACHINE: &str = "0200b700";
    let Ok(handlers) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return false;
    };
    let texts = handlers.filter_map(|handler| std::fs::read_to_string(handler.unwrap().path()).ok());
    let line = |text: &str, start: &str| text.lines().find_map(|line| Some(line.strip_prefix(start)?.to_owned()));
    texts.into_iter().any(|text| {
        let magic =
            line(&text, "magic ").is_some_and(|magic| magic.starts_with("7f454c46") && magic.ends_with(MACHINE));
        text.starts_with("enabled") && magic && line(&text, "flags: ").is_some_and(|flags| flags.contains('F'))
    })
}

/// A number that whoever runs the tests gives them, or `otherwise`: rounds, sizes.
///
/// # Panics
/// If it is no number.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is how tests are told something")]
pub fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// A path that whoever runs the tests gives them.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "as for `number`")]
pub fn path(variable: &str) -> Option<String> {
    // One that is no text is as good as none, here.
    std::env::var(variable).ok()
}

/// True if the machine lacks one of `needs`; `test` is named on stderr then, past the capture of the test harness.
///
/// # Panics
/// If something is missing and `RBUILD_TEST_REQUIRE` is `all`: where everything should be there, nothing is skipped. Emulators
/// are excused by `RBUILD_TEST_NO_EMULATOR`, since a kernel that takes none cannot be talked into it.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the environment of the tests, not of the program"
)]
pub fn lacks(test: &str, needs: &[Need]) -> bool {
    let Some((need, missing)) = needs.iter().find_map(|need| Some((need, need.lacking()?))) else {
        return false;
    };
    let required = std::env::var_os("RBUILD_TEST_REQUIRE").is_some_and(|value| value == "all");
    let excused = *need == Need::Arm64Emulator && std::env::var_os("RBUILD_TEST_NO_EMULATOR").is_some();
    assert!(
        !required || excused,
        "{test} needs {missing}, and RBUILD_TEST_REQUIRE=all"
    );
    let line = format!("SKIPPED {test}: it needs {missing}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            Need::Program("/no/such/program").lacking().unwrap(),
            "`/no/such/program`"
        );
        assert_eq!(Need::Program("/proc/self/exe").lacking(), None);
    }
}
