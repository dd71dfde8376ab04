//! The flags of `rbuild build` to one request, and what the session of it lends. All that can fail without a server fails here.

mod context;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use proto::entitlement::{Entitlement, Entitlements};
use proto::platform::Platform;
use proto::v1;
use proto::v1::named_context::{Kind, Local, OciLayout};

use crate::agent::Agents;
use crate::args::{BuildArgs, ResultArgs, StepArgs, WhatArgs};
use crate::config::{Config, Environment};
use crate::dockerfile::{self, NamedText};
use crate::exit::Problem;
use crate::limits;
use crate::output::{self, Destination, Output};
use crate::proxies;
use crate::secret::Secrets;
use crate::session::{Context, Session};
use crate::values;
use context::Files;

/// A build, ready to be sent.
#[derive(Debug)]
pub(crate) struct Build {
    /// The request, without its id.
    pub(crate) request: v1::SubmitRequest,
    /// What the client lends.
    pub(crate) session: Session,
    /// Where outputs go, by index.
    pub(crate) destinations: Vec<Destination>,
    /// Whether a manifest leaves the store: then its digest is the result, else the image ID.
    pub(crate) exports_manifest: bool,
    /// What the user should know before it starts.
    pub(crate) notice: Option<String>,
    /// Holds a context that came over stdin.
    _stdin_context: Option<tempfile::TempDir>,
}

/// Checks and resolves all flags; reads Dockerfile, ignore files and secrets, and looks for SSH agents.
///
/// # Errors
/// Anything wrong with the flags or with what they name.
pub(crate) fn resolve(args: &BuildArgs, config: &Config, stdin: impl Read) -> Result<Build, Problem> {
    let environment = &config.environment;
    let tags = args
        .tags
        .iter()
        .map(|tag| output::reference(tag))
        .collect::<Result<Vec<_>, _>>()?;
    let platforms = platforms(&args.what.platform, environment)?;
    if platforms.len() > 1 {
        refuse_docker_archives(&args.result.outputs)?;
    }
    let outputs = outputs(&args.result, &tags)?;
    let secrets = Secrets::read(&args.steps.secrets, environment)?;
    let mut build_args = build_args(&args.what.build_args, environment)?;
    proxies::add(&config.docker_config, &mut build_args)?;
    let agents = Agents::read(&ssh(args, environment), environment)?;
    let (mut named, named_contexts) = named_contexts(&args.what.build_contexts)?;
    let main = context::main_context(args, stdin)?;
    let mut contexts = named_contexts;
    let ignore = main
        .description
        .as_ref()
        .and_then(|description| description.ignore.clone());
    let mut stdin_context = None;
    let root = match main.files {
        Files::Directory(root) => Some(root),
        Files::Temporary(directory) => {
            let root = directory.path().to_owned();
            stdin_context = Some(directory);
            Some(root)
        }
        Files::Remote(kind) => {
            named.insert("context".to_owned(), v1::NamedContext { kind: Some(kind) });
            None
        }
    };
    contexts.extend(root.map(|root| ("context".to_owned(), Context::directory(root, ignore))));
    let source_date_epoch = source_date_epoch(&mut build_args, &named, environment)?;
    let request = v1::SubmitRequest {
        build_id: String::new(),
        target: args.what.target.clone(),
        source_date_epoch,
        build_args,
        labels: labels(&args.what)?,
        platforms,
        no_cache: args.cache.no_cache,
        no_cache_filter: args.cache.no_cache_filter.clone(),
        pull: args.cache.pull,
        network: network(&args.steps)?,
        entitlements: entitlements(&args.steps)?,
        hardened: args.steps.hardened,
        add_hosts: args
            .steps
            .add_hosts
            .iter()
            .map(|host| add_host(host))
            .collect::<Result<_, _>>()?,
        shm_size_bytes: shm_size(args.steps.shm_size.as_deref())?,
        tags,
        outputs: outputs.iter().map(v1::Output::from).collect(),
        contexts: named,
        dockerfile_path: match main.description {
            None => main.dockerfile_name.clone(),
            Some(_) => String::new(),
        },
        dockerfile_name: main.dockerfile_name,
        insecure_registries: args.result.insecure_registries.clone(),
        context_modes: v1::ContextModes::from(args.what.context_modes).into(),
        step_limits: Some(limits::parse(&args.limits)?),
        ca_bundle: certificates(args.steps.ca_bundle.as_deref())?,
    };
    Ok(Build {
        request,
        session: Session {
            build_id: String::new(),
            description: main.description,
            contexts,
            secrets,
            agents,
            docker_config: config.docker_config.clone(),
            cache_dir: config.cache_dir.clone(),
            share_paths: false,
        },
        exports_manifest: outputs
            .iter()
            .any(|o| o.pushes() || matches!(o.kind, v1::output::Kind::Oci(_))),
        destinations: outputs.into_iter().map(|output| output.destination).collect(),
        notice: main.notice,
        _stdin_context: stdin_context,
    })
}

/// The agents of `--ssh`, and the user's own for contexts that are fetched over SSH.
fn ssh(args: &BuildArgs, environment: &Environment) -> Vec<String> {
    let mut flags = args.steps.ssh.clone();
    let given = flags.iter().any(|flag| flag.split('=').next() == Some("default"));
    let named = args.what.build_contexts.iter().filter_map(|flag| flag.split_once('='));
    let mut contexts = named.map(|(_, context)| context).chain([args.context.as_str()]);
    if !given && environment.var_os("SSH_AUTH_SOCK").is_some() && contexts.any(context::is_over_ssh) {
        flags.push("default".to_owned());
    }
    flags
}

/// The archive that `docker load` reads holds one image.
fn refuse_docker_archives(outputs: &[String]) -> Result<(), Problem> {
    for text in outputs {
        if output::is_for_docker(text)? {
            let message = "docker exporter does not currently support exporting manifest lists";
            return Err(Problem::usage(message).help("build one platform, or use type=oci,dest=FILE"));
        }
    }
    Ok(())
}

fn outputs(args: &ResultArgs, tags: &[String]) -> Result<Vec<Output>, Problem> {
    let mut outputs = Vec::new();
    for text in &args.outputs {
        outputs.extend(output::parse(text)?);
    }
    let image_at = |outputs: &[Output]| {
        outputs
            .iter()
            .position(|o| matches!(o.kind, v1::output::Kind::Image(_)))
    };
    if args.push || args.load || args.outputs.is_empty() {
        match image_at(&outputs) {
            Some(at) if args.push => set_push(&mut outputs[at]),
            Some(_) => {}
            None => outputs.push(Output::image(args.push)),
        }
    }
    if outputs.iter().any(|o| o.pushes() && o.names().is_empty()) && tags.is_empty() {
        return Err(Problem::usage("tag is needed when pushing to registry").help("name the image with `-t`"));
    }
    let on_stdout = outputs.iter().filter(|o| o.destination == Destination::Stdout).count();
    if on_stdout > 1 {
        return Err(Problem::usage("only one output can go to stdout"));
    }
    if args.iidfile.is_some() && !outputs.iter().any(Output::is_image) {
        return Err(Problem::usage("--iidfile: the result is not an image, so it has no ID"));
    }
    Ok(outputs)
}

fn set_push(output: &mut Output) {
    if let v1::output::Kind::Image(image) = &mut output.kind {
        image.push = true;
    }
}

fn build_args(flags: &[String], environment: &Environment) -> Result<HashMap<String, String>, Problem> {
    let mut build_args = HashMap::new();
    for flag in flags {
        let (key, value) = match flag.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            // Without a value the environment has it, or the Dockerfile's default stays.
            None => match environment.var(flag)? {
                Some(value) => (flag.as_str(), value.to_owned()),
                None => continue,
            },
        };
        if key.is_empty() {
            return Err(Problem::usage(format!("--build-arg: `{flag}` has no name")));
        }
        if key == "BUILDKIT_SYNTAX" && value.is_empty() {
            return Err(Problem::usage("--build-arg: BUILDKIT_SYNTAX cannot be empty"));
        }
        build_args.insert(key.to_owned(), value);
    }
    Ok(build_args)
}

/// The limit of times, if it is a number. A context that it is to be taken from stays among the build arguments, where the
/// server looks.
fn source_date_epoch(
    build_args: &mut HashMap<String, String>,
    contexts: &HashMap<String, v1::NamedContext>,
    environment: &Environment,
) -> Result<Option<i64>, Problem> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let text = match build_args.get(NAME) {
        Some(text) => Some(text.clone()),
        None => environment.var(NAME)?.map(str::to_owned),
    };
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text == "context" || contexts.contains_key(&text) {
        build_args.insert(NAME.to_owned(), text);
        return Ok(None);
    }
    let seconds = text.parse();
    seconds
        .map(Some)
        .map_err(|_| Problem::usage(format!("{NAME}: `{text}` is not a number of seconds")))
}

fn labels(args: &WhatArgs) -> Result<HashMap<String, String>, Problem> {
    let pairs = args.labels.iter().map(|label| match label.split_once('=') {
        // A label without a value is empty, as in other builders.
        None if !label.is_empty() => Ok((label.clone(), String::new())),
        _ => values::key_value("--label", label).map(|(k, v)| (k.to_owned(), v.to_owned())),
    });
    pairs.collect()
}

fn platforms(flags: &[String], environment: &Environment) -> Result<Vec<String>, Problem> {
    let default: Vec<String> = match environment.var("DOCKER_DEFAULT_PLATFORM")? {
        Some(platform) if flags.is_empty() => vec![platform.to_owned()],
        _ => flags.to_vec(),
    };
    let mut platforms = Vec::new();
    for text in &default {
        let platform = match text.as_str() {
            "local" => String::new(),
            text => text
                .parse::<Platform>()
                .map_err(|error| Problem::usage(error.to_string()))?
                .to_string(),
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn network(args: &StepArgs) -> Result<String, Problem> {
    match args.network.as_str() {
        network @ ("default" | "none" | "host") => Ok(network.to_owned()),
        other => {
            Err(Problem::usage(format!("--network: there is no mode `{other}`")).help("use default, none or host"))
        }
    }
}

fn entitlements(args: &StepArgs) -> Result<Vec<String>, Problem> {
    let mut granted = grants("--allow", &args.allow)?;
    // The flag itself is the consent, as in other builders.
    if args.network == "host" {
        granted.push(Entitlement::NetworkHost);
    }
    let granted: Entitlements = granted.into_iter().collect();
    Ok(granted.iter().map(Entitlement::to_string).collect())
}

/// The entitlements that `flag` names.
///
/// # Errors
/// A word that names none.
pub(crate) fn grants(flag: &str, words: &[String]) -> Result<Vec<Entitlement>, Problem> {
    let parsed = words.iter().map(|word| word.parse::<Entitlement>());
    parsed.collect::<Result<_, _>>().map_err(|error| {
        Problem::usage(format!("{flag}: {error}")).help("use network.host, security.insecure, device or device=NAME")
    })
}

/// `name:address` from `name:address` or `name=address`; brackets around IPv6 are dropped.
fn add_host(text: &str) -> Result<String, Problem> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = split
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| Problem::usage(format!("--add-host: `{text}` is not of the form NAME:ADDRESS")))?;
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Problem::usage(format!(
            "--add-host: `{}` is no host name",
            name.escape_debug()
        )));
    }
    if address == "host-gateway" {
        return Ok(format!("{name}:{address}"));
    }
    let inner = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let ip: IpAddr = inner
        .parse()
        .map_err(|_| Problem::usage(format!("--add-host: `{address}` is no IP address")))?;
    Ok(format!("{name}:{ip}"))
}

fn shm_size(text: Option<&str>) -> Result<u64, Problem> {
    match text {
        None => Ok(0),
        Some(text) => match values::bytes("--shm-size", text)? {
            0 => Err(Problem::usage("--shm-size: a size of 0 is no size")),
            size => Ok(size),
        },
    }
}

/// Larger files of certificates do not fit into a request.
const MAX_CERTIFICATES_BYTES: u64 = 2 << 20;

/// The file of `--ca-bundle`; empty without one.
fn certificates(path: Option<&Path>) -> Result<Vec<u8>, Problem> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let wrong = |what: &str| Problem::usage(format!("--ca-bundle: `{}` {what}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    file.take(MAX_CERTIFICATES_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_CERTIFICATES_BYTES {
        return Err(wrong(&format!("is larger than {MAX_CERTIFICATES_BYTES} bytes")));
    }
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("PRIVATE KEY-----") {
        return Err(wrong("holds a private key, which no step is to see"));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(wrong("holds no certificate").help("certificates are written as PEM: -----BEGIN CERTIFICATE-----"));
    }
    Ok(bytes)
}

type NamedContexts = (HashMap<String, v1::NamedContext>, BTreeMap<String, Context>);

fn named_contexts(flags: &[String]) -> Result<NamedContexts, Problem> {
    let mut named = HashMap::new();
    let mut lent = BTreeMap::new();
    for flag in flags {
        let (name, value) = values::key_value("--build-context", flag)?;
        if matches!(name, "context" | "scratch") {
            return Err(Problem::usage(format!("--build-context: `{name}` can not be replaced")));
        }
        let (kind, context) = named_context(value)?;
        if named
            .insert(name.to_owned(), v1::NamedContext { kind: Some(kind) })
            .is_some()
        {
            return Err(Problem::usage(format!("--build-context: `{name}` is given twice")));
        }
        lent.extend(context.map(|context| (name.to_owned(), context)));
    }
    Ok((named, lent))
}

fn named_context(value: &str) -> Result<(Kind, Option<Context>), Problem> {
    if let Some(image) = value.strip_prefix("docker-image://") {
        let reference = image.parse::<proto::reference::Reference>();
        let reference = reference.map_err(|error| Problem::usage(error.to_string()))?;
        return Ok((Kind::Image(reference.to_string()), None));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (path, tag, digest) = layout_parts(layout);
        let root = context::directory(path)?;
        if !root.join("index.json").is_file() {
            return Err(Problem::usage(format!(
                "--build-context: `{path}` is no OCI layout: it has no `index.json`"
            )));
        }
        return Ok((
            Kind::OciLayout(OciLayout { tag, digest }),
            Some(Context::oci_layout(root)),
        ));
    }
    if let Some(kind) = context::remote(value)? {
        return Ok((kind, None));
    }
    let root = context::directory(value)?;
    let ignore: Option<NamedText> = dockerfile::context_ignore(&root)?;
    Ok((Kind::Local(Local {}), Some(Context::directory(root, ignore))))
}

/// `PATH[:TAG][@DIGEST]`; a colon before a slash belongs to the path.
fn layout_parts(text: &str) -> (&str, String, String) {
    let (text, digest) = match text.split_once("@sha256:") {
        Some((text, hex)) => (text, format!("sha256:{hex}")),
        None => (text, String::new()),
    };
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag.to_owned(), digest),
        _ => (text, String::new(), digest),
    }
}

#[cfg(test)]
mod tests;
