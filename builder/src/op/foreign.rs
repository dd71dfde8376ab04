//! Steps for another architecture than this machine's: whether they can run, and what to say if they cannot.

use proto::definition::{ExecOp, VertexId};
use proto::platform::Platform;

use super::work::BuildWork;
use crate::executor::emulation::{Handlers, Support};
use crate::request::BuildError;

/// The platforms of a step that does not run on this machine's own processor as it is.
#[derive(Debug)]
pub(super) struct Foreign {
    wanted: Platform,
    native: Platform,
}

/// Refuses a step that cannot run here, before anything is made ready for it.
///
/// What counts is the image that the step runs in, not the platform that the build was asked for: an image of this machine's own
/// architecture runs whatever it is called. Without an image nobody knows, and the step is tried.
///
/// # Errors
/// There is no emulator for the platform.
pub(super) fn check(work: &BuildWork, id: VertexId, exec: &ExecOp) -> Result<Option<Foreign>, BuildError> {
    let native = work.job.host.platform.clone();
    let below = work.platform_below(id);
    let known = below.is_some();
    let wanted = below.unwrap_or_else(|| work.definition.vertex(id).platform.clone());
    let support = Handlers::read().support(&wanted, &native);
    let foreign = Foreign { wanted, native };
    match support {
        Support::Native => Ok(None),
        Support::Missing if known => Err(refused(exec, &foreign, None)),
        Support::NotFixed(handler) if known => Err(refused(exec, &foreign, Some(&handler))),
        Support::Emulated(_) | Support::Unknown | Support::Missing | Support::NotFixed(_) => Ok(Some(foreign)),
    }
}

fn refused(exec: &ExecOp, foreign: &Foreign, handler: Option<&str>) -> BuildError {
    let command = exec.args.join(" ").escape_debug().to_string();
    let Foreign { wanted, native } = foreign;
    let message = format!(
        "process \"{command}\" cannot start: exec format error: it is for {wanted}, and this machine ({native}) has no emulator for it"
    );
    let error = BuildError::user(message);
    let error = match handler {
        Some(handler) => error.note(format!(
            "binfmt_misc has the handler `{handler}`, but without the flag F: steps do not see its emulator"
        )),
        None => error,
    };
    ways_out(error, wanted)
}

fn ways_out(error: BuildError, wanted: &Platform) -> BuildError {
    let architecture = &wanted.architecture;
    error
        .help(format!(
            "register an emulator for {architecture} with binfmt_misc and the flag F, as the package qemu-user-static does; `rbuild doctor` \
             shows what is there"
        ))
        .help("or compile on this machine's own platform: `FROM --platform=$BUILDPLATFORM`, with `ARG TARGETARCH` for the compiler")
}

/// Adds what a failed step for another platform may have failed of.
pub(super) fn explain(error: BuildError, foreign: Option<Foreign>) -> BuildError {
    /// What a shell answers, and the sandbox, when a program cannot be executed.
    const NOT_EXECUTED: i32 = 126;
    let code = error.step.as_ref().and_then(|step| step.exit_code);
    match foreign {
        Some(Foreign { wanted, native }) if code == Some(NOT_EXECUTED) => {
            let note = format!("the step is for {wanted}, and this machine is {native}");
            ways_out(error.note(note), &wanted)
        }
        _ => error,
    }
}
