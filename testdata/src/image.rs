//! Images in OCI layout directories: a base image out of this machine's own shell, and a reader for what was built.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proto::digest::{DiffId, Digest};
use proto::oci::config::{Config, History, ImageConfig, RootFs};
use proto::oci::manifest::{Descriptor, Index, Manifest};
use proto::oci::{json, media_type};
use proto::platform::Platform;

/// A shell and its friends in one file that needs no library.
pub const BUSYBOX: &str = "/bin/busybox";

/// The programs that steps of tests use.
const APPLETS: &str = "ash cat chmod chown cmp cp cut date dd df echo env expr false find grep head hostname id ip kill ln \
     ls md5sum mkdir mknod mount mv nc od ping printf ps pwd readlink rm rmdir sed seq sh sha256sum sleep sort stat sync \
     tail tar tee test touch tr true umount uname wc wget which whoami xargs yes";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n";
const GROUP: &str = "root:x:0:\nstaff:x:1001:\nextra:x:2000:alice\n";

/// What the label of a base image is called.
pub const LABEL: &str = "test.base";

/// Writes a base image into the empty or absent `directory`; returns the digest of its manifest.
///
/// It has a shell, the users `root` and `alice` (1000:1001, also in `extra`), a `PATH`, and `marker` as a label: another
/// marker gives another image with the same layer.
///
/// # Panics
/// If the directory can not be written.
#[must_use]
pub fn busybox(directory: &Path, marker: &str) -> Digest {
    let tar = base_layer();
    let layout = Writer::new(directory);
    let layer = layout.blob(media_type::LAYER_GZIP, &gzip(&tar));
    let config = base_config(DiffId(Digest::of(&tar)), marker);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.to_owned(),
        config: layout.blob(media_type::CONFIG, &json::compact(&config)),
        layers: vec![layer],
        annotations: BTreeMap::new(),
    };
    let descriptor = layout.blob(media_type::MANIFEST, &json::compact(&manifest));
    let digest = descriptor.digest;
    layout.finish(descriptor);
    digest
}

fn base_config(diff_id: DiffId, marker: &str) -> ImageConfig {
    ImageConfig {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        created: Some("2024-01-01T00:00:00Z".to_owned()),
        config: Config {
            env: vec!["PATH=/usr/bin:/bin".to_owned()],
            cmd: Some(vec!["sh".to_owned()]),
            labels: BTreeMap::from([(LABEL.to_owned(), marker.to_owned())]),
            ..Config::default()
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![diff_id],
        },
        history: vec![History {
            created: Some("2024-01-01T00:00:00Z".to_owned()),
            created_by: "busybox".to_owned(),
            ..History::default()
        }],
        ..ImageConfig::default()
    }
}

/// The name that OCI has for this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn base_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let directories = "bin/ dev/ etc/ home/ home/alice/ proc/ root/ run/ sys/ tmp/ usr/ usr/bin/ var/";
    for path in directories.split(' ') {
        let mode = if path == "tmp/" { 0o1777 } else { 0o755 };
        append(&mut tar, path, tar::EntryType::Directory, mode, b"");
    }
    let busybox = std::fs::read(BUSYBOX).unwrap();
    append(&mut tar, "bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
    for applet in APPLETS.split_whitespace() {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    append(&mut tar, "etc/group", tar::EntryType::Regular, 0o644, GROUP.as_bytes());
    append(
        &mut tar,
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        PASSWD.as_bytes(),
    );
    tar.into_inner().unwrap()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_704_067_200);
    header
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
    let mut header = header(kind, mode, content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer with these files and their directories, all of mode 0755.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut directories = std::collections::BTreeSet::new();
    for (path, _) in files {
        let parents = Path::new(path).ancestors().skip(1);
        directories.extend(parents.filter(|parent| !parent.as_os_str().is_empty()));
    }
    for directory in directories {
        let name = format!("{}/", directory.display());
        append(&mut tar, &name, tar::EntryType::Directory, 0o755, b"");
    }
    for (path, content) in files {
        append(&mut tar, path, tar::EntryType::Regular, 0o755, content);
    }
    tar.into_inner().unwrap()
}

/// Writes an OCI layout.
pub(crate) struct Writer<'a> {
    directory: &'a Path,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(directory: &'a Path) -> Self {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { directory }
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        std::fs::write(blob_path(self.directory, &digest), bytes).unwrap();
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// Puts other bytes where those of `digest` are.
    pub(crate) fn replace(&self, digest: Digest, bytes: &[u8]) {
        std::fs::write(blob_path(self.directory, &digest), bytes).unwrap();
    }

    pub(crate) fn finish(self, mut manifest: Descriptor) {
        let name = "org.opencontainers.image.ref.name".to_owned();
        manifest.annotations.insert(name, "latest".to_owned());
        let index = Index {
            schema_version: 2,
            media_type: media_type::INDEX.to_owned(),
            manifests: vec![manifest],
            annotations: BTreeMap::new(),
        };
        std::fs::write(self.directory.join("index.json"), json::compact(&index)).unwrap();
    }
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// The images behind the index that an OCI layout directory is about, in its order, each read like [`Image::read`].
///
/// # Panics
/// If it is about no index, or is not whole.
#[must_use]
pub fn platforms(directory: &Path) -> (Digest, Vec<(Platform, Image)>) {
    let outer: Index = serde_json::from_slice(&std::fs::read(directory.join("index.json")).unwrap()).unwrap();
    let top = &outer.manifests[0];
    assert_eq!(top.media_type, media_type::INDEX);
    assert_eq!(top.platform, None, "an index is for no platform of its own");
    let index: Index = serde_json::from_slice(&verified(directory, &top.digest)).unwrap();
    let images = index.manifests.iter().map(|entry| {
        let platform = entry.platform.clone().expect("entries of an index say their platform");
        (platform, Image::of(directory, entry.digest))
    });
    (top.digest, images.collect())
}

/// The first image of an OCI layout directory, every byte of it verified.
#[derive(Debug)]
pub struct Image {
    directory: PathBuf,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
}

/// A file as a layer has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry {
    /// Path as written, `dir/` with its slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u64, u64),
    /// Seconds since 1970.
    pub mtime: u64,
    /// Bytes of a regular file.
    pub content: Vec<u8>,
}

impl Image {
    /// Reads manifest and config.
    ///
    /// # Panics
    /// If the layout is not whole.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        let index: Index = serde_json::from_slice(&std::fs::read(directory.join("index.json")).unwrap()).unwrap();
        Self::of(directory, index.manifests[0].digest)
    }

    fn of(directory: &Path, digest: Digest) -> Self {
        let manifest: Manifest = serde_json::from_slice(&verified(directory, &digest)).unwrap();
        let config: ImageConfig = serde_json::from_slice(&verified(directory, &manifest.config.digest)).unwrap();
        assert_eq!(
            manifest.layers.len(),
            config.rootfs.diff_ids.len(),
            "one diff ID a layer"
        );
        Self {
            directory: directory.to_owned(),
            digest,
            manifest,
            config,
        }
    }

    /// The entries of a layer, in their order; its diff ID is verified.
    ///
    /// # Panics
    /// If the layer is damaged.
    #[must_use]
    pub fn layer(&self, number: usize) -> Vec<LayerEntry> {
        let descriptor = &self.manifest.layers[number];
        let bytes = decompressed(descriptor, &verified(&self.directory, &descriptor.digest));
        assert_eq!(
            DiffId(Digest::of(&bytes)),
            self.config.rootfs.diff_ids[number],
            "diff ID of layer {number}"
        );
        entries(&bytes)
    }

    /// The paths of a layer, in their order.
    #[must_use]
    pub fn paths(&self, number: usize) -> Vec<String> {
        self.layer(number).into_iter().map(|entry| entry.path).collect()
    }
}

/// The entries of an uncompressed tar.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn entries(tar: &[u8]) -> Vec<LayerEntry> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        entries.push(LayerEntry {
            path: entry.path().unwrap().to_str().unwrap().to_owned(),
            mode: header.mode().unwrap() & 0o7777,
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            mtime: header.mtime().unwrap(),
            content,
        });
    }
    entries
}

fn verified(directory: &Path, digest: &Digest) -> Vec<u8> {
    let bytes = std::fs::read(blob_path(directory, digest)).unwrap();
    assert_eq!(Digest::of(&bytes), *digest);
    bytes
}

fn decompressed(descriptor: &Descriptor, bytes: &[u8]) -> Vec<u8> {
    match descriptor.media_type.as_str() {
        media_type::LAYER => bytes.to_vec(),
        media_type::LAYER_ZSTD => zstd::decode_all(bytes).unwrap(),
        media_type::LAYER_GZIP => {
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(bytes)
                .read_to_end(&mut plain)
                .unwrap();
            plain
        }
        other => panic!("a layer of type `{other}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Need, lacks};

    #[test]
    fn the_base_image_is_read_back_and_is_the_same_every_time() {
        if lacks(
            "the_base_image_is_read_back_and_is_the_same_every_time",
            &[Need::Busybox],
        ) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let digest = busybox(&directory.path().join("a"), "one");
        assert_eq!(busybox(&directory.path().join("b"), "one"), digest);
        assert_ne!(busybox(&directory.path().join("c"), "two"), digest);
        let image = Image::read(&directory.path().join("a"));
        assert_eq!(image.digest, digest);
        assert!(image.paths(0).contains(&"bin/sh".to_owned()));
        assert_eq!(image.config.config.labels[LABEL], "one");
    }
}
