//! Files of a server on the same machine, taken as they are instead of through the stream.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use proto::v1;

use super::{Refusal, Session};

impl Session {
    /// Opens a file that the server has open, if this client shares files with it and sees the very same one.
    ///
    /// # Errors
    /// [`Refusal`]: the bytes have to come another way.
    pub(crate) fn open_output_file(&self, offered: &v1::OutputFile) -> Result<File, Refusal> {
        if !self.share_paths {
            return Err(Refusal::new("this client shares no files with the server"));
        }
        // In another PID namespace this is nothing, or a file of another process: what was opened is looked at, not its name.
        let path = format!("/proc/{}/fd/{}", offered.pid, offered.descriptor);
        let file = File::open(&path).map_err(|error| Refusal::new(format!("`{path}`: {error}")))?;
        let facts = file
            .metadata()
            .map_err(|error| Refusal::new(format!("`{path}`: {error}")))?;
        let is_the_same =
            facts.is_file() && (facts.dev(), facts.ino(), facts.len()) == (offered.device, offered.inode, offered.size);
        if is_the_same {
            Ok(file)
        } else {
            Err(Refusal::new(format!("`{path}` is another file here")))
        }
    }
}
