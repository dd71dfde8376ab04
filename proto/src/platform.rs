//! A platform: operating system, architecture, variant; and the one normalisation of its spellings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on. Always in normal form (`arm64`, not `aarch64`; `arm/v7`, never plain `arm`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// Set for Windows images only.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// `v7` for `arm/v7`; empty where the architecture has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: expected `os/arch` or `os/arch/variant`")]
pub struct PlatformError(pub String);

/// Operating systems that may stand alone. Source: Go's list of ports, as below.
const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// Architectures that may stand alone.
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// `os`/`architecture`/`variant` in normal form.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = os.to_ascii_lowercase();
        let (architecture, variant) = normal(&architecture.to_ascii_lowercase(), &variant.to_ascii_lowercase());
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        Self {
            architecture,
            os,
            os_version: String::new(),
            variant,
        }
    }
}

/// The table of spellings. Source: containerd's platform normalisation, which docker and BuildKit follow.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64", ""),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PlatformError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let legal = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(legal) {
            return Err(error());
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            // One word is an operating system or an architecture; the other half is what images are mostly for.
            [word] => {
                let (system, architecture) = (Self::new(word, "amd64", ""), Self::new("linux", word, ""));
                if SYSTEMS.contains(&system.os.as_str()) {
                    Ok(system)
                } else if ARCHITECTURES.contains(&architecture.architecture.as_str()) {
                    Ok(architecture)
                } else {
                    Err(error())
                }
            }
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_meet_in_one_normal_form() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("x86_64", "linux/amd64"),
            ("FreeBSD", "freebsd/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "foobar"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
