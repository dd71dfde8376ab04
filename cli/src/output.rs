//! `--output`, `--push` and `--load`: what the server exports, and where the client puts the bytes.

use std::path::PathBuf;

use builder::layer::compress::Recipe;
use proto::oci::Compression;
use proto::reference::Reference;
use proto::v1;
use proto::v1::output::{FilesOutput, ImageOutput, Kind, OciOutput};

use crate::exit::Problem;
use crate::values;

/// Where the bytes of an output go on the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The server keeps or pushes the result: no bytes.
    Nowhere,
    /// One file.
    File(PathBuf),
    /// Stdout.
    Stdout,
    /// A directory; the bytes are a tar.
    Directory(PathBuf),
    /// A directory; the bytes are a tar, and files belong to whom it says.
    WithOwners(PathBuf),
}

/// One requested result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output {
    /// What the server exports.
    pub(crate) kind: Kind,
    /// Where its bytes go.
    pub(crate) destination: Destination,
}

impl Output {
    /// Keeps the image in the store.
    pub(crate) fn image(push: bool) -> Self {
        let image = ImageOutput {
            push,
            ..ImageOutput::default()
        };
        Self {
            kind: Kind::Image(image),
            destination: Destination::Nowhere,
        }
    }

    /// Whether the result is pushed.
    pub(crate) fn pushes(&self) -> bool {
        matches!(&self.kind, Kind::Image(image) if image.push)
    }

    /// Whether the result is an image, so that it has an ID.
    pub(crate) fn is_image(&self) -> bool {
        matches!(self.kind, Kind::Image(_) | Kind::Oci(_))
    }

    /// The names that this output brings along.
    pub(crate) fn names(&self) -> &[String] {
        match &self.kind {
            Kind::Image(image) => &image.names,
            Kind::Oci(oci) => &oci.names,
            Kind::Local(_) | Kind::Tar(_) => &[],
        }
    }
}

impl From<&Output> for v1::Output {
    fn from(output: &Output) -> Self {
        Self {
            kind: Some(output.kind.clone()),
        }
    }
}

/// Whether one `--output` is an archive for `docker load`.
pub(crate) fn is_for_docker(text: &str) -> Result<bool, Problem> {
    Ok(values::csv(text)?.iter().any(|field| field == "type=docker"))
}

/// The attributes of one `--output`.
#[derive(Default)]
struct Attributes {
    kind: Option<String>,
    dest: Option<String>,
    names: Vec<String>,
    tar: Option<bool>,
    push: Option<bool>,
    compression: Option<String>,
    compression_level: Option<i32>,
    force_compression: Option<bool>,
    rewrite_timestamp: Option<bool>,
    platform_split: Option<bool>,
}

/// Parses one `--output`; nothing for `cacheonly`.
pub(crate) fn parse(text: &str) -> Result<Option<Output>, Problem> {
    let fields = values::csv(text)?;
    if let [path] = fields.as_slice()
        && !path.contains('=')
        && !path.is_empty()
    {
        let (kind, destination) = match path.as_str() {
            "-" => (Kind::Tar(FilesOutput::default()), Destination::Stdout),
            path => (Kind::Local(FilesOutput::default()), Destination::Directory(path.into())),
        };
        return Ok(Some(Output { kind, destination }));
    }
    let attributes = attributes(text, &fields)?;
    build(text, attributes)
}

fn attributes(text: &str, fields: &[String]) -> Result<Attributes, Problem> {
    let mut attributes = Attributes::default();
    for field in fields {
        let (key, value) = values::key_value("--output", field)?;
        match key {
            "type" => attributes.kind = Some(value.to_owned()),
            "dest" => attributes.dest = Some(value.to_owned()),
            "name" => {
                for name in value.split(',') {
                    attributes.names.push(reference(name)?);
                }
            }
            "tar" => attributes.tar = Some(values::boolean(key, value)?),
            "push" => attributes.push = Some(values::boolean(key, value)?),
            "rewrite-timestamp" => attributes.rewrite_timestamp = Some(values::boolean(key, value)?),
            "platform-split" => attributes.platform_split = Some(values::boolean(key, value)?),
            "compression" => attributes.compression = Some(compression(value)?),
            "compression-level" => attributes.compression_level = Some(level(value)?),
            "force-compression" => attributes.force_compression = Some(values::boolean(key, value)?),
            _ => {
                return Err(Problem::usage(format!("--output: `{key}` in `{text}` is not supported")).help(KEYS));
            }
        }
    }
    Ok(attributes)
}

const KEYS: &str = "keys are type, dest, name, tar, push, compression, compression-level, force-compression, \
                    rewrite-timestamp and platform-split";

/// A number; which ones there are depends on the compression.
fn level(value: &str) -> Result<i32, Problem> {
    let number = value.parse();
    number.map_err(|_| {
        Problem::usage(format!("--output: compression-level `{value}` is not a number"))
            .help("levels are 0 to 12 for gzip and 0 to 22 for zstd")
    })
}

/// Refuses a level that the compression does not have, before anything is built.
fn check_level(compression: Option<&str>, level: Option<i32>) -> Result<(), Problem> {
    let compression = match compression {
        Some("uncompressed") => Compression::None,
        Some("zstd") => Compression::Zstd,
        _ => Compression::Gzip,
    };
    match Recipe::new(compression, level) {
        Ok(_) => Ok(()),
        Err(error) => Err(Problem::usage(format!("--output: {error}"))),
    }
}

/// A normalised image name.
pub(crate) fn reference(name: &str) -> Result<String, Problem> {
    match name.parse::<Reference>() {
        Ok(reference) if reference.digest().is_some() => Err(Problem::usage(format!(
            "`{name}` has a digest: a new image can only be given a tag"
        ))),
        Ok(reference) => Ok(reference.to_string()),
        Err(error) => Err(Problem::usage(error.to_string())),
    }
}

/// A compression that we write.
pub(crate) fn compression(value: &str) -> Result<String, Problem> {
    match value {
        "gzip" | "zstd" | "uncompressed" => Ok(value.to_owned()),
        _ => Err(Problem::usage(format!("there is no compression `{value}`")).help("use gzip, zstd or uncompressed")),
    }
}

fn build(text: &str, attributes: Attributes) -> Result<Option<Output>, Problem> {
    let kind = attributes.kind.clone().unwrap_or_default();
    let refuse = |key: &str| {
        Err(Problem::usage(format!(
            "--output: `{key}` means nothing for type={kind}: `{text}`"
        )))
    };
    let image_keys = [
        ("name", !attributes.names.is_empty()),
        ("compression", attributes.compression.is_some()),
        ("compression-level", attributes.compression_level.is_some()),
        ("force-compression", attributes.force_compression.is_some()),
        ("rewrite-timestamp", attributes.rewrite_timestamp.is_some()),
    ];
    let is_image = matches!(kind.as_str(), "image" | "registry" | "oci");
    if let Some((key, _)) = image_keys.iter().find(|(_, given)| *given && !is_image) {
        return refuse(key);
    }
    if attributes.tar.is_some() && kind != "oci" {
        return refuse("tar");
    }
    if attributes.push.is_some() && kind != "image" && kind != "registry" {
        return refuse("push");
    }
    if attributes.platform_split.is_some() && kind != "local" && kind != "tar" {
        return refuse("platform-split");
    }
    check_level(attributes.compression.as_deref(), attributes.compression_level)?;
    let files = FilesOutput {
        platform_split: attributes.platform_split,
    };
    if attributes.dest.is_some() && matches!(kind.as_str(), "image" | "registry" | "cacheonly") {
        return refuse("dest");
    }
    match kind.as_str() {
        "image" | "registry" => Ok(Some(image(&kind, attributes))),
        "oci" => oci(text, attributes).map(Some),
        "local" => match destination(text, attributes.dest)? {
            Destination::File(path) => Ok(Some(Output {
                kind: Kind::Local(files),
                destination: Destination::Directory(path),
            })),
            _ => Err(Problem::usage("--output: a directory can not be written to stdout").help("use type=tar,dest=-")),
        },
        "tar" => Ok(Some(Output {
            kind: Kind::Tar(files),
            destination: destination(text, attributes.dest)?,
        })),
        "cacheonly" => Ok(None),
        "docker" => Err(Problem::usage("--output: type=docker is not supported yet")
            .help("use type=oci,dest=FILE: `docker load` reads it from version 25 on")),
        "" => Err(Problem::usage(format!("--output: `{text}` names no type"))),
        _ => Err(Problem::usage(format!("--output: there is no type `{kind}`"))
            .help("types are image, oci, local, tar, registry and cacheonly")),
    }
}

fn image(kind: &str, attributes: Attributes) -> Output {
    Output {
        kind: Kind::Image(ImageOutput {
            push: attributes.push.unwrap_or(kind == "registry"),
            compression: attributes.compression.unwrap_or_default(),
            compression_level: attributes.compression_level,
            force_compression: attributes.force_compression.unwrap_or(false),
            names: attributes.names,
            rewrite_timestamp: attributes.rewrite_timestamp.unwrap_or(false),
        }),
        destination: Destination::Nowhere,
    }
}

fn oci(text: &str, attributes: Attributes) -> Result<Output, Problem> {
    let tar = attributes.tar.unwrap_or(true);
    let destination = match (destination(text, attributes.dest)?, tar) {
        (Destination::File(path), false) => Destination::Directory(path),
        (Destination::Stdout, false) => {
            return Err(
                Problem::usage("--output: a directory can not be written to stdout").help("leave out `tar=false`")
            );
        }
        (destination, _) => destination,
    };
    Ok(Output {
        kind: Kind::Oci(OciOutput {
            tar,
            compression: attributes.compression.unwrap_or_default(),
            compression_level: attributes.compression_level,
            force_compression: attributes.force_compression.unwrap_or(false),
            names: attributes.names,
            rewrite_timestamp: attributes.rewrite_timestamp.unwrap_or(false),
        }),
        destination,
    })
}

fn destination(text: &str, dest: Option<String>) -> Result<Destination, Problem> {
    match dest.as_deref() {
        Some("-") => Ok(Destination::Stdout),
        Some("") | None => {
            Err(Problem::usage(format!("--output: `{text}` does not say where to")).help("add dest=PATH"))
        }
        Some(path) => Ok(Destination::File(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Output {
        parse(text).unwrap().unwrap()
    }

    #[test]
    fn a_path_alone_is_a_directory_and_a_dash_a_tar() {
        assert_eq!(
            parsed("out/dir"),
            Output {
                kind: Kind::Local(FilesOutput::default()),
                destination: Destination::Directory("out/dir".into()),
            }
        );
        assert_eq!(
            parsed("-"),
            Output {
                kind: Kind::Tar(FilesOutput::default()),
                destination: Destination::Stdout,
            }
        );
    }

    #[test]
    fn every_type_has_its_destination() {
        let destination = |text| parsed(text).destination;
        assert_eq!(destination("type=oci,dest=a.tar"), Destination::File("a.tar".into()));
        assert_eq!(
            destination("type=oci,dest=a,tar=false"),
            Destination::Directory("a".into())
        );
        assert_eq!(destination("type=oci,dest=-"), Destination::Stdout);
        assert_eq!(destination("type=tar,dest=b"), Destination::File("b".into()));
        assert_eq!(destination("dest=d,type=local"), Destination::Directory("d".into()));
        assert_eq!(destination("type=image"), Destination::Nowhere);
        assert_eq!(parse("type=cacheonly").unwrap(), None);
    }

    #[test]
    fn files_may_be_split_by_platform_or_not() {
        let split = |text| match parsed(text).kind {
            Kind::Local(files) | Kind::Tar(files) => files.platform_split,
            other => panic!("{other:?}"),
        };
        assert_eq!(split("out"), None);
        assert_eq!(split("type=local,dest=out,platform-split=false"), Some(false));
        assert_eq!(split("type=tar,dest=-,platform-split=1"), Some(true));
        let message = parse("type=oci,dest=a,platform-split=1").unwrap_err().message;
        assert!(message.contains("`platform-split` means nothing"), "{message}");
    }

    #[test]
    fn a_registry_is_an_image_that_is_pushed() {
        let output = parsed(r#"type=registry,"name=a,r.example/b:1",compression=zstd"#);
        assert!(output.pushes());
        assert_eq!(output.names(), ["docker.io/library/a:latest", "r.example/b:1"]);
        assert!(!parsed("type=image").pushes());
        assert!(parsed("type=image,push=true").pushes());
    }

    #[test]
    fn a_level_and_force_go_with_the_compression() {
        let oci = |text| match parsed(text).kind {
            Kind::Oci(oci) => (oci.compression, oci.compression_level, oci.force_compression),
            other => panic!("{other:?}"),
        };
        assert_eq!(oci("type=oci,dest=a"), (String::new(), None, false));
        assert_eq!(
            oci("type=oci,dest=a,compression=zstd,compression-level=22,force-compression=true"),
            ("zstd".to_owned(), Some(22), true)
        );
        assert_eq!(
            oci("type=oci,dest=a,compression-level=0"),
            (String::new(), Some(0), false)
        );
    }

    #[test]
    fn nothing_is_ignored() {
        for (text, words) in [
            ("type=local", "where to"),
            ("type=local,dest=-", "stdout"),
            ("type=oci,dest=-,tar=false", "stdout"),
            ("type=floppy,dest=a", "no type `floppy`"),
            ("dest=a", "names no type"),
            ("type=local,dest=a,compression=gzip", "`compression` means nothing"),
            ("type=tar,dest=a,push=true", "`push` means nothing"),
            ("type=image,dest=a", "`dest` means nothing"),
            ("type=image,tar=false", "`tar` means nothing"),
            ("type=image,push=maybe", "non-bool value specified for push"),
            ("type=image,unpack=true", "`unpack` in"),
            ("type=image,compression=lz4", "no compression `lz4`"),
            (
                "type=oci,dest=a,compression-level=13",
                "gzip has no compression level 13: levels are 0 to 12",
            ),
            ("type=image,compression=zstd,compression-level=-1", "levels are 0 to 22"),
            (
                "type=image,compression=uncompressed,compression-level=1",
                "no compression levels",
            ),
            ("type=image,compression-level=best", "`best` is not a number"),
            (
                "type=tar,dest=a,compression-level=1",
                "`compression-level` means nothing",
            ),
            (
                "type=local,dest=a,force-compression=true",
                "`force-compression` means nothing",
            ),
            (
                "type=image,force-compression=maybe",
                "non-bool value specified for force-compression",
            ),
            ("type=image,name=A", "lower case"),
            ("type=docker", "not supported yet"),
            ("", "KEY=VALUE"),
        ] {
            let message = parse(text).unwrap_err().message;
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
