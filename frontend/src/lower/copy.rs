//! `COPY` and `ADD` → a vertex that copies.

use proto::definition::{CopyAction, CopySource, FileAction, FileOp, InlineFile, ModeChange, Op, Owner, Unpack};

use super::expand::Words;
use super::reach::{self, Origin};
use super::stage::{Lowering, MAIN_CONTEXT, StageState};
use super::{owner, path, remote};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Copy, Instruction, Kind, Word};

/// Every part of the instruction, expanded.
struct Expanded {
    sources: Vec<String>,
    heredocs: Vec<InlineFile>,
    dest: String,
    chown: String,
    chmod: String,
    checksum: String,
}

impl Lowering<'_> {
    /// Lowers a `COPY` or an `ADD`.
    pub(crate) fn copy(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        copy: &Copy,
        prefix: &str,
    ) -> Result<(), Diagnostic> {
        let add = matches!(instruction.kind, Kind::Add(_));
        let expanded = self.words(&state.scope, |words| expand(copy, words))?;
        let remotes = match add {
            true => remote::of_add(copy, &expanded.sources, &expanded.checksum)?,
            false => remote::refuse(copy, &expanded.sources)?,
        };
        let origin = match &copy.from {
            Some(word) => reach::resolve(self.input, state.index, instruction, word, None)?,
            None => Origin::Local(MAIN_CONTEXT.to_owned()),
        };
        let dest_is_dir = names_directory(&expanded.dest);
        if !dest_is_dir && expanded.sources.len() + expanded.heredocs.len() > 1 {
            self.report(overwriting(copy));
        }
        let created_by = remote::without_logins(history(add, copy, &expanded), &expanded.sources);
        let text = format!("{prefix}{}", self.step_text(state, instruction, &[])?);
        let text = remote::without_logins(text, &expanded.sources);
        let action = CopyAction {
            dest: path::join(state.cwd(), &expanded.dest),
            dest_is_dir,
            owner: parse_owner(copy, &expanded.chown)?,
            mode: parse_mode(copy, &expanded.chmod)?,
            link: copy.link,
            parents: copy.parents,
            exclude: copy.exclude.iter().map(|pattern| pattern.value.clone()).collect(),
            unpack: match copy.unpack {
                _ if !add => Unpack::Nothing,
                None => Unpack::Context,
                Some(true) => Unpack::Everything,
                Some(false) => Unpack::Nothing,
            },
            sources: self.sources((state, instruction), &origin, expanded, remotes),
        };
        if origin == Origin::Local(MAIN_CONTEXT.to_owned()) {
            self.check_ignored(instruction, copy, &action.sources);
        }
        let op = Op::File(FileOp {
            root: state.root,
            action: FileAction::Copy(action),
        });
        let vertex = self.step(state, instruction, &text, op);
        state.root = Some(vertex);
        state.record(created_by, Some(vertex));
        Ok(())
    }

    /// `remotes` has an op for each source that is none of `origin`.
    fn sources(
        &mut self,
        (state, instruction): (&StageState, &Instruction),
        origin: &Origin,
        expanded: Expanded,
        remotes: Vec<Option<Op>>,
    ) -> Vec<CopySource> {
        let mut sources = Vec::new();
        for (pattern, remote) in expanded.sources.into_iter().zip(remotes) {
            sources.push(match remote {
                None => CopySource::Path {
                    from: self.files_of(origin, state),
                    pattern,
                },
                Some(op) => CopySource::Path {
                    pattern: remote::pattern(&op),
                    from: self.remote(op, instruction.lines, &state.platform),
                },
            });
        }
        sources.extend(expanded.heredocs.into_iter().map(CopySource::Inline));
        sources
    }
}

fn expand(copy: &Copy, words: &Words<'_>) -> Result<Expanded, Diagnostic> {
    let optional = |word: &Option<Word>| word.as_ref().map_or(Ok(String::new()), |word| words.expand(word));
    let heredocs = copy.heredocs.iter().map(|heredoc| {
        let data = words.expand_heredoc(heredoc)?.into_bytes();
        let name = heredoc.name.value.clone();
        Ok(InlineFile { name, data })
    });
    Ok(Expanded {
        sources: copy
            .sources
            .iter()
            .map(|word| words.expand(word))
            .collect::<Result<_, _>>()?,
        heredocs: last_body_wins(heredocs.collect::<Result<_, Diagnostic>>()?),
        dest: words.expand(&copy.dest)?,
        chown: optional(&copy.chown)?,
        chmod: optional(&copy.chmod)?,
        checksum: optional(&copy.checksum)?,
    })
}

/// Two heredocs of one name are one file, with the later text.
fn last_body_wins(mut files: Vec<InlineFile>) -> Vec<InlineFile> {
    for at in 0..files.len() {
        let last = files.iter().rposition(|file| file.name == files[at].name);
        if let Some(last) = last.filter(|last| *last != at) {
            files[at].data = files[last].data.clone();
        }
    }
    files
}

/// A trailing `/`, or a last component `.`, says that the destination is a directory.
fn names_directory(dest: &str) -> bool {
    dest.is_empty() || dest == "." || dest.ends_with('/') || dest.ends_with("/.")
}

/// The published documentation calls this an error; builders let the last file win without a word.
fn overwriting(copy: &Copy) -> Diagnostic {
    let message = "several sources, but the destination is no directory: each file replaces the one before";
    Diagnostic::warning("SeveralSourcesToFile", copy.dest.span, message)
        .help(format!("end the destination with a slash: `{}/`", copy.dest.value))
}

fn parse_owner(copy: &Copy, text: &str) -> Result<Option<Owner>, Diagnostic> {
    let Some(word) = copy.chown.as_ref().filter(|_| !text.is_empty()) else {
        return Ok(None);
    };
    let owner = owner::parse_owner(text);
    owner
        .map(Some)
        .map_err(|error| Diagnostic::error("invalid-chown", word.span, error.to_string()))
}

fn parse_mode(copy: &Copy, text: &str) -> Result<Option<ModeChange>, Diagnostic> {
    let Some(word) = copy.chmod.as_ref().filter(|_| !text.is_empty()) else {
        return Ok(None);
    };
    let mode = owner::parse_mode(text);
    mode.map(Some)
        .map_err(|error| Diagnostic::error("invalid-chmod", word.span, error.to_string()))
}

/// `COPY --chown=1:2 a b /dst/ # buildkit`: expanded, but without `--from`, `--link` and `--exclude`.
fn history(add: bool, copy: &Copy, expanded: &Expanded) -> String {
    let mut parts = vec![if add { "ADD" } else { "COPY" }.to_owned()];
    if copy.parents {
        parts.push("--parents".to_owned());
    }
    if !expanded.chown.is_empty() {
        parts.push(format!("--chown={}", expanded.chown));
    }
    if !expanded.chmod.is_empty() {
        parts.push(format!("--chmod={}", expanded.chmod));
    }
    parts.extend(expanded.sources.iter().cloned());
    parts.extend(expanded.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
    parts.push(expanded.dest.clone());
    parts.push("# buildkit".to_owned());
    parts.join(" ")
}
