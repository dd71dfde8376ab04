//! Which programs of other architectures run here: the handlers of `binfmt_misc`, as far as they work inside a step.
//!
//! A handler opens its emulator when it is registered (flag `F`) or when a program starts. In the second case the emulator would
//! have to be in the image, so only the first kind counts.
//!
//! Source: Linux, `Documentation/admin-guide/binfmt-misc.rst`; the ELF header of the System V ABI.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use proto::platform::Platform;
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Where the handlers are listed, if somebody mounted the list.
const TABLE: &str = "/proc/sys/fs/binfmt_misc";

/// Architectures that emulators are made for, by what the headers of their programs say.
const MACHINES: [Machine; 13] = [
    Machine::new("amd64", "", Word::Bits64, Order::Little, 62),
    Machine::new("386", "", Word::Bits32, Order::Little, 3),
    Machine::new("arm64", "", Word::Bits64, Order::Little, 183),
    Machine::new("arm", "v7", Word::Bits32, Order::Little, 40),
    Machine::new("riscv64", "", Word::Bits64, Order::Little, 243),
    Machine::new("ppc64le", "", Word::Bits64, Order::Little, 21),
    Machine::new("ppc64", "", Word::Bits64, Order::Big, 21),
    Machine::new("s390x", "", Word::Bits64, Order::Big, 22),
    Machine::new("loong64", "", Word::Bits64, Order::Little, 258),
    Machine::new("mips64le", "", Word::Bits64, Order::Little, 8),
    Machine::new("mips64", "", Word::Bits64, Order::Big, 8),
    Machine::new("mipsle", "", Word::Bits32, Order::Little, 8),
    Machine::new("mips", "", Word::Bits32, Order::Big, 8),
];

#[derive(Debug, Clone, Copy)]
struct Machine {
    architecture: &'static str,
    variant: &'static str,
    word: Word,
    order: Order,
    number: u16,
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Bits32 = 1,
    Bits64 = 2,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Little = 1,
    Big = 2,
}

impl Machine {
    const fn new(architecture: &'static str, variant: &'static str, word: Word, order: Order, number: u16) -> Self {
        Self {
            architecture,
            variant,
            word,
            order,
            number,
        }
    }

    fn platform(&self) -> Platform {
        Platform::new("linux", self.architecture, self.variant)
    }

    /// The first bytes of a program.
    fn header(&self) -> [u8; 20] {
        let mut header = [0; 20];
        header[..4].copy_from_slice(b"\x7fELF");
        header[4] = self.word as u8;
        header[5] = self.order as u8;
        header[6] = 1;
        let bytes = |value: u16| match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        };
        // An executable, not a library.
        header[16..18].copy_from_slice(&bytes(2));
        header[18..].copy_from_slice(&bytes(self.number));
        header
    }
}

/// Whether steps of a platform run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// By the processor.
    Native,
    /// By this handler.
    Emulated(String),
    /// This handler would do, but its emulator is looked for in the image.
    NotFixed(String),
    /// Not at all.
    Missing,
    /// Nobody may look at the list of handlers here: only trying tells.
    Unknown,
}

/// The handlers of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handlers {
    /// Nothing: the list cannot be read.
    list: Option<Vec<Handler>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Handler {
    name: String,
    fixed: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Handlers {
    /// Reads the list. Handlers come and go, so nobody keeps it.
    #[must_use]
    pub fn read() -> Self {
        let list = read_table().unwrap_or_else(|error| {
            tracing::debug!(%error, "the handlers of binfmt_misc cannot be read");
            None
        });
        Self { list }
    }

    /// Whether steps of `wanted` run on a machine of `native`.
    #[must_use]
    pub fn support(&self, wanted: &Platform, native: &Platform) -> Support {
        if wanted.os != native.os {
            return Support::Missing;
        }
        if runs_natively(&wanted.architecture, &native.architecture) {
            return Support::Native;
        }
        let Some(list) = &self.list else {
            return Support::Unknown;
        };
        let machine = MACHINES
            .iter()
            .find(|machine| machine.architecture == wanted.architecture);
        let Some(header) = machine.map(Machine::header) else {
            return Support::Missing;
        };
        let fitting = || list.iter().filter(|handler| handler.takes(&header));
        match (fitting().find(|handler| handler.fixed), fitting().next()) {
            (Some(handler), _) => Support::Emulated(handler.name.clone()),
            (None, Some(handler)) => Support::NotFixed(handler.name.clone()),
            // Some processors run the 32-bit programs of their family and some do not; the list does not say.
            (None, None) if (native.architecture.as_str(), wanted.architecture.as_str()) == ("arm64", "arm") => {
                Support::Unknown
            }
            (None, None) => Support::Missing,
        }
    }

    /// Platforms whose steps run on a machine of `native`, its own first.
    #[must_use]
    pub fn runnable(&self, native: &Platform) -> Vec<Platform> {
        let mut runnable = vec![native.clone()];
        for machine in &MACHINES {
            let platform = machine.platform();
            let support = self.support(&platform, native);
            let same = platform.architecture == native.architecture;
            if !same && matches!(support, Support::Native | Support::Emulated(_)) {
                runnable.push(platform);
            }
        }
        runnable
    }
}

fn runs_natively(wanted: &str, native: &str) -> bool {
    wanted == native || (native, wanted) == ("amd64", "386")
}

impl Handler {
    /// Reads what the kernel says of a handler; nothing for one that is off, or that goes by the end of file names.
    fn parse(name: &str, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some("enabled") {
            return None;
        }
        let mut handler = Self {
            name: name.to_owned(),
            fixed: false,
            offset: 0,
            magic: Vec::new(),
            mask: Vec::new(),
        };
        for line in lines {
            match line.split_once(' ') {
                Some(("flags:", flags)) => handler.fixed = flags.contains('F'),
                Some(("offset", offset)) => handler.offset = offset.parse().ok()?,
                Some(("magic", magic)) => handler.magic = hex(magic)?,
                Some(("mask", mask)) => handler.mask = hex(mask)?,
                _ => {}
            }
        }
        (!handler.magic.is_empty()).then_some(handler)
    }

    /// Whether the kernel gives a program that begins like this to the handler.
    fn takes(&self, header: &[u8]) -> bool {
        let Some(end) = self.offset.checked_add(self.magic.len()) else {
            return false;
        };
        let Some(bytes) = header.get(self.offset..end) else {
            return false;
        };
        let mask = self.mask.iter().copied().chain(std::iter::repeat(0xff));
        let mut compared = bytes.iter().zip(&self.magic).zip(mask);
        compared.all(|((byte, magic), mask)| (byte ^ magic) & mask == 0)
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// Nothing if there may be handlers that nobody can see from here.
fn read_table() -> io::Result<Option<Vec<Handler>>> {
    let Some(table) = open_table()? else {
        return Ok(None);
    };
    if read_entry(&table, "status")?.trim() != "enabled" {
        return Ok(Some(Vec::new()));
    }
    let mut list = Vec::new();
    for entry in Dir::read_from(&table)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "." | ".." | "register" | "status") {
            continue;
        }
        match read_entry(&table, &name) {
            Ok(text) => list.extend(Handler::parse(&name, &text)),
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(list))
}

fn read_entry(table: &OwnedFd, name: &str) -> io::Result<String> {
    let file = openat(table, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    // The kernel prints a page at most.
    File::from(file).take(1 << 16).read_to_string(&mut text)?;
    Ok(text)
}

/// The list where it is mounted, or a view of it that is mounted nowhere.
fn open_table() -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(table) = openat(rustix::fs::CWD, TABLE, flags, Mode::empty())
        && rustix::fs::accessat(
            &table,
            "status",
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
    {
        return Ok(Some(table));
    }
    // A user namespace would get a list of its own, and an empty one, from being asked.
    let ids = std::fs::read_to_string("/proc/self/uid_map")?;
    if !rustix::process::geteuid().is_root() || ids.split_whitespace().ne(["0", "0", "4294967295"]) {
        return Ok(None);
    }
    let config = fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(config.as_fd())?;
    let view = fsmount(
        config.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?;
    Ok(Some(openat(&view, ".", flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled
interpreter /usr/bin/emulator
flags: POF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
";

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn support(handlers: &[(&str, &str)], wanted: &str) -> Support {
        let list = handlers.iter().filter_map(|(name, text)| Handler::parse(name, text));
        let handlers = Handlers {
            list: Some(list.collect()),
        };
        handlers.support(&platform(wanted), &platform("linux/amd64"))
    }

    #[test]
    fn a_handler_is_known_by_the_programs_it_takes_and_not_by_its_name() {
        let handlers = [("any name", ARM64)];
        assert_eq!(support(&handlers, "linux/arm64"), Support::Emulated("any name".into()));
        assert_eq!(support(&handlers, "linux/arm/v7"), Support::Missing);
        assert_eq!(support(&handlers, "linux/s390x"), Support::Missing);
        assert_eq!(support(&handlers, "linux/386"), Support::Native);
        assert_eq!(support(&handlers, "linux/amd64/v3"), Support::Native);
        assert_eq!(support(&handlers, "windows/amd64"), Support::Missing);
    }

    #[test]
    fn a_handler_whose_emulator_is_not_held_open_does_not_work_in_steps() {
        let loose = ARM64.replace("POF", "OC");
        assert_eq!(support(&[("q", &loose)], "linux/arm64"), Support::NotFixed("q".into()));
        let both = [("a", loose.as_str()), ("b", ARM64)];
        assert_eq!(support(&both, "linux/arm64"), Support::Emulated("b".into()));
    }

    #[test]
    fn handlers_that_are_off_or_unreadable_do_not_count() {
        for text in [
            ARM64.replace("enabled", "disabled"),
            ARM64.replace("b700", "b70"),
            ARM64.replace("offset 0", "offset 18446744073709551615"),
            "enabled\ninterpreter /x\nflags: F\nextension .py\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(support(&[("q", &text)], "linux/arm64"), Support::Missing, "{text}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_proves_nothing() {
        let handlers = Handlers { list: None };
        let native = platform("linux/amd64");
        assert_eq!(handlers.support(&platform("linux/arm64"), &native), Support::Unknown);
        assert_eq!(handlers.support(&native, &native), Support::Native);
        assert_eq!(handlers.runnable(&native), [native, platform("linux/386")]);
    }
}
