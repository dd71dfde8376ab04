//! Manifests and indexes read with suspicion: one document, one meaning.
//!
//! The same bytes must not be a manifest to one reader and an index to another, so whatever could be both is refused.

use proto::oci::{Index, Manifest, media_type};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// As many layers as we are willing to stack.
pub const LAYERS: usize = 500;

/// Nesting of JSON; real documents use five.
pub const DEPTH: usize = 64;

/// Indexes within indexes.
pub const NESTING: usize = 4;

/// A document of which only one reading is possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Of one image.
    Manifest(Manifest),
    /// Of several.
    Index(Index),
}

/// Every media type a name may resolve to, in order of preference.
pub(super) const ACCEPT: [&str; 4] = [
    media_type::INDEX,
    media_type::DOCKER_INDEX,
    media_type::MANIFEST,
    media_type::DOCKER_MANIFEST,
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

pub(super) fn is_index(media_type: &str) -> bool {
    matches!(media_type, media_type::INDEX | media_type::DOCKER_INDEX)
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, media_type::MANIFEST | media_type::DOCKER_MANIFEST)
}

/// Any JSON document of a stranger, such as an image config.
///
/// # Errors
/// The rule that was broken.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    check_depth(bytes)?;
    read(bytes)
}

fn check_depth(bytes: &[u8]) -> Result<(), String> {
    match is_shallow(bytes) {
        true => Ok(()),
        false => Err(format!("nested deeper than {DEPTH}")),
    }
}

/// Reads `bytes` that came as `said`; returns the media type to remember and the document.
///
/// # Errors
/// The rule that was broken.
pub fn parse(bytes: &[u8], said: &str) -> Result<(String, Document), String> {
    check_depth(bytes)?;
    let probe: Probe = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if probe.schema_version != 2 || probe.fs_layers.is_some() {
        return Err("only schema version 2 is supported".to_owned());
    }
    let said = said.split(';').next().unwrap_or_default().trim();
    let media_type = match probe.media_type.as_deref() {
        Some(inner) if !inner.is_empty() => {
            if (is_index(said) || is_manifest(said)) && inner != said {
                return Err(format!("it came as `{said}` and calls itself `{inner}`"));
            }
            inner
        }
        _ => said,
    };
    let index_like = probe.manifests.is_some();
    let manifest_like = probe.config.is_some() || probe.layers.is_some();
    let parsed = match (index_like, manifest_like) {
        (true, true) => return Err("it is a manifest and an index at once".to_owned()),
        (true, false) if is_index(media_type) => Document::Index(read(bytes)?),
        (false, true) if is_manifest(media_type) => Document::Manifest(read(bytes)?),
        _ => return Err(format!("its content does not fit its media type `{media_type}`")),
    };
    if let Document::Manifest(manifest) = &parsed
        && manifest.layers.len() > LAYERS
    {
        return Err(format!("{} layers, the limit is {LAYERS}", manifest.layers.len()));
    }
    Ok((media_type.to_owned(), parsed))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Counts brackets outside of strings, before any parser recurses.
fn is_shallow(bytes: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, said: &str, fragment: &str) {
        let problem = parse(text.as_bytes(), said).unwrap_err();
        assert!(problem.contains(fragment), "{problem}");
    }

    #[test]
    fn l12_ambiguous_documents_are_refused() {
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        refused(both, media_type::INDEX, "at once");
        refused(
            r#"{"schemaVersion":2,"manifests":[]}"#,
            media_type::MANIFEST,
            "does not fit",
        );
        let typed = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media_type::INDEX
        );
        refused(&typed, media_type::DOCKER_INDEX, "calls itself");
        refused(
            r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
            media_type::INDEX,
            "duplicate",
        );
        refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema version 2");
        refused(r#"{"schemaVersion":2}"#, media_type::INDEX, "does not fit");
    }

    #[test]
    fn l14_deep_documents_are_refused_before_they_are_parsed() {
        refused(&"[".repeat(100_000), media_type::INDEX, "nested");
        assert!(is_shallow(br#"{"a":"[[[[\"[[["}"#));
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse_json::<serde_json::Value>(deep(DEPTH).as_bytes()).is_ok());
        let problem = parse_json::<serde_json::Value>(deep(DEPTH + 1).as_bytes()).unwrap_err();
        assert_eq!(problem, "nested deeper than 64");
    }

    #[test]
    fn l14_the_number_of_layers_is_limited() {
        let digest = proto::digest::Digest::of(b"x");
        let layer = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":1}}"#);
        let manifest = |layers: usize| {
            let layers = vec![layer.as_str(); layers].join(",");
            format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layers}]}}"#)
        };
        assert!(parse(manifest(LAYERS).as_bytes(), media_type::MANIFEST).is_ok());
        refused(
            &manifest(LAYERS + 1),
            media_type::MANIFEST,
            "501 layers, the limit is 500",
        );
    }

    #[test]
    fn l13_a_digest_is_no_text_that_could_be_a_path() {
        for digest in [
            "sha256:../../../../etc/passwd",
            "sha256:",
            "sha256:ABCDEF",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "../x",
            "",
        ] {
            let descriptor = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":1}}"#);
            let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
            assert!(parse(manifest.as_bytes(), media_type::MANIFEST).is_err(), "{digest}");
        }
    }

    #[test]
    fn the_inner_media_type_counts_when_the_header_says_nothing() {
        let typed = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media_type::INDEX
        );
        let (media_type, document) = parse(typed.as_bytes(), "application/json").unwrap();
        assert_eq!(media_type, media_type::INDEX);
        assert!(matches!(document, Document::Index(_)));
    }
}
