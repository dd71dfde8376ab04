//! What a file is by its first bytes, and the tar inside it. All decoders are in this process: no program is ever run for it.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use liblzma::stream::{CONCATENATED, Stream};
use proto::oci::Compression;

use super::ArchiveError;
use crate::layer::compress::{bounded, decompress};
use crate::layer::limits::Limits;
use crate::layer::read::checksum_is_right;

/// The unit of a tar, and of its first header.
const BLOCK: usize = 512;

/// What xz may need beside its dictionary.
const XZ_EXTRA_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// The bytes of a tar from its start.
pub(super) struct TarBytes {
    pub(super) reader: Box<dyn Read + Send>,
    /// The file is the tar itself, so that its bytes can be read again from there.
    pub(super) plain: bool,
}

/// The tar in `file`; nothing if there is none.
pub(super) fn tar_in(file: &File, limits: &Limits) -> Result<Option<TarBytes>, ArchiveError> {
    let form = form(file)?;
    let mut reader = match decoder(file.try_clone().map_err(ArchiveError::Read)?, form, limits) {
        Ok(reader) => reader,
        Err(error) => return Err(ArchiveError::Read(error)),
    };
    let mut block = [0; BLOCK];
    let head = read_head(&mut reader, &mut block);
    match head {
        Ok(BLOCK) if checksum_is_right(&block) => {}
        Ok(_) => return Ok(None),
        Err(error) if form == Form::Plain || needs_too_much_memory(&error) => return Err(ArchiveError::Read(error)),
        // Looks compressed and is not: an ordinary file.
        Err(_) => return Ok(None),
    }
    Ok(Some(TarBytes {
        reader: Box::new(Cursor::new(block).chain(reader)),
        plain: form == Form::Plain,
    }))
}

fn form(file: &File) -> Result<Form, ArchiveError> {
    let mut magic = [0; 6];
    let mut start = file;
    start.seek(SeekFrom::Start(0)).map_err(ArchiveError::Read)?;
    read_head(&mut start, &mut magic).map_err(ArchiveError::Read)?;
    start.seek(SeekFrom::Start(0)).map_err(ArchiveError::Read)?;
    Ok(match magic {
        [0x1f, 0x8b, ..] => Form::Gzip,
        [b'B', b'Z', b'h', ..] => Form::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Form::Xz,
        // A zstd frame, or a skippable one before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Form::Zstd,
        _ => Form::Plain,
    })
}

fn decoder(file: File, form: Form, limits: &Limits) -> io::Result<Box<dyn Read + Send>> {
    match form {
        Form::Plain => decompress(file, Compression::None, limits),
        Form::Gzip => decompress(file, Compression::Gzip, limits),
        Form::Zstd => decompress(file, Compression::Zstd, limits),
        Form::Bzip2 => bounded(file, limits, |counted| {
            Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(counted)))
        }),
        Form::Xz => {
            // The dictionary of xz is what the window is for zstd.
            let memory = (1 << limits.zstd_window_log) + XZ_EXTRA_BYTES;
            let stream = Stream::new_stream_decoder(memory, CONCATENATED)?;
            bounded(file, limits, |counted| {
                Ok(Box::new(liblzma::bufread::XzDecoder::new_stream(counted, stream)))
            })
        }
    }
}

/// Fills `buffer` as far as there are bytes.
fn read_head(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(length) => have += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// Whether a decoder refused for its window or dictionary: the file may well be an archive then, so it is not taken for none.
fn needs_too_much_memory(error: &io::Error) -> bool {
    let inner = error.get_ref();
    let xz = inner.and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    // The zstd crate reports its library's names of errors, as text.
    matches!(xz, Some(liblzma::stream::Error::MemLimit)) || error.to_string().contains("too much memory")
}
