//! What strangers send: tars that mean something else than they say, images whose documents disagree.
//!
//! Headers are written byte by byte, since no writer of archives makes such ones.

use std::collections::BTreeMap;
use std::path::Path;

use proto::digest::{DiffId, Digest};
use proto::oci::config::{ImageConfig, RootFs};
use proto::oci::manifest::{Descriptor, Manifest};
use proto::oci::{json, media_type};

use crate::image::Writer;

/// The unit of a tar.
pub const BLOCK: usize = 512;

/// A header as its author wants it, with a right checksum.
#[must_use]
pub fn header(name: &[u8], typeflag: u8, link: &[u8], size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..124].copy_from_slice(b"0000000\x000000000\x00");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\x00");
    block[156] = typeflag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..345].copy_from_slice(b"0000000\x000000000\x00");
    sign(&mut block);
    block
}

/// Makes the checksum of a header right.
pub fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A member with its body.
#[must_use]
pub fn member(name: &str, typeflag: u8, link: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(name.as_bytes(), typeflag, link.as_bytes(), body.len() as u64);
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// A small file.
#[must_use]
pub fn plain(name: &str) -> Vec<u8> {
    member(name, b'0', "", b"evil")
}

/// A symbolic link.
#[must_use]
pub fn symlink(name: &str, target: &str) -> Vec<u8> {
    member(name, b'2', target, b"")
}

/// A hard link.
#[must_use]
pub fn hardlink(name: &str, target: &str) -> Vec<u8> {
    member(name, b'1', target, b"")
}

/// A device node; `typeflag` is `3` for characters and `4` for blocks.
#[must_use]
pub fn device(name: &str, typeflag: u8, major: u32, minor: u32) -> Vec<u8> {
    let mut block = header(name.as_bytes(), typeflag, b"", 0);
    block[329..337].copy_from_slice(format!("{major:07o}\0").as_bytes());
    block[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
    sign(&mut block);
    block
}

/// An extended header with one record, for the member that follows.
#[must_use]
pub fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    member("pax", b'x', "", &record(key, value))
}

/// An extended header for all members that follow.
#[must_use]
pub fn global(key: &str, value: &[u8]) -> Vec<u8> {
    member("pax", b'g', "", &record(key, value))
}

/// One record of an extended header: its length counts itself.
///
/// # Panics
/// Never: some number is its own length and that of the rest.
#[must_use]
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| rest + length.to_string().len() == *length);
    [
        length.unwrap().to_string().as_bytes(),
        b" ",
        key.as_bytes(),
        b"=",
        value,
        b"\n",
    ]
    .concat()
}

/// The members and the end of an archive.
#[must_use]
pub fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * BLOCK]].concat()
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    /// The config names another uncompressed layer.
    DiffId,
    /// The config names one layer more.
    OneLayerMore,
    /// The manifest is an index, too.
    Ambiguous,
    /// The index says that the manifest is an index.
    MediaType,
    /// The manifest is larger than its descriptor says.
    Size,
    /// The manifest has other bytes than its digest says.
    Digest,
    /// The config is nested beyond reason.
    Depth,
    /// The manifest has ten thousand layers.
    Layers,
    /// The layer is of a kind that nobody knows.
    LayerType,
    /// The digest of the layer leads out of the layout.
    Path,
    /// It is of the first schema, which had no digests of configs.
    FirstSchema,
}

/// Writes an image of one `layer`, a tar, with `config` and a lie into the empty or absent `directory`, as an OCI layout.
///
/// # Panics
/// If the directory can not be written.
pub fn image(directory: &Path, layer: &[u8], mut config: ImageConfig, lie: Lie) {
    let layout = Writer::new(directory);
    let mut diff_ids = vec![DiffId(Digest::of(layer))];
    match lie {
        Lie::DiffId => diff_ids = vec![DiffId(Digest::of(b"another"))],
        Lie::OneLayerMore => diff_ids.push(DiffId(Digest::of(b"another"))),
        _ => {}
    }
    config.rootfs = RootFs {
        kind: "layers".to_owned(),
        diff_ids,
    };
    let mut config = String::from_utf8(json::compact(&config)).unwrap();
    if lie == Lie::Depth {
        let deep = format!("{{\"deep\":{}{},", "[".repeat(100), "]".repeat(100));
        config = config.replacen('{', &deep, 1);
    }
    let kind = match lie {
        Lie::LayerType => "application/vnd.example.layer",
        _ => media_type::LAYER,
    };
    let layer = layout.blob(kind, layer);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.to_owned(),
        config: layout.blob(media_type::CONFIG, config.as_bytes()),
        layers: vec![layer.clone(); if lie == Lie::Layers { 10_000 } else { 1 }],
        annotations: BTreeMap::new(),
    };
    let mut text = String::from_utf8(json::compact(&manifest)).unwrap();
    match lie {
        Lie::Ambiguous => text = text.replacen('{', "{\"manifests\":[],", 1),
        Lie::Path => text = text.replace(&layer.digest.to_string(), "sha256:../../../../etc/passwd"),
        Lie::FirstSchema => text = r#"{"schemaVersion":1,"name":"a","fsLayers":[{"blobSum":"sha256:0"}]}"#.to_owned(),
        _ => {}
    }
    let manifest = entry(&layout, text.as_bytes(), lie);
    layout.finish(manifest);
}

fn entry(layout: &Writer<'_>, manifest: &[u8], lie: Lie) -> Descriptor {
    let kind = match lie {
        Lie::MediaType => media_type::INDEX,
        _ => media_type::MANIFEST,
    };
    let mut entry = layout.blob(kind, manifest);
    match lie {
        Lie::Size => entry.size -= 1,
        Lie::Digest => {
            let mut other = manifest.to_vec();
            other.push(b' ');
            layout.replace(entry.digest, &other);
        }
        _ => {}
    }
    entry
}
