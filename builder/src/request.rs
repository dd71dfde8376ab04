//! What a build is asked for, and how it can fail: typed once at the edge of the server.

use std::collections::BTreeMap;

use frontend::git::GitReference;
use proto::address::redacted;
use proto::definition::{HttpOp, Network, Security};
use proto::digest::Digest;
use proto::entitlement::{Entitlements, UnknownEntitlement};
use proto::oci::Compression;
use proto::platform::Platform;
use proto::reference::Reference;
use proto::v1;

use crate::context::ContextModes;
use crate::layer::compress::Recipe;
use crate::layers::encode::Wanted;
use crate::limits::Limits;
use crate::platforms::{self, Shape};
use crate::sources::Source;

/// A build, checked.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// 32 hex digits, chosen by the client.
    pub build_id: String,
    /// Stage to build.
    pub target: Option<String>,
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// Target platforms, each once; none if the user chose none.
    pub platforms: Vec<Platform>,
    /// What the result is.
    pub shape: Shape,
    /// Which steps may not come from the cache.
    pub no_cache: NoCache,
    /// Ask registries even where the store has an image of that name.
    pub pull: bool,
    /// Network of steps that name none.
    pub network: Network,
    /// What steps may have beyond the usual.
    pub entitlements: Entitlements,
    /// What steps may do that ask for nothing beyond the usual.
    pub security: Security,
    /// Names and addresses.
    pub add_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm`.
    pub shm_size_bytes: Option<u64>,
    /// Names of the result.
    pub tags: Vec<Reference>,
    /// What to do with the result.
    pub outputs: Vec<Output>,
    /// Named contexts.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// For messages.
    pub dockerfile_name: String,
    /// Registries that may speak plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Path of the Dockerfile in the main context, if the server fetches that; nothing: the client has the Dockerfile.
    pub dockerfile_path: Option<String>,
    /// Which modes files of the client's contexts have.
    pub context_modes: ContextModes,
    /// What each step may use at most.
    pub limits: Limits,
    /// Certificates, as PEM, that steps trust beside those of their image.
    pub ca_bundle: Option<Vec<u8>>,
}

/// `--no-cache` and `--no-cache-filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCache {
    /// The cache is used.
    Off,
    /// Nothing comes from the cache.
    All,
    /// Nothing of these stages does.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether steps of `stage` must run.
    #[must_use]
    pub fn applies_to(&self, stage: &str) -> bool {
        match self {
            Self::Off => false,
            Self::All => true,
            Self::Stages(stages) => stages.iter().any(|name| name.eq_ignore_ascii_case(stage)),
        }
    }
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Keep in the store, and perhaps push.
    Image {
        /// Send it to the registries of its names.
        push: bool,
        /// Names beyond the tags.
        names: Vec<Reference>,
        /// How layers are compressed.
        encoding: Encoding,
    },
    /// An OCI layout. Its bytes are always one tar on the wire; the client may unpack it.
    Oci {
        /// Names beyond the tags.
        names: Vec<Reference>,
        /// How layers are compressed.
        encoding: Encoding,
    },
    /// The files of the root filesystem, as one tar on the wire.
    Files {
        /// A directory for each platform; nothing: with several platforms only.
        platform_split: Option<bool>,
    },
}

/// How layers leave the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoding {
    /// The form of layers that this build made, exact if a level was asked for; layers of the base keep theirs.
    pub form: Wanted,
    /// Layers of the base too, if they are in another compression.
    pub force_compression: bool,
    /// Lower times after the source date epoch to it.
    pub rewrite_timestamp: bool,
}

/// Where a named context comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory of the client.
    Local,
    /// An image.
    Image(Reference),
    /// An OCI layout of the client.
    OciLayout {
        /// Which image in it.
        tag: Option<String>,
        /// Which image in it.
        digest: Option<Digest>,
    },
    /// What the server fetches.
    Remote(Source),
}

/// Whose fault a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The Dockerfile, the context, a step.
    User,
    /// The request.
    Usage,
    /// This machine.
    Environment,
    /// Another machine.
    Remote,
    /// This program.
    Bug,
    /// Nobody's: the build was ended.
    Canceled,
}

/// A failed build, in the words of a message to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    /// Whose fault.
    pub blame: Blame,
    /// What happened, to what.
    pub message: String,
    /// Causes found.
    pub notes: Vec<String>,
    /// Ways out.
    pub helps: Vec<String>,
    /// Bytes of the Dockerfile, and the first line.
    pub place: Option<Place>,
    /// The step that failed.
    pub step: Option<Box<FailedStep>>,
    /// Bytes of the store were damaged or gone, and have been set aside: the same build can succeed when it is tried again.
    pub rewind: bool,
    /// There was no room: the same build can succeed when some is made.
    pub full: bool,
}

/// A place in the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// First line, from 1.
    pub line: u32,
}

/// The step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// Its name.
    pub name: String,
    /// Its last lines of output.
    pub log_tail: Vec<String>,
    /// Exit status of its process.
    pub exit_code: Option<i32>,
}

impl BuildError {
    /// A failure without place and step.
    #[must_use]
    pub fn new(blame: Blame, message: impl Into<String>) -> Self {
        Self {
            blame,
            message: message.into(),
            notes: Vec::new(),
            helps: Vec::new(),
            place: None,
            step: None,
            rewind: false,
            full: false,
        }
    }

    /// The user's fault.
    #[must_use]
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(Blame::User, message)
    }

    /// This machine's fault.
    #[must_use]
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Blame::Environment, message)
    }

    /// Our fault.
    #[must_use]
    pub fn bug(message: impl Into<String>) -> Self {
        let help = "this is a bug in rbuild: please report it with this message";
        Self::new(Blame::Bug, message).help(help)
    }

    /// The end of a build that somebody ended.
    #[must_use]
    pub fn canceled() -> Self {
        Self::new(Blame::Canceled, "the build was canceled")
    }

    /// Marks a failure whose cause is out of the way now.
    #[must_use]
    pub fn rewinding(mut self) -> Self {
        self.rewind = true;
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.helps.push(help.into());
        self
    }

    /// The wire form.
    #[must_use]
    pub fn to_wire(&self) -> v1::Failure {
        use v1::failure::Blame as Wire;
        let blame = match self.blame {
            Blame::User => Wire::User,
            Blame::Usage => Wire::Usage,
            Blame::Environment => Wire::Environment,
            Blame::Remote => Wire::Remote,
            Blame::Bug => Wire::Bug,
            Blame::Canceled => Wire::Canceled,
        };
        let place = self.place.unwrap_or(Place {
            start: 0,
            end: 0,
            line: 0,
        });
        let step = self.step.as_deref().cloned();
        let (name, log_tail, exit_code) =
            step.map_or_else(Default::default, |step| (step.name, step.log_tail, step.exit_code));
        v1::Failure {
            blame: blame.into(),
            message: self.message.clone(),
            notes: self.notes.clone(),
            helps: self.helps.clone(),
            step: name,
            log_tail,
            start: place.start,
            end: place.end,
            line: place.line,
            exit_code,
        }
    }
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BuildError {}

/// Why a request is refused before anything is done: one line that names the field and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RequestError(pub(crate) String);

impl BuildRequest {
    /// Checks a request from the wire. `native` is the platform of steps without emulation.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn from_wire(wire: v1::SubmitRequest, native: &Platform) -> Result<Self, RequestError> {
        check_build_id(&wire.build_id)?;
        let outputs = wire
            .outputs
            .into_iter()
            .map(output_from_wire)
            .collect::<Result<Vec<_>, _>>()?;
        let contexts = wire
            .contexts
            .into_iter()
            .map(context_from_wire)
            .collect::<Result<_, _>>()?;
        let no_cache = match (wire.no_cache, wire.no_cache_filter) {
            (true, _) => NoCache::All,
            (false, stages) if stages.is_empty() => NoCache::Off,
            (false, stages) => NoCache::Stages(stages),
        };
        let platforms = platforms::from_wire(&wire.platforms, native)?;
        let modes = v1::ContextModes::try_from(wire.context_modes);
        let context_modes = modes.map_err(|unknown| RequestError(format!("context_modes: {unknown}")))?;
        Ok(Self {
            build_id: wire.build_id,
            target: (!wire.target.is_empty()).then_some(wire.target),
            shape: platforms::shape(platforms.len(), &wire.build_args)?,
            platforms,
            build_args: wire.build_args.into_iter().collect(),
            labels: wire.labels.into_iter().collect(),
            no_cache,
            pull: wire.pull,
            network: network_from_wire(&wire.network)?,
            entitlements: entitlements_from_wire(&wire.entitlements)?,
            security: match wire.hardened {
                true => Security::Hardened,
                false => Security::Sandbox,
            },
            add_hosts: wire
                .add_hosts
                .iter()
                .map(|text| host_from_wire(text))
                .collect::<Result<_, _>>()?,
            shm_size_bytes: (wire.shm_size_bytes > 0).then_some(wire.shm_size_bytes),
            tags: references_from_wire(&wire.tags)?,
            outputs: if outputs.is_empty() {
                vec![Output::kept()]
            } else {
                outputs
            },
            contexts,
            source_date_epoch: wire.source_date_epoch,
            dockerfile_name: wire.dockerfile_name,
            insecure_registries: wire.insecure_registries,
            dockerfile_path: (!wire.dockerfile_path.is_empty()).then_some(wire.dockerfile_path),
            context_modes: context_modes.into(),
            limits: Limits::from_wire(wire.step_limits.unwrap_or_default())?,
            ca_bundle: (!wire.ca_bundle.is_empty()).then_some(wire.ca_bundle),
        })
    }
}

pub(crate) fn entitlements_from_wire(granted: &[String]) -> Result<Entitlements, RequestError> {
    let parsed = granted.iter().map(|word| word.parse());
    parsed
        .collect::<Result<_, UnknownEntitlement>>()
        .map_err(|error| RequestError(error.to_string()))
}

impl Output {
    /// What happens to a result nobody said anything about: it stays in the store.
    fn kept() -> Self {
        Self::Image {
            push: false,
            names: Vec::new(),
            encoding: Encoding::default(),
        }
    }
}

/// Build ids become file names and map keys of the server.
///
/// # Errors
/// If it is not 32 lower-case hex digits.
pub fn check_build_id(id: &str) -> Result<(), RequestError> {
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(());
    }
    Err(RequestError(format!(
        "build id `{}` is not 32 hex digits",
        id.escape_debug()
    )))
}

/// # Errors
/// If a text is no reference.
fn references_from_wire(texts: &[String]) -> Result<Vec<Reference>, RequestError> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|error| RequestError(format!("{error}"))))
        .collect()
}

pub(crate) fn network_from_wire(text: &str) -> Result<Network, RequestError> {
    match text {
        "" | "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => Err(RequestError(format!(
            "invalid network mode `{other}`: expected `default`, `none` or `host`"
        ))),
    }
}

fn host_from_wire(text: &str) -> Result<(String, String), RequestError> {
    let error = || {
        RequestError(format!(
            "`{text}` is not a host: expected `name:address` or `name=address`"
        ))
    };
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(error)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || address.parse::<std::net::IpAddr>().is_err() {
        return Err(error());
    }
    Ok((name.to_owned(), address.to_owned()))
}

impl Encoding {
    /// The compression `name` at its default level, or gzip.
    ///
    /// # Errors
    /// Unknown names.
    pub fn named(name: &str) -> Result<Self, RequestError> {
        Ok(Self {
            form: form(name, None)?,
            ..Self::default()
        })
    }
}

/// The form of a compression by its name, and a level of it.
///
/// # Errors
/// Unknown names, and levels that the compression does not have.
fn form(name: &str, level: Option<i32>) -> Result<Wanted, RequestError> {
    let recipe = Recipe::new(compression(name)?, level).map_err(|error| RequestError(error.to_string()))?;
    let exact = level.is_some();
    Ok(Wanted { recipe, exact })
}

/// How layers leave the store, by its name; gzip if it has none.
///
/// # Errors
/// Unknown names.
fn compression(text: &str) -> Result<Compression, RequestError> {
    match text {
        "" | "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::None),
        other => {
            let expected = "expected `gzip`, `zstd` or `uncompressed`";
            Err(RequestError(format!("unknown compression `{other}`: {expected}")))
        }
    }
}

fn output_from_wire(output: v1::Output) -> Result<Output, RequestError> {
    use v1::output::Kind;
    match output.kind {
        Some(Kind::Image(image)) => Ok(Output::Image {
            push: image.push,
            names: references_from_wire(&image.names)?,
            encoding: Encoding {
                form: form(&image.compression, image.compression_level)?,
                force_compression: image.force_compression,
                rewrite_timestamp: image.rewrite_timestamp,
            },
        }),
        Some(Kind::Oci(oci)) => Ok(Output::Oci {
            names: references_from_wire(&oci.names)?,
            encoding: Encoding {
                form: form(&oci.compression, oci.compression_level)?,
                force_compression: oci.force_compression,
                rewrite_timestamp: oci.rewrite_timestamp,
            },
        }),
        Some(Kind::Local(files) | Kind::Tar(files)) => Ok(Output::Files {
            platform_split: files.platform_split,
        }),
        None => Err(RequestError("an output has no kind that this server knows".to_owned())),
    }
}

fn context_from_wire((name, context): (String, v1::NamedContext)) -> Result<(String, NamedContext), RequestError> {
    use v1::named_context::Kind;
    let context = match context.kind {
        Some(Kind::Local(_)) => NamedContext::Local,
        Some(Kind::Image(reference)) => NamedContext::Image(
            reference
                .parse()
                .map_err(|error| RequestError(format!("context `{name}`: {error}")))?,
        ),
        Some(Kind::OciLayout(layout)) => NamedContext::OciLayout {
            tag: (!layout.tag.is_empty()).then_some(layout.tag),
            digest: match layout.digest.as_str() {
                "" => None,
                text => Some(
                    text.parse()
                        .map_err(|error| RequestError(format!("context `{name}`: {error}")))?,
                ),
            },
        },
        Some(Kind::Git(text)) => NamedContext::Remote(git_context(&name, &text)?),
        Some(Kind::Http(url)) => {
            let op = HttpOp {
                url,
                file_name: "context".to_owned(),
                checksum: None,
                pin: None,
            };
            // Only the main context is unpacked, as in other builders; a further one is the file `context`.
            NamedContext::Remote(match name.as_str() {
                "context" => Source::Archive(op),
                _ => Source::File(op),
            })
        }
        None => {
            return Err(RequestError(format!(
                "context `{name}` has no kind that this server knows"
            )));
        }
    };
    Ok((name, context))
}

fn git_context(name: &str, text: &str) -> Result<Source, RequestError> {
    let parsed = GitReference::parse(text)
        .ok_or_else(|| RequestError(format!("context `{name}`: `{}` is no git reference", redacted(text))))?;
    let parsed = parsed.map_err(|error| RequestError(format!("context `{name}`: {error}")))?;
    Ok(Source::Git(parsed.into_op()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native() -> Platform {
        Platform::new("linux", "amd64", "")
    }

    fn request(change: impl FnOnce(&mut v1::SubmitRequest)) -> Result<BuildRequest, RequestError> {
        let mut wire = v1::SubmitRequest {
            build_id: "0".repeat(32),
            ..Default::default()
        };
        change(&mut wire);
        BuildRequest::from_wire(wire, &native())
    }

    #[test]
    fn an_empty_request_keeps_the_image_for_the_native_platform() {
        let request = request(|_| {}).unwrap();
        assert_eq!(request.platforms, []);
        assert_eq!(request.shape, Shape::Image);
        assert_eq!(request.outputs, [Output::kept()]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let check = |change: fn(&mut v1::SubmitRequest), expected: &str| {
            let error = request(change).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|wire| wire.build_id = "../../x".into(), "../../x");
        check(|wire| wire.network = "bridge".into(), "bridge");
        check(|wire| wire.tags = vec!["A B".into()], "A B");
        check(|wire| wire.add_hosts = vec!["x:y".into()], "x:y");
        check(|wire| wire.platforms = vec!["linux/".into()], "linux/");
    }

    #[test]
    fn hosts_take_ipv6_with_and_without_brackets() {
        for text in ["h:::1", "h=::1", "h:[::1]"] {
            assert_eq!(host_from_wire(text), Ok(("h".to_owned(), "::1".to_owned())), "{text}");
        }
    }
}
