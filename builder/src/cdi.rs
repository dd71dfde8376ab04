//! Devices of this machine by name, as the Container Device Interface describes them: JSON files in a few directories, each with the
//! devices of one kind (`vendor/class`) and what a container needs to use them.
//!
//! Taken over are device nodes, mounts and variables. A device that asks for anything else (hooks, groups, network devices) is
//! refused: without it, it would fail in ways that nobody could explain. Files in YAML are named in the message about a device
//! that was not found, and otherwise passed over.
//!
//! Source: CNCF CDI specification 0.8, `SPEC.md`; the classes of devices by annotation are an extension of `BuildKit`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::executor::StepDevice;

/// Where specifications are, in ascending precedence.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The annotation with the class of a device.
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// All devices that this machine names.
#[derive(Debug, Default)]
pub struct Registry {
    /// By `vendor/class=name`.
    devices: BTreeMap<String, Device>,
    /// Files that could not be used, each with the reason: for the message about a device that is missing.
    pub passed_over: Vec<String>,
}

#[derive(Debug, Clone)]
struct Device {
    /// Values of [`CLASS`] on the device and on its file.
    class: Option<String>,
    edits: Vec<SpecEdits>,
}

/// What devices bring into a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables, later ones over earlier ones.
    pub env: Vec<(String, String)>,
    /// Nodes in `/dev`.
    pub devices: Vec<StepDevice>,
    /// Files and directories of the machine.
    pub mounts: Vec<HostMount>,
}

/// A file or directory of the machine in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// On the machine.
    pub path: PathBuf,
    /// In the step.
    pub target: String,
    /// Whether writes fail.
    pub readonly: bool,
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It asks for something that steps do not get.
    #[error("the device `{name}` needs `{field}`, which is not supported")]
    Unsupported {
        /// The device.
        name: String,
        /// The field of its specification.
        field: &'static str,
    },
    /// A variable without `=`.
    #[error("the device `{name}` sets the variable `{text}` to nothing: `NAME=VALUE` is expected")]
    Variable {
        /// The device.
        name: String,
        /// What stands there.
        text: String,
    },
    /// A node that the machine does not have.
    #[error("the device `{name}`: `{path}` cannot be used: {source}")]
    Node {
        /// The device.
        name: String,
        /// The node on the machine.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug, Deserialize)]
struct Spec {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<SpecDevice>,
    #[serde(default, rename = "containerEdits")]
    edits: SpecEdits,
}

#[derive(Debug, Deserialize)]
struct SpecDevice {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    edits: SpecEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SpecEdits {
    env: Vec<String>,
    device_nodes: Vec<SpecNode>,
    mounts: Vec<SpecMount>,
    hooks: Vec<serde_json::Value>,
    additional_gids: Vec<u32>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecNode {
    path: String,
    host_path: Option<PathBuf>,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

impl Registry {
    /// Reads all specifications below `directories`; a device of a later directory replaces its namesake.
    #[must_use]
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for directory in directories {
            // Most machines have no such directory.
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                registry.read_file(&file);
            }
        }
        registry
    }

    fn read_file(&mut self, file: &Path) {
        let shown = file.display();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {}
            Some("yaml" | "yml") => {
                self.passed_over
                    .push(format!("`{shown}` is YAML, and specifications are read as JSON only"));
                return;
            }
            _ => return,
        }
        let read = fs::read(file)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        match read {
            Ok(spec) => self.add(spec),
            Err(reason) => self.passed_over.push(format!("`{shown}` cannot be read: {reason}")),
        }
    }

    fn add(&mut self, spec: Spec) {
        for device in spec.devices {
            let class = device.annotations.get(CLASS).or(spec.annotations.get(CLASS)).cloned();
            let edits = vec![spec.edits.clone(), device.edits];
            self.devices
                .insert(format!("{}={}", spec.kind, device.name), Device { class, edits });
        }
    }

    /// The full names of all devices, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// The full names that `asked` stands for: one (`vendor/class=name`), all of a kind (`vendor/class=*`), the first of a kind
    /// (`vendor/class`), or all of a class.
    #[must_use]
    pub fn find(&self, asked: &str) -> Vec<&str> {
        let of_kind = |kind: &str| {
            let prefix = format!("{kind}=");
            self.names().filter(move |name| name.starts_with(&prefix))
        };
        let found: Vec<&str> = match asked.split_once('=') {
            Some((kind, "*")) => of_kind(kind).collect(),
            Some(_) => self.names().filter(|name| *name == asked).collect(),
            None => of_kind(asked).take(1).collect(),
        };
        if !found.is_empty() {
            return found;
        }
        let of_class = self
            .devices
            .iter()
            .filter(|(_, device)| device.class.as_deref() == Some(asked));
        of_class.map(|(name, _)| name.as_str()).collect()
    }

    /// Adds what the device with this full name brings along to `edits`.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn edit(&self, name: &str, edits: &mut Edits) -> Result<(), DeviceError> {
        for spec in self.devices.get(name).into_iter().flat_map(|device| &device.edits) {
            spec.apply(name, edits)?;
        }
        Ok(())
    }
}

impl SpecEdits {
    fn apply(&self, name: &str, edits: &mut Edits) -> Result<(), DeviceError> {
        let unsupported = [
            ("hooks", self.hooks.is_empty()),
            ("additionalGids", self.additional_gids.is_empty()),
            ("netDevices", self.net_devices.is_empty()),
            ("intelRdt", self.intel_rdt.is_none()),
        ];
        if let Some((field, _)) = unsupported.into_iter().find(|(_, absent)| !absent) {
            let name = name.to_owned();
            return Err(DeviceError::Unsupported { name, field });
        }
        for text in &self.env {
            let (variable, value) = text.split_once('=').ok_or_else(|| DeviceError::Variable {
                name: name.to_owned(),
                text: text.clone(),
            })?;
            edits.env.push((variable.to_owned(), value.to_owned()));
        }
        for node in &self.device_nodes {
            edits.devices.push(node.on_this_machine(name)?);
        }
        edits.mounts.extend(self.mounts.iter().map(|mount| HostMount {
            path: mount.host_path.clone(),
            target: mount.container_path.clone(),
            readonly: mount.options.iter().any(|option| option == "ro"),
        }));
        Ok(())
    }
}

impl SpecNode {
    /// The numbers are those of the machine's own node: what a file claims about them may be stale.
    fn on_this_machine(&self, name: &str) -> Result<StepDevice, DeviceError> {
        let path = self.host_path.clone().unwrap_or_else(|| PathBuf::from(&self.path));
        let failed = |source| DeviceError::Node {
            name: name.to_owned(),
            path: path.clone(),
            source,
        };
        let found = fs::metadata(&path).map_err(failed)?;
        let kind = found.file_type();
        if !kind.is_char_device() && !kind.is_block_device() {
            return Err(failed(io::Error::other("it is no device")));
        }
        Ok(StepDevice {
            path: self.path.clone(),
            block: kind.is_block_device(),
            major: rustix::fs::major(found.rdev()),
            minor: rustix::fs::minor(found.rdev()),
            mode: self.file_mode.unwrap_or_else(|| found.mode()) & 0o777,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "v.com/c",
        "annotations": {"org.mobyproject.buildkit.device.class": "all"},
        "containerEdits": {"env": ["SHARED=1"]},
        "devices": [
            {"name": "b", "containerEdits": {"env": ["A=b=c"],
                "deviceNodes": [{"path": "/dev/x/zero", "hostPath": "/dev/zero", "fileMode": 416, "gid": 7}],
                "mounts": [{"hostPath": "/usr/lib", "containerPath": "/lib/x", "options": ["ro", "bind"]}]}},
            {"name": "a", "annotations": {"org.mobyproject.buildkit.device.class": "one"}, "containerEdits": {}},
            {"name": "h", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/x"}]}},
            {"name": "n", "containerEdits": {"deviceNodes": [{"path": "/no/such/device"}]}},
            {"name": "f", "containerEdits": {"deviceNodes": [{"path": "/etc/passwd"}]}}
        ]
    }"#;

    fn registry() -> Registry {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("v.json"), SPEC).unwrap();
        fs::write(directory.path().join("w.yaml"), "kind: w.com/c").unwrap();
        fs::write(directory.path().join("x.json"), "{").unwrap();
        Registry::read(&[directory.path().to_owned(), PathBuf::from("/no/such/directory")])
    }

    #[test]
    fn devices_are_found_by_name_kind_and_class() {
        let registry = registry();
        for (asked, expected) in [
            ("v.com/c=b", &["v.com/c=b"][..]),
            ("v.com/c", &["v.com/c=a"]),
            ("one", &["v.com/c=a"]),
            ("all", &["v.com/c=b", "v.com/c=f", "v.com/c=h", "v.com/c=n"]),
            ("v.com/c=z", &[]),
            ("v.com", &[]),
        ] {
            assert_eq!(registry.find(asked), expected, "{asked}");
        }
        assert_eq!(registry.find("v.com/c=*").len(), 5);
        assert!(registry.passed_over[0].ends_with("w.yaml` is YAML, and specifications are read as JSON only"));
        assert!(registry.passed_over[1].contains("x.json` cannot be read"));
    }

    #[test]
    fn a_device_brings_nodes_mounts_and_variables() {
        let mut edits = Edits::default();
        registry().edit("v.com/c=b", &mut edits).unwrap();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(edits.env, [variable("SHARED", "1"), variable("A", "b=c")]);
        let node = StepDevice {
            path: "/dev/x/zero".to_owned(),
            block: false,
            major: 1,
            minor: 5,
            mode: 0o640,
            uid: 0,
            gid: 7,
        };
        assert_eq!(edits.devices, [node]);
        let mount = HostMount {
            path: "/usr/lib".into(),
            target: "/lib/x".to_owned(),
            readonly: true,
        };
        assert_eq!(edits.mounts, [mount]);
    }

    #[test]
    fn what_a_step_cannot_have_is_refused() {
        for (name, words) in [
            ("v.com/c=h", "needs `hooks`, which is not supported"),
            ("v.com/c=n", "`/no/such/device` cannot be used"),
            ("v.com/c=f", "it is no device"),
        ] {
            let message = registry().edit(name, &mut Edits::default()).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
