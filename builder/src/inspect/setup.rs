//! What a step had: all that a process needs to find things as the step found them. No value of a secret is in it, and no proxy,
//! whose address may hold a password.

use proto::definition::{self, ExecOp, MountAccess, MountKind, Sharing};
use proto::digest::DiffId;
use proto::oci::ImageConfig;
use proto::platform::Platform;
use proto::record::Preimage;
use serde::{Deserialize, Serialize};

use crate::executor::{Network, Security, StepFile};

/// Mode of the file of a secret for an image: whatever user it runs as reads it.
const SECRET_MODE: u32 = 0o444;

/// What a process gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// What it runs on; empty if that is not known.
    pub platform: String,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Absolute working directory.
    pub cwd: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Host name, if not the default.
    pub hostname: Option<String>,
    /// What it can reach.
    pub network: Network,
    /// What it may do.
    pub security: Security,
    /// Names of devices, and whether they are required.
    pub devices: Vec<(String, bool)>,
    /// Names and addresses.
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm`, if not the default.
    pub shm_size_bytes: Option<u64>,
    /// A here-document that is run.
    pub script: Option<StepFile>,
    /// What is mounted.
    pub mounts: Vec<SetupMount>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupMount {
    /// Absolute path.
    pub target: String,
    /// What it shows.
    pub kind: SetupKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetupKind {
    /// Files of layers.
    Bind {
        /// The layers, base first.
        layers: Vec<DiffId>,
        /// Path in them.
        source: String,
        /// Whether writes, which are thrown away, are possible.
        writable: bool,
    },
    /// A directory of the store.
    Cache {
        /// Its identity.
        id: String,
        /// `shared`, `private` or `locked`.
        sharing: String,
        /// Whether it is writable.
        writable: bool,
        /// Mode and owner of a new one.
        access: Access,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Its size, if there is a limit.
        size_bytes: Option<u64>,
    },
    /// A secret of whoever looks.
    Secret {
        /// Its name.
        id: String,
        /// Whether it is a file at the target.
        file: bool,
        /// The variable that it is in.
        env: Option<String>,
        /// Mode and owner of the file.
        access: Access,
    },
    /// An agent of whoever looks.
    Ssh {
        /// Its name.
        id: String,
        /// Mode and owner of the socket.
        access: Access,
    },
}

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<MountAccess> for Access {
    fn from(access: MountAccess) -> Self {
        let MountAccess { mode, uid, gid } = access;
        Self { mode, uid, gid }
    }
}

impl From<Access> for MountAccess {
    fn from(access: Access) -> Self {
        let Access { mode, uid, gid } = access;
        Self { mode, uid, gid }
    }
}

/// The word for a way of sharing.
fn sharing_word(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
        Sharing::Locked => "locked",
    }
}

/// The way of sharing behind a word of ours.
#[must_use]
pub fn sharing_of(word: &str) -> Sharing {
    match word {
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => Sharing::Shared,
    }
}

impl Default for Setup {
    /// Root in `/` of the sandbox, with nothing beside.
    fn default() -> Self {
        Self {
            platform: String::new(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: None,
            network: Network::Default,
            security: Security::Sandbox,
            devices: Vec::new(),
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            script: None,
            mounts: Vec::new(),
        }
    }
}

impl Setup {
    /// What `exec` had on `platform`. `binds` are the layers behind its bind mounts, in their order.
    #[must_use]
    pub fn of_exec(exec: &ExecOp, platform: &Platform, binds: &[Vec<DiffId>]) -> Self {
        let mut binds = binds.iter();
        let mount = |mount: &definition::Mount| SetupMount {
            target: mount.target.clone(),
            kind: kind_of(&mount.kind, &mut binds),
        };
        Self {
            platform: platform.to_string(),
            env: exec.env.clone(),
            cwd: exec.cwd.clone(),
            user: exec.user.clone(),
            hostname: exec.hostname.clone(),
            network: network_of(exec.network),
            security: security_of(exec.security),
            devices: exec
                .devices
                .iter()
                .map(|device| (device.name.clone(), device.required))
                .collect(),
            extra_hosts: exec.extra_hosts.clone(),
            shm_size_bytes: exec.shm_size_bytes,
            script: exec.script.as_ref().map(script_of),
            mounts: exec.mounts.iter().map(mount).collect(),
        }
    }

    /// As far as the key of a step that succeeded says what it had: its environment, user and directory, and not its mounts.
    #[must_use]
    pub fn of_key(preimage: &Preimage) -> Self {
        let mut setup = Self::default();
        for field in &preimage.fields {
            let Ok(value) = String::from_utf8(field.value.clone()) else {
                continue;
            };
            match (field.name.as_str(), field.name.strip_prefix("variable ")) {
                (_, Some(name)) => setup.env.push((name.to_owned(), value)),
                ("platform", _) => setup.platform = value,
                ("directory", _) if value.starts_with('/') => setup.cwd = value,
                ("user", _) => setup.user = value,
                ("host name", _) => setup.hostname = Some(value),
                ("network", _) if value == "none" => setup.network = Network::None,
                _ => {}
            }
        }
        setup
    }

    /// What containers of an image have; `secrets` are shown in `/run/secrets`.
    #[must_use]
    pub fn of_image(config: &ImageConfig, platform: &Platform, secrets: &[String]) -> Self {
        let config = &config.config;
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        let secret = |id: &String| SetupMount {
            target: format!("/run/secrets/{id}"),
            kind: SetupKind::Secret {
                id: id.clone(),
                file: true,
                env: None,
                access: Access {
                    mode: SECRET_MODE,
                    uid: 0,
                    gid: 0,
                },
            },
        };
        let cwd = match config.working_dir.as_str() {
            "" => "/".to_owned(),
            dir if dir.starts_with('/') => dir.to_owned(),
            dir => format!("/{dir}"),
        };
        Self {
            platform: platform.to_string(),
            env: config.env.iter().map(pair).collect(),
            cwd,
            user: config.user.clone(),
            mounts: secrets.iter().map(secret).collect(),
            ..Self::default()
        }
    }

    /// Sets a variable, in its place if there is one of that name.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        match self.env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Whether a variable is set.
    #[must_use]
    pub fn has_variable(&self, name: &str) -> bool {
        self.env.iter().any(|(known, _)| known == name)
    }
}

/// As the executor says it.
#[must_use]
pub fn network_of(network: definition::Network) -> Network {
    match network {
        definition::Network::Default => Network::Default,
        definition::Network::None => Network::None,
        definition::Network::Host => Network::Host,
    }
}

/// As the executor says it.
#[must_use]
pub fn security_of(security: definition::Security) -> Security {
    match security {
        definition::Security::Sandbox => Security::Sandbox,
        definition::Security::Hardened => Security::Hardened,
        definition::Security::Insecure => Security::Insecure,
    }
}

/// The file that a here-document becomes.
#[must_use]
pub fn script_of(script: &definition::InlineFile) -> StepFile {
    StepFile {
        path: format!("/dev/pipes/{}", script.name),
        bytes: script.data.clone(),
        mode: 0o755,
    }
}

fn kind_of<'a>(kind: &MountKind, binds: &mut impl Iterator<Item = &'a Vec<DiffId>>) -> SetupKind {
    match kind {
        MountKind::Bind { source, writable, .. } => SetupKind::Bind {
            layers: binds.next().cloned().unwrap_or_default(),
            source: source.clone(),
            writable: *writable,
        },
        MountKind::Cache {
            id,
            sharing,
            writable,
            access,
            ..
        } => SetupKind::Cache {
            id: id.clone(),
            sharing: sharing_word(*sharing).to_owned(),
            writable: *writable,
            access: (*access).into(),
        },
        MountKind::Tmpfs { size_bytes } => SetupKind::Tmpfs {
            size_bytes: *size_bytes,
        },
        MountKind::Secret {
            id, file, env, access, ..
        } => SetupKind::Secret {
            id: id.clone(),
            file: *file,
            env: env.clone(),
            access: (*access).into(),
        },
        MountKind::Ssh { id, access, .. } => SetupKind::Ssh {
            id: id.clone(),
            access: (*access).into(),
        },
    }
}
