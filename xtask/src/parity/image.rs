//! Reads an image from an OCI layout in a tar: its config and its layers, uncompressed.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// An image as an exporter left it.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) config: Value,
    /// Tars, the lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
}

/// The first image of the layout in `archive`.
pub(crate) fn read(archive: &Path) -> Result<Image> {
    let file = File::open(archive).with_context(|| archive.display().to_string())?;
    from_tar(file).with_context(|| archive.display().to_string())
}

fn from_tar(archive: impl Read) -> Result<Image> {
    let mut files = HashMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path.trim_start_matches("./").to_owned(), content);
    }
    let mut manifest: Value = serde_json::from_slice(files.get("index.json").context("no index.json")?)?;
    while let Some(descriptors) = manifest.get("manifests") {
        let first = descriptors.get(0).context("an index without manifests")?;
        manifest = serde_json::from_slice(blob(&files, first)?)?;
    }
    let config = manifest.get("config").context("a manifest without config")?;
    let layers = manifest.get("layers").and_then(Value::as_array);
    Ok(Image {
        config: serde_json::from_slice(blob(&files, config)?)?,
        // The reference builder writes `null` for an image without layers.
        layers: layers
            .into_iter()
            .flatten()
            .map(|layer| uncompressed(blob(&files, layer)?))
            .collect::<Result<_>>()?,
    })
}

fn blob<'a>(files: &'a HashMap<String, Vec<u8>>, descriptor: &Value) -> Result<&'a [u8]> {
    let digest = descriptor.get("digest").and_then(Value::as_str);
    let digest = digest.context("a descriptor without digest")?;
    let path = format!("blobs/{}", digest.replace(':', "/"));
    Ok(files.get(&path).with_context(|| format!("`{path}` is missing"))?)
}

fn uncompressed(layer: &[u8]) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    match layer {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(layer).read_to_end(&mut tar)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Ok(zstd::decode_all(layer)?),
        _ => return Ok(layer.to_vec()),
    };
    if tar.is_empty() {
        bail!("a compressed layer without content");
    }
    Ok(tar)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn layout(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn config_and_layers_are_found_through_nested_indexes_in_every_compression() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"one").unwrap();
        let tar = layout(&[
            ("index.json", br#"{"manifests":[{"digest":"sha256:i"}]}"#.to_vec()),
            ("blobs/sha256/i", br#"{"manifests":[{"digest":"sha256:m"}]}"#.to_vec()),
            (
                "blobs/sha256/m",
                br#"{"config":{"digest":"sha256:c"},"layers":[{"digest":"sha256:1"},{"digest":"sha256:2"},{"digest":"sha256:3"}]}"#
                    .to_vec(),
            ),
            ("blobs/sha256/c", br#"{"os":"linux"}"#.to_vec()),
            ("blobs/sha256/1", gzip.finish().unwrap()),
            ("blobs/sha256/2", zstd::encode_all(b"two".as_slice(), 1).unwrap()),
            ("blobs/sha256/3", b"three".to_vec()),
        ]);
        let image = from_tar(tar.as_slice()).unwrap();
        assert_eq!(image.config["os"], "linux");
        assert_eq!(image.layers, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn a_missing_blob_is_named() {
        let tar = layout(&[("index.json", br#"{"manifests":[{"digest":"sha256:m"}]}"#.to_vec())]);
        let error = from_tar(tar.as_slice()).unwrap_err();
        assert!(error.to_string().contains("blobs/sha256/m"), "{error}");
    }
}
