//! The image config: OCI's fields, Docker's beside them, and whatever else a base image carries.
//!
//! Top-level members leave in byte order of their names, members of `config` in Docker's order, empty ones are left out:
//! with [`super::json`] this gives the bytes that other builders write. Source: OCI image-spec 1.1, `config.md`; Docker
//! image spec 1.3 for `ArgsEscaped`, `Healthcheck`, `OnBuild`, `Shell`.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::digest::DiffId;

/// A whole image config.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct ImageConfig {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// Who made the image: `MAINTAINER`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub author: String,
    /// What containers of this image run with.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: Config,
    /// RFC 3339 in UTC.
    #[serde(default)]
    pub created: Option<String>,
    /// One entry an instruction, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// `linux`, …
    #[serde(default)]
    pub os: String,
    /// Windows only.
    #[serde(rename = "os.version", default, deserialize_with = "null_is_default")]
    pub os_version: String,
    /// The stack of layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// Variant of the architecture, where it has one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub variant: String,
    /// Top-level members that we do not know; carried over from the base image.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The `config` member.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// `user[:group]`, names or numbers.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// `80/tcp` → `{}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`, in order of first appearance.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Start of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Rest of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Path → `{}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// Absolute.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// In byte order of their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// As written in the Dockerfile.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// True once a `CMD` ran; Docker writes it on every system.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub args_escaped: bool,
    /// How to ask a container whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Triggers for builds that start from this image.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub on_build: Vec<String>,
    /// What runs shell forms; empty means `/bin/sh -c`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub shell: Vec<String>,
    /// Members that we do not know; carried over from the base image.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The empty object that stands for "in the set".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// `HEALTHCHECK`. Durations in nanoseconds; 0 means the engine's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` and arguments, or `CMD-SHELL` and one text.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// Nanoseconds between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Nanoseconds one check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Nanoseconds after start in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Nanoseconds between checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make a container unwell.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// What one instruction did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Text of the instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Kept from base images.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Which builder wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// True if the entry has no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The stack of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// From the base upwards.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = [
            ("architecture", Some(to_value(&self.architecture))),
            ("author", (!self.author.is_empty()).then(|| to_value(&self.author))),
            ("created", self.created.as_deref().map(to_value)),
            ("os", Some(to_value(&self.os))),
            (
                "os.version",
                (!self.os_version.is_empty()).then(|| to_value(&self.os_version)),
            ),
            ("variant", (!self.variant.is_empty()).then(|| to_value(&self.variant))),
        ];
        let mut members: BTreeMap<&str, Member<'_>> = BTreeMap::new();
        members.extend(
            self.other
                .iter()
                .map(|(name, value)| (name.as_str(), Member::Value(value.clone()))),
        );
        members.extend(
            known
                .into_iter()
                .filter_map(|(name, value)| Some((name, Member::Value(value?)))),
        );
        members.insert("config", Member::Config(&self.config));
        members.insert("history", Member::History(&self.history));
        members.insert("rootfs", Member::RootFs(&self.rootfs));
        let mut map = serializer.serialize_map(Some(members.len()))?;
        for (name, member) in members {
            map.serialize_entry(name, &member)?;
        }
        map.end()
    }
}

/// A top-level member. The typed ones keep the order of their own members, which a [`Value`] would sort.
#[derive(Serialize)]
#[serde(untagged)]
enum Member<'a> {
    Value(Value),
    Config(&'a Config),
    History(&'a [History]),
    RootFs(&'a RootFs),
}

fn to_value(text: &str) -> Value {
    Value::String(text.to_owned())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes `null` for empty lists and maps; images in the wild are full of them.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::json;

    #[test]
    fn members_leave_in_order_and_unknown_ones_survive() {
        let text = r#"{"zeta":1,"os":"linux","architecture":"amd64","config":{"Cmd":["sh"],"Env":["A=1"],"Volumes":null},"rootfs":{"type":"layers","diff_ids":null},"history":null,"beta":{"x":[]}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let expected = r#"{"architecture":"amd64","beta":{"x":[]},"config":{"Env":["A=1"],"Cmd":["sh"]},"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"zeta":1}"#;
        assert_eq!(String::from_utf8(json::compact(&config)).unwrap(), expected);
    }

    #[test]
    fn docker_fields_round_trip() {
        let mut config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..Default::default()
        };
        config.config.healthcheck = Some(Healthcheck {
            test: vec!["NONE".into()],
            ..Default::default()
        });
        config.config.args_escaped = true;
        config.config.exposed_ports.insert("80/tcp".into(), Empty {});
        let bytes = json::compact(&config);
        assert_eq!(serde_json::from_slice::<ImageConfig>(&bytes).unwrap(), config);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.contains(r#""ExposedPorts":{"80/tcp":{}},"ArgsEscaped":true,"Healthcheck":{"Test":["NONE"]}"#),
            "{text}"
        );
    }
}
