//! `COPY` and `ADD`: flags, sources, destination, files that stand in the Dockerfile itself.

use super::Statement;
use super::flags::{Flags, Takes};
use super::{form, heredoc};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Copy, Heredoc, Kind, Word};
use crate::text::Piece;

const COPY_FLAGS: [(&str, Takes); 6] = [
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
    ("exclude", Takes::List),
];

const ADD_FLAGS: [(&str, Takes); 7] = [
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Text),
    ("unpack", Takes::Bool),
    ("exclude", Takes::List),
];

pub(super) fn copy(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    read(statement, &COPY_FLAGS).map(|copy| Kind::Copy(Box::new(copy)))
}

pub(super) fn add(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    read(statement, &ADD_FLAGS).map(|copy| Kind::Add(Box::new(copy)))
}

fn read(statement: &Statement<'_>, takes: &[(&'static str, Takes)]) -> Result<Copy, Diagnostic> {
    let Paths {
        sources,
        heredocs,
        dest,
    } = paths(statement)?;
    let flags = Flags::check(&statement.flags, takes)?;
    Ok(Copy {
        sources,
        heredocs,
        dest,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link") == Some(true),
        parents: flags.bool("parents") == Some(true),
        exclude: flags.list("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
    })
}

struct Paths {
    sources: Vec<Word>,
    heredocs: Vec<Heredoc>,
    dest: Word,
}

fn paths(statement: &Statement<'_>) -> Result<Paths, Diagnostic> {
    if let Some(mut words) = form::json(statement.rest)? {
        let given = words.len();
        let dest = words
            .pop()
            .filter(|_| given > 1)
            .ok_or_else(|| too_few(statement, given))?;
        return Ok(Paths {
            sources: words,
            heredocs: Vec::new(),
            dest,
        });
    }
    let openers = &statement.heredocs;
    let outside = |word: &Piece<'_>| !openers.iter().any(|(opener, _)| opener.piece.contains(*word));
    let mut words: Vec<Piece<'_>> = statement.rest.words().into_iter().filter(outside).collect();
    let given = words.len() + openers.len();
    if given < 2 {
        return Err(too_few(statement, given));
    }
    let last_opener = openers
        .last()
        .filter(|(opener, _)| !words.iter().any(|word| comes_after(*word, opener.piece)));
    if let Some((opener, _)) = last_opener {
        let message = format!("{} cannot accept a heredoc as a destination", statement.keyword);
        let diagnostic = Diagnostic::error("heredoc-destination", opener.piece.span(), message);
        return Err(diagnostic.help("add the destination path behind it"));
    }
    let dest = words.pop().ok_or_else(|| too_few(statement, given))?;
    // An opener that has no body: only in a command that is no command, because a quote in it stays open.
    if heredoc::opener_of(dest).is_some() {
        let message = format!("{} cannot accept a heredoc as a destination", statement.keyword);
        return Err(Diagnostic::error("heredoc-destination", dest.span(), message));
    }
    Ok(Paths {
        sources: words.iter().map(Piece::word).collect(),
        heredocs: last_bodies(statement),
        dest: dest.word(),
    })
}

fn comes_after(word: Piece<'_>, opener: Piece<'_>) -> bool {
    word.span().start > opener.span().start
}

/// Of files with one name the last body wins, in every place.
fn last_bodies(statement: &Statement<'_>) -> Vec<Heredoc> {
    let all = || statement.heredocs.iter().map(|(_, heredoc)| heredoc);
    let mut heredocs: Vec<Heredoc> = all().cloned().collect();
    for heredoc in &mut heredocs {
        if let Some(last) = all().rfind(|other| other.name.value == heredoc.name.value) {
            heredoc.data.clone_from(&last.data);
            heredoc.written.clone_from(&last.written);
            heredoc.data_span = last.data_span;
        }
    }
    heredocs
}

fn too_few(statement: &Statement<'_>, given: usize) -> Diagnostic {
    let keyword = statement.keyword;
    let given = if given == 0 { "none" } else { "only one" };
    let message = format!(
        "{keyword} requires at least two arguments, but {given} was provided. Destination could not be determined"
    );
    statement
        .error("missing-argument", message)
        .help(format!("write `{keyword} <source> <destination>`"))
}
