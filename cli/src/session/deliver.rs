//! Bytes of outputs: from the session into files, directories or stdout.
//!
//! A file appears under its name when it is complete, never before.

use std::fs::File;
use std::io::{self, Read, Take, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tempfile::NamedTempFile;

use super::extract::{self, Extracted, Owners};
use crate::output::Destination;

/// Chunks that wait for the disk: with messages under 1 MiB, a bound for memory too.
const CHUNKS_IN_FLIGHT: usize = 4;

/// An output that is being written by its own thread.
#[derive(Debug)]
pub(crate) struct Delivery {
    chunks: Option<SyncSender<Piece>>,
    writer: Option<JoinHandle<Result<Option<Extracted>, String>>>,
}

impl Delivery {
    /// Starts to write to `destination`.
    pub(crate) fn start(destination: Destination) -> Self {
        let (sender, receiver) = sync_channel(CHUNKS_IN_FLIGHT);
        let writer = std::thread::spawn(move || write(&destination, Chunks::new(receiver)));
        Self {
            chunks: Some(sender),
            writer: Some(writer),
        }
    }

    /// Hands over the next bytes; waits while the disk is slower than the server.
    ///
    /// # Errors
    /// The writer failed before; the text says why.
    pub(crate) fn write(&mut self, chunk: Vec<u8>) -> Result<(), String> {
        self.give(Piece::Bytes(chunk))
    }

    /// Hands over the first `size` bytes of a file as the next ones.
    ///
    /// # Errors
    /// As [`Delivery::write`].
    pub(crate) fn write_file(&mut self, file: File, size: u64) -> Result<(), String> {
        self.give(Piece::File(file.take(size)))
    }

    fn give(&mut self, piece: Piece) -> Result<(), String> {
        let Some(chunks) = &self.chunks else {
            return Err("the output failed before".to_owned());
        };
        match chunks.send(piece) {
            Ok(()) => Ok(()),
            Err(_) => match self.join() {
                Ok(_) => Err("the server sent more than one archive".to_owned()),
                Err(error) => Err(error),
            },
        }
    }

    /// Waits until everything is written and in place.
    ///
    /// # Errors
    /// The text says what failed, and where.
    pub(crate) fn finish(mut self) -> Result<Option<Extracted>, String> {
        match self.chunks.as_ref().map(|chunks| chunks.send(Piece::End)) {
            // The writer ended before the end mark: `join` knows why.
            Some(Ok(()) | Err(_)) | None => self.join(),
        }
    }

    fn join(&mut self) -> Result<Option<Extracted>, String> {
        self.chunks = None;
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err("the writer of the output panicked".to_owned()),
            None => Err("the output failed before".to_owned()),
        }
    }
}

impl Drop for Delivery {
    /// An output that is given up ends here, so that no temporary file outlives the process.
    fn drop(&mut self) {
        drop(self.join());
    }
}

/// Some bytes of an output.
enum Piece {
    Bytes(Vec<u8>),
    File(Take<File>),
    /// All were sent. A channel that closes without it was given up, and nothing may appear under the final name.
    End,
}

/// The pieces as one stream.
struct Chunks {
    receiver: Receiver<Piece>,
    piece: Piece,
    /// How much of a piece of bytes was read.
    at: usize,
}

impl Chunks {
    fn new(receiver: Receiver<Piece>) -> Self {
        Self {
            receiver,
            piece: Piece::Bytes(Vec::new()),
            at: 0,
        }
    }

    fn next(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::UnexpectedEof, "the build ended before its output did");
        self.piece = self.receiver.recv().map_err(gone)?;
        self.at = 0;
        Ok(())
    }

    /// Writes all that comes to `file`: what is in a file already, without taking it through this process.
    fn copy_to(&mut self, file: &mut File) -> io::Result<()> {
        loop {
            match &mut self.piece {
                Piece::Bytes(bytes) => file.write_all(&bytes[self.at..])?,
                Piece::File(source) => {
                    io::copy(source, file)?;
                    whole(source)?;
                }
                Piece::End => return Ok(()),
            }
            self.next()?;
        }
    }
}

/// A file that ended early is not what the server meant.
fn whole(source: &Take<File>) -> io::Result<()> {
    if source.limit() == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "a file of the build server ended early",
    ))
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.piece {
                Piece::Bytes(bytes) if self.at < bytes.len() => {
                    let count = buffer.len().min(bytes.len() - self.at);
                    buffer[..count].copy_from_slice(&bytes[self.at..self.at + count]);
                    self.at += count;
                    return Ok(count);
                }
                Piece::Bytes(_) => {}
                Piece::File(source) => match source.read(buffer)? {
                    0 => whole(source)?,
                    count => return Ok(count),
                },
                Piece::End => return Ok(0),
            }
            self.next()?;
        }
    }
}

fn write(destination: &Destination, mut chunks: Chunks) -> Result<Option<Extracted>, String> {
    match destination {
        Destination::Nowhere => Err("this output has no destination on the client".to_owned()),
        Destination::Stdout => {
            let mut stdout = io::stdout().lock();
            io::copy(&mut chunks, &mut stdout)
                .and_then(|_| stdout.flush())
                .map_err(|error| format!("stdout: {error}"))?;
            Ok(None)
        }
        Destination::File(path) => {
            write_file(path, &mut chunks).map_err(|error| format!("`{}`: {error}", path.display()))?;
            Ok(None)
        }
        Destination::Directory(path) | Destination::WithOwners(path) => {
            let owners = match destination {
                Destination::WithOwners(_) => Owners::Archive,
                _ => Owners::Invoker,
            };
            let shown = |error: &dyn std::fmt::Display| format!("`{}`: {error}", path.display());
            let extracted = extract::extract(&mut chunks, path, owners).map_err(|error| shown(&error))?;
            // Padding after the end mark of the archive: read it, so that the sender is not cut off.
            io::copy(&mut chunks, &mut io::sink()).map_err(|error| shown(&error))?;
            Ok(Some(extracted))
        }
    }
}

fn write_file(path: &Path, chunks: &mut Chunks) -> io::Result<()> {
    // Pipes and devices, as in `dest=/dev/stderr`, can not be renamed over.
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let mut special = std::fs::OpenOptions::new().write(true).open(path)?;
        io::copy(chunks, &mut special)?;
        return Ok(());
    }
    let mut file = beside(path)?;
    chunks.copy_to(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// A temporary file in the directory of `path`, which is created if needed.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;

    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&directory)?;
    tempfile::Builder::new()
        .prefix(".rbuild-")
        // The umask of the user applies, as to any file they make.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
}

/// Writes a small file completely or not at all.
pub(crate) fn write_small(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = beside(path)?;
    file.write_all(content)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/out.tar");
        let mut delivery = Delivery::start(Destination::File(path.clone()));
        delivery.write(b"first ".to_vec()).unwrap();
        assert!(!path.exists());
        delivery.write(b"second".to_vec()).unwrap();
        assert_eq!(delivery.finish(), Ok(None));
        assert_eq!(std::fs::read(&path).unwrap(), b"first second");
    }

    #[test]
    fn bytes_and_files_come_in_the_order_in_which_they_were_given() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("blob");
        std::fs::write(&source, b"of the file, and more").unwrap();
        let path = directory.path().join("out.tar");
        let mut delivery = Delivery::start(Destination::File(path.clone()));
        delivery.write(b"bytes ".to_vec()).unwrap();
        delivery.write_file(File::open(&source).unwrap(), 11).unwrap();
        delivery.write(b" bytes".to_vec()).unwrap();
        assert_eq!(delivery.finish(), Ok(None));
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes of the file bytes");
    }

    #[test]
    fn a_file_that_is_shorter_than_was_said_gives_no_output() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("blob");
        std::fs::write(&source, b"short").unwrap();
        let path = directory.path().join("out.tar");
        let mut delivery = Delivery::start(Destination::File(path.clone()));
        delivery.write_file(File::open(&source).unwrap(), 6).unwrap();
        assert!(delivery.finish().unwrap_err().contains("ended early"));
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_gets_files_out_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        builder.append_data(&mut header, "a", &b"hi"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        let source = directory.path().join("archive");
        std::fs::write(&source, &archive[..600]).unwrap();
        let mut delivery = Delivery::start(Destination::Directory(directory.path().join("out")));
        delivery.write_file(File::open(&source).unwrap(), 600).unwrap();
        delivery.write(archive[600..].to_vec()).unwrap();
        assert_eq!(delivery.finish().unwrap().unwrap().entries, 1);
        assert_eq!(std::fs::read(directory.path().join("out/a")).unwrap(), b"hi");
    }

    #[test]
    fn an_output_that_is_given_up_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tar");
        let mut delivery = Delivery::start(Destination::File(path));
        delivery.write(b"half".to_vec()).unwrap();
        assert_eq!(
            delivery.join().unwrap_err().split(": ").last(),
            Some("the build ended before its output did")
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_gets_the_files_of_the_archive() {
        let directory = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        builder.append_data(&mut header, "a/b", &b"hi"[..]).unwrap();
        let mut delivery = Delivery::start(Destination::Directory(directory.path().into()));
        for chunk in builder.into_inner().unwrap().chunks(100) {
            delivery.write(chunk.to_vec()).unwrap();
        }
        assert_eq!(delivery.finish().unwrap().unwrap().entries, 1);
        assert_eq!(std::fs::read(directory.path().join("a/b")).unwrap(), b"hi");
    }

    #[test]
    fn a_destination_that_can_not_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let delivery = Delivery::start(Destination::File(file.join("below")));
        assert!(delivery.finish().unwrap_err().contains("file/below"));
    }
}
