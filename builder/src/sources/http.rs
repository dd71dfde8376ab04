//! Files behind URLs: asked whether they changed, downloaded into a temporary file, written as a layer.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;

use cache::answers::KnownFile;
use cache::budget::Charge;
use cache::download::{Answer, Receive, Request, Validators};
use proto::address::{host, percent_decoded, redacted, split_login};
use proto::canonical;
use proto::definition::{HttpOp, HttpPin};
use proto::digest::{ContentDigest, Digest, Hasher};
use proto::record::{CacheKey, LayerInfo, Preimage};
use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};
use rustix::fs::{Mode, OFlags};

use super::{Made, Pinned, Source, download_failed, known};
use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::layer::entry::{Content, LayerEntry};
use crate::layers::{Layers, store_failed};
use crate::op::archive;
use crate::request::{Blame, BuildError};

/// Most bytes of one file.
const FILE_LIMIT_BYTES: u64 = 32 << 30;
/// Bytes between two reports.
const REPORT_EVERY: u64 = 1 << 20;
/// Nobody else reads it: who lent the login for it is not asked again.
const MODE: u32 = 0o600;

fn op_of(source: &Source) -> Result<&HttpOp, BuildError> {
    match source {
        Source::File(op) | Source::Archive(op) => Ok(op),
        Source::Git(_) => Err(BuildError::bug("a repository is no file")),
    }
}

/// Pins `source` and finds or makes its layer.
pub(super) async fn make(source: &Source, job: &Job, step: StepNumber) -> Result<Pinned, BuildError> {
    let op = op_of(source)?;
    let answers = job.host.store.answers();
    let address = address_key(source, op);
    let before = answers.known(address).and_then(|file| {
        let pin = HttpPin {
            digest: file.digest,
            modified: file.modified,
        };
        let (source, layer) = known_as(source, op, pin, job)?;
        Some((file, source, layer))
    });
    // What a checksum names cannot have changed, so nobody has to be asked.
    if let Some((file, source, layer)) = &before
        && op.checksum == Some(file.digest)
    {
        return Ok((source.clone(), Made::Known(layer.clone()), time(file.modified)));
    }
    let validators = before
        .as_ref()
        .map(|(file, ..)| file.validators.clone())
        .unwrap_or_default();
    match (download(op, validators, job, step).await?, before) {
        (Got::Unchanged, Some((file, source, layer))) => {
            check(op, file.digest)?;
            Ok((source, Made::Known(layer), time(file.modified)))
        }
        (Got::Unchanged, None) => Err(BuildError::bug(
            "a server said that nothing changed, but nothing was known",
        )),
        (Got::File(spooled), _) => {
            let pin = spooled.pin;
            check(op, pin.digest)?;
            let (validators, found) = (spooled.validators.clone(), known_as(source, op, pin, job));
            let (source, made) = match found {
                Some((source, layer)) => (source, Made::Known(layer)),
                None => {
                    let (source, layer) = write(source.clone(), spooled, job).await?;
                    (source, Made::New(layer))
                }
            };
            if !validators.is_empty() {
                let file = KnownFile {
                    validators,
                    digest: pin.digest,
                    modified: pin.modified,
                    key: canonical::key(&source.preimage()),
                };
                answers.put(address, &file).map_err(|error| store_failed(&error))?;
            }
            Ok((source, made, time(pin.modified)))
        }
    }
}

/// Downloads a pinned source whose layer is gone.
pub(super) async fn anew(source: &Source, job: &Job, step: StepNumber) -> Result<LayerInfo, BuildError> {
    let op = op_of(source)?;
    let Got::File(mut spooled) = download(op, Validators::default(), job, step).await? else {
        return Err(BuildError::bug(
            "a server said that nothing changed, but nothing was known",
        ));
    };
    if let Some(pin) = op.pin {
        // The time is part of the layer, and a server may tell another one for the same bytes.
        spooled.pin.modified = pin.modified;
    }
    Ok(write(source.clone(), spooled, job).await?.1)
}

fn time(modified: i64) -> Option<i64> {
    (modified != 0).then_some(modified)
}

/// Where the answer of the server is kept. Credentials do not matter: the server is asked with those of this build.
fn address_key(source: &Source, op: &HttpOp) -> CacheKey {
    let mut preimage = Preimage::default();
    preimage.push("op", "http address");
    preimage.push("url", split_login(&op.url).1);
    preimage.push("file name", op.file_name.as_str());
    preimage.push(
        "archive",
        if matches!(source, Source::Archive(_)) {
            "yes"
        } else {
            "no"
        },
    );
    canonical::key(&preimage)
}

/// The layer of `source` pinned to `pin`; of an archive that turned out to be none, that of the file.
fn known_as(source: &Source, op: &HttpOp, pin: HttpPin, job: &Job) -> Option<(Source, LayerInfo)> {
    let op = HttpOp {
        pin: Some(pin),
        ..op.clone()
    };
    let file = Source::File(op.clone());
    let wanted = match source {
        Source::Archive(_) => vec![Source::Archive(op), file],
        _ => vec![file],
    };
    wanted.into_iter().find_map(|source| {
        let found = known(&source, job)?;
        Some((source, found))
    })
}

fn check(op: &HttpOp, found: Digest) -> Result<(), BuildError> {
    match op.checksum {
        Some(expected) if expected != found => {
            let url = redacted(&op.url);
            Err(
                BuildError::user(format!("digest mismatch for {url}: {found} (expected: {expected})"))
                    .help("either the file changed, or the checksum is that of another one"),
            )
        }
        _ => Ok(()),
    }
}

/// What a request led to.
enum Got {
    Unchanged,
    File(Box<Spooled>),
}

/// A downloaded file in the store's folder for temporary files.
struct Spooled {
    file: tempfile::NamedTempFile,
    /// Of the store's room, as long as the file is there.
    _charge: Charge,
    pin: HttpPin,
    content: ContentDigest,
    size_bytes: u64,
    validators: Validators,
}

async fn download(op: &HttpOp, known: Validators, job: &Job, step: StepNumber) -> Result<Got, BuildError> {
    let (_, url) = split_login(&op.url);
    let request = Request {
        authorization: authorization(op, job).await?,
        url,
        known,
        limit_bytes: FILE_LIMIT_BYTES,
        reach: super::reach(job),
    };
    let file = tempfile::NamedTempFile::new_in(job.host.store.tmp_dir())
        .map_err(|error| BuildError::environment(format!("cannot make a temporary file: {error}")))?;
    let mut spool = Spool {
        what: format!("downloading {}", redacted(&op.url)),
        file,
        charge: Charge::new(job.host.store.budget()),
        sha256: Hasher::new(),
        blake3: blake3::Hasher::new(),
        reported: 0,
        job,
        step,
    };
    let answer = job.host.sources.downloader.fetch(&request, &mut spool).await;
    let (validators, modified) = match answer.map_err(|error| download_failed(&error))? {
        Answer::Unchanged => return Ok(Got::Unchanged),
        Answer::Fetched { validators, modified } => (validators, modified),
    };
    let size_bytes = spool.blake3.count();
    job.events.progress(step, &spool.what, size_bytes, size_bytes);
    Ok(Got::File(Box::new(Spooled {
        file: spool.file,
        _charge: spool.charge,
        pin: HttpPin {
            digest: spool.sha256.finish(),
            modified: modified.unwrap_or(0),
        },
        content: spool.blake3.finalize().into(),
        size_bytes,
        validators,
    })))
}

/// The login: from the URL itself, or a secret that the client lends for this host.
async fn authorization(op: &HttpOp, job: &Job) -> Result<Option<String>, BuildError> {
    if let (Some(login), _) = split_login(&op.url) {
        return Ok(Some(super::git::basic(&percent_decoded(login))));
    }
    let Some(host) = host(&op.url) else {
        return Ok(None);
    };
    if let Some(header) = secret(&format!("HTTP_AUTH_HEADER_{host}"), job).await? {
        return Ok(Some(header));
    }
    let token = secret(&format!("HTTP_AUTH_TOKEN_{host}"), job).await?;
    Ok(token.map(|token| format!("Bearer {token}")))
}

/// The text of a secret, if the client has it.
pub(super) async fn secret(id: &str, job: &Job) -> Result<Option<String>, BuildError> {
    let Some(bytes) = job.session.secret(id).await? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).ok().map(|text| text.trim_end().to_owned());
    let text = text.filter(|text| !text.chars().any(char::is_control));
    text.map(Some)
        .ok_or_else(|| BuildError::user(format!("secret {id} is no line of text and cannot be a login")))
}

/// Takes the bytes of a download.
struct Spool<'a> {
    what: String,
    file: tempfile::NamedTempFile,
    charge: Charge,
    sha256: Hasher,
    blake3: blake3::Hasher,
    reported: u64,
    job: &'a Job,
    step: StepNumber,
}

impl Receive for Spool<'_> {
    fn restart(&mut self) -> io::Result<()> {
        self.file.as_file_mut().set_len(0)?;
        self.file.as_file_mut().rewind()?;
        self.charge.clear();
        self.sha256 = Hasher::new();
        self.blake3.reset();
        self.reported = 0;
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8], expected: Option<u64>) -> io::Result<()> {
        self.charge.add(bytes.len() as u64)?;
        self.file.write_all(bytes)?;
        self.sha256.update(bytes);
        self.blake3.update(bytes);
        let received = self.blake3.count();
        if received - self.reported >= REPORT_EVERY {
            self.reported = received;
            self.job
                .events
                .progress(self.step, &self.what, received, expected.unwrap_or(0));
        }
        Ok(())
    }
}

/// Writes the layer of a downloaded file; says what it turned out to be.
async fn write(source: Source, spooled: Box<Spooled>, job: &Job) -> Result<(Source, LayerInfo), BuildError> {
    let layers = job.host.layers.clone();
    let spool_dir = job.host.store.tmp_dir();
    blocking::run(move || {
        let pinned = |op: HttpOp| HttpOp {
            pin: Some(spooled.pin),
            ..op
        };
        match source {
            Source::Archive(op) => {
                let file = spooled.file.reopen().map_err(|error| store_failed(&error))?;
                match archive_layer(file, &op, &spool_dir, &layers)? {
                    Some(layer) => Ok((Source::Archive(pinned(op)), layer)),
                    None => Ok((Source::File(pinned(op.clone())), file_layer(&spooled, &op, &layers)?)),
                }
            }
            Source::File(op) => {
                let layer = file_layer(&spooled, &op, &layers)?;
                Ok((Source::File(pinned(op)), layer))
            }
            Source::Git(_) => Err(BuildError::bug("a repository is no file")),
        }
    })
    .await
}

fn file_layer(spooled: &Spooled, op: &HttpOp, layers: &Layers) -> Result<LayerInfo, BuildError> {
    let path = spooled.file.path();
    let (directory, name) = match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => (directory, name),
        _ => return Err(BuildError::bug("a temporary file has no place")),
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| BuildError::environment(format!("cannot open `{}`: {error}", directory.display())))?;
    let entry = TreeEntry {
        path: RelPath::clean(op.file_name.as_bytes()),
        kind: EntryKind::File {
            size: spooled.size_bytes,
            content: spooled.content,
        },
        mode: MODE,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: spooled.pin.modified,
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
    };
    let content = Content::File {
        root: Arc::new(root),
        path: name.into(),
    };
    Ok(layers.write(&[LayerEntry { entry, content }])?.info)
}

/// What the archive in `file` holds, as a layer; nothing if it is no archive.
fn archive_layer(
    file: File,
    op: &HttpOp,
    spool_dir: &std::path::Path,
    layers: &Layers,
) -> Result<Option<LayerInfo>, BuildError> {
    let broken = |error: archive::ArchiveError| {
        let failure = BuildError::new(Blame::Remote, format!("archive `{}`: {error}", redacted(&op.url)));
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        cause.into_iter().fold(failure, BuildError::note)
    };
    let Some(archive) = archive::open(file, spool_dir).map_err(broken)? else {
        return Ok(None);
    };
    let entry = |entry: &TreeEntry| LayerEntry {
        content: archive.content(&entry.path),
        entry: entry.clone(),
    };
    let entries: Vec<LayerEntry> = archive.tree.entries().iter().map(entry).collect();
    Ok(Some(layers.write(&entries)?.info))
}
