//! Manifests, indexes, configs, and the names in them.

use cache::registry::document::{Document, parse, parse_json};
use proto::digest::Digest;
use proto::oci::config::ImageConfig;
use proto::oci::{Index, json, media_type};
use proto::platform::Platform;
use proto::reference::Reference;

/// A document has one meaning, whatever it came as; what is written of a config or an index is read as the same.
pub fn documents(input: &[u8]) {
    let types = [
        "",
        media_type::MANIFEST,
        media_type::INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_INDEX,
    ];
    let read: Vec<Document> = types
        .into_iter()
        .filter_map(|said| parse(input, said).ok())
        .map(|(_, document)| document)
        .collect();
    for pair in read.windows(2) {
        assert_eq!(pair[0], pair[1], "one document, two meanings");
    }
    if let Some(Document::Manifest(manifest)) = read.first() {
        assert!(manifest.layers.len() <= cache::registry::document::LAYERS);
    }
    if let Ok(config) = parse_json::<ImageConfig>(input) {
        let again = parse_json::<ImageConfig>(&json::compact(&config)).expect("what we write can be read");
        assert_eq!(json::compact(&again), json::compact(&config));
    }
    if let Ok(index) = parse_json::<Index>(input) {
        assert_eq!(parse_json::<Index>(&json::compact(&index)), Ok(index));
    }
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(reference) = text.parse::<Reference>() {
            assert_eq!(reference.to_string().parse::<Reference>().ok(), Some(reference));
        }
        if let Ok(digest) = text.parse::<Digest>() {
            assert!(digest.hex().len() == 64 && digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        if let Ok(platform) = text.parse::<Platform>() {
            assert_eq!(platform.to_string().parse::<Platform>().ok(), Some(platform));
        }
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let pointer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":7}}"#);
    let layer = pointer(media_type::LAYER);
    let config = pointer(media_type::CONFIG);
    let manifest = pointer(media_type::MANIFEST);
    let texts = [
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layer}]}}"#,
            media_type::MANIFEST
        ),
        format!(r#"{{"schemaVersion":2,"manifests":[{manifest}],"annotations":{{"a":"b"}}}}"#),
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Cmd":["x"],"Labels":{{"a":"b"}},"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
        ),
        "registry.example:5000/team/app:1.2".to_owned(),
        format!("app@{digest}"),
        "linux/arm64/v8".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}
