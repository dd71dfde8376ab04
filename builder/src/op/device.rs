//! `RUN --device`: what the devices that a step names bring into it.

use proto::definition::DeviceRequest;
use proto::v1::{self, event::Kind};

use crate::blocking;
use crate::build::Job;
pub use crate::cdi::Edits;
use crate::cdi::Registry;
use crate::event::StepNumber;
use crate::request::BuildError;

/// Devices that are named in a message about one that is missing.
const NAMES_SHOWN: usize = 8;

/// The nodes, mounts and variables of all `devices`. A device that is missing and not required is told in the log of `step`.
///
/// # Errors
/// A required device that this machine does not name; a device that cannot be used.
pub async fn edits(devices: &[DeviceRequest], job: &Job, step: StepNumber) -> Result<Edits, BuildError> {
    if devices.is_empty() {
        return Ok(Edits::default());
    }
    let (devices, directories) = (devices.to_vec(), job.host.device_specs.clone());
    let (edits, missing) = blocking::run(move || collect(&devices, &Registry::read(&directories))).await?;
    for name in missing {
        let line = format!("the device {name} is not registered here: the step runs without it\n");
        job.events.publish(Kind::StepLog(v1::StepLog {
            step: step.0,
            stream: 2,
            data: line.into_bytes(),
        }));
    }
    Ok(edits)
}

/// What the devices bring along, and the names of those that are missing and not required.
fn collect(devices: &[DeviceRequest], registry: &Registry) -> Result<(Edits, Vec<String>), BuildError> {
    let mut edits = Edits::default();
    let mut missing = Vec::new();
    let mut done = Vec::new();
    for device in devices {
        let found = registry.find(&device.name);
        if found.is_empty() && device.required {
            return Err(not_registered(&device.name, registry));
        }
        if found.is_empty() {
            missing.push(device.name.clone());
        }
        for name in found {
            if !done.contains(&name) {
                registry
                    .edit(name, &mut edits)
                    .map_err(|error| BuildError::environment(error.to_string()))?;
                done.push(name);
            }
        }
    }
    Ok((edits, missing))
}

fn not_registered(name: &str, registry: &Registry) -> BuildError {
    let mut error = BuildError::environment(format!("required device {name:?} is not registered"));
    let names: Vec<&str> = registry.names().take(NAMES_SHOWN).collect();
    if !names.is_empty() {
        error = error.note(format!("registered are {}", names.join(", ")));
    }
    for reason in &registry.passed_over {
        error = error.note(reason.clone());
    }
    error.help(
        "the build server looks for JSON specifications of the Container Device Interface in /etc/cdi and /var/run/cdi",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, required: bool) -> DeviceRequest {
        DeviceRequest {
            name: name.to_owned(),
            required,
        }
    }

    #[test]
    fn each_device_counts_once_and_a_missing_one_only_if_it_is_required() {
        let directory = tempfile::tempdir().unwrap();
        let spec = r#"{"kind": "v.com/c", "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}]}"#;
        std::fs::write(directory.path().join("v.json"), spec).unwrap();
        let registry = Registry::read(&[directory.path().to_owned()]);
        let asked = [
            request("v.com/c", true),
            request("v.com/c=a", true),
            request("other", false),
        ];
        let (edits, missing) = collect(&asked, &registry).unwrap();
        assert_eq!(edits.env, [("A".to_owned(), "1".to_owned())]);
        assert_eq!(missing, ["other"]);
        let error = collect(&[request("other", true)], &registry).unwrap_err();
        assert_eq!(error.message, "required device \"other\" is not registered");
        assert_eq!(error.notes, ["registered are v.com/c=a"]);
    }
}
