//! The terminal of this command: its size, and its raw mode, in which every key goes to the program inside.

use std::io;

use proto::v1;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::config::Environment;
use crate::exit::Problem;

/// Lines and characters where nobody knows.
const USUAL: (u32, u32) = (24, 80);
/// What terminals can do that do not say more.
const PLAIN: &str = "xterm";

/// Whether somebody sits at a terminal.
pub(super) fn is_one() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}

/// A terminal like this one.
///
/// # Errors
/// Its kind is no text.
pub(super) fn here(environment: &Environment) -> Result<v1::Terminal, Problem> {
    Ok(v1::Terminal {
        size: Some(size()),
        kind: environment.var("TERM")?.unwrap_or(PLAIN).to_owned(),
    })
}

/// Its size now.
pub(super) fn size() -> v1::TerminalSize {
    let (rows, columns) = match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        // Stdout is no terminal, or one that was never told its size.
        _ => USUAL,
    };
    v1::TerminalSize { rows, columns }
}

/// Keys go through as they are until this is dropped.
pub(super) struct RawMode(Termios);

impl RawMode {
    /// Nothing if stdin is no terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(super) fn enter() -> Result<Option<Self>, Problem> {
        if !isatty(io::stdin()) {
            return Ok(None);
        }
        let failed = |error| Problem::environment(format!("the terminal: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.0) {
            // A terminal that is gone needs no mode.
            tracing::debug!(%error, "the mode of the terminal stays");
        }
    }
}
