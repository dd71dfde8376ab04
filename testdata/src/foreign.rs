//! Images for other platforms than this machine's, and a program for one of them that needs no compiler.

use std::path::Path;

use proto::digest::{DiffId, Digest};
use proto::oci::config::{Config, ImageConfig, RootFs};
use proto::oci::manifest::{Index, Manifest};
use proto::oci::{json, media_type};
use proto::platform::Platform;

use crate::image::{Writer, tar_of};

/// An image of a few files, all of them executable.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// What its config says that it runs on.
    pub platform: &'a str,
    /// Paths without a leading slash, and bytes.
    pub files: &'a [(&'a str, &'a [u8])],
}

/// Writes `images` into the empty or absent `directory`, behind an index if there are several; returns the digest of what the
/// layout's only name stands for.
///
/// # Panics
/// If the directory can not be written.
#[must_use]
pub fn layout(directory: &Path, images: &[Described<'_>]) -> Digest {
    let layout = Writer::new(directory);
    let mut manifests = Vec::new();
    for image in images {
        let tar = tar_of(image.files);
        let platform: Platform = image.platform.parse().unwrap();
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            config: Config {
                env: vec![format!("BASE={platform}")],
                ..Config::default()
            },
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: vec![DiffId(Digest::of(&tar))],
            },
            ..ImageConfig::default()
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.to_owned(),
            config: layout.blob(media_type::CONFIG, &json::compact(&config)),
            layers: vec![layout.blob(media_type::LAYER, &tar)],
            annotations: std::collections::BTreeMap::new(),
        };
        let mut descriptor = layout.blob(media_type::MANIFEST, &json::compact(&manifest));
        descriptor.platform = Some(platform);
        manifests.push(descriptor);
    }
    let top = match manifests.as_slice() {
        [single] => single.clone(),
        _ => {
            let index = Index {
                schema_version: 2,
                media_type: media_type::INDEX.to_owned(),
                manifests,
                annotations: std::collections::BTreeMap::new(),
            };
            layout.blob(media_type::INDEX, &json::compact(&index))
        }
    };
    let digest = top.digest;
    layout.finish(top);
    digest
}

/// A program for linux/arm64 that prints what `uname -m` prints, and nothing behind it.
#[must_use]
pub fn uname_arm64() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // `machine` is the fifth of six fields of 65 bytes.
    let code: [u32; 12] = [
        0xd106_83ff, // sub sp, sp, #416
        0x9100_03e0, // mov x0, sp
        0xd280_1408, // mov x8, #160 (uname)
        0xd400_0001, // svc #0
        0xd280_0020, // mov x0, #1
        0x9104_13e1, // add x1, sp, #260
        0xd280_00e2, // mov x2, #7
        0xd280_0808, // mov x8, #64 (write)
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93 (exit)
        0xd400_0001, // svc #0
    ];
    let size = HEADERS + 4 * code.len() as u64;
    let mut program = Vec::new();
    program.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 183] {
        program.extend_from_slice(&half.to_le_bytes());
    }
    program.extend_from_slice(&1_u32.to_le_bytes());
    // Entry, program headers, section headers.
    for long in [BASE + HEADERS, 64, 0] {
        program.extend_from_slice(&long.to_le_bytes());
    }
    program.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        program.extend_from_slice(&half.to_le_bytes());
    }
    // One segment, read and executed: the whole file.
    for word in [1_u32, 5] {
        program.extend_from_slice(&word.to_le_bytes());
    }
    for long in [0, BASE, BASE, size, size, 0x1000] {
        program.extend_from_slice(&long.to_le_bytes());
    }
    for instruction in code {
        program.extend_from_slice(&instruction.to_le_bytes());
    }
    program
}
