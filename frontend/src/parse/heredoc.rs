//! Which words of a command open a heredoc.

use crate::instruction::Word;
use crate::text::Piece;
use crate::words::{Escapes, Expander, Quotes, Unset};

/// `<<NAME` and its variants.
#[derive(Debug, Clone)]
pub(super) struct Opener<'a> {
    /// The opener as written.
    pub(super) piece: Piece<'a>,
    /// The end mark, quotes removed.
    pub(super) name: Word,
    /// Whether the name had no quotes.
    pub(super) expand: bool,
    /// Whether it was `<<-`.
    pub(super) chomp: bool,
}

/// All openers of a command, in order. Heredocs always use the backslash, whatever the file's escape character is.
///
/// With a blank behind it (`1 << 2`), `<<` may be meant for the shell's arithmetic: it opens a heredoc only if `has_end_mark`
/// says that one would end.
pub(super) fn openers(rest: Piece<'_>, has_end_mark: impl Fn(&str) -> bool) -> Vec<Opener<'_>> {
    // The usual case, decided without taking the command apart.
    if !rest.as_str().contains("<<") {
        return Vec::new();
    }
    let words = command_words(rest).unwrap_or_default();
    let mut openers = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let Some((chomp, name)) = operator(*word) else { continue };
        if !name.is_empty() {
            openers.extend(opener(*word, name, chomp));
            continue;
        }
        // Behind `<<-` the name must follow at once.
        let Some(next) = words.get(at).filter(|next| !chomp && !next.as_str().contains('<')) else {
            continue;
        };
        if let Some(opener) = opener(word.to(*next), *next, chomp).filter(|opener| has_end_mark(&opener.name.value)) {
            openers.push(opener);
            at += 1;
        }
    }
    openers
}

/// The opener that one word is, if it is one.
pub(super) fn opener_of(word: Piece<'_>) -> Option<Opener<'_>> {
    let (chomp, name) = operator(word)?;
    if name.is_empty() {
        return None;
    }
    opener(word, name, chomp)
}

/// Splits digits, `<<`, `-` and a name without `<`.
fn operator(word: Piece<'_>) -> Option<(bool, Piece<'_>)> {
    let text = word.as_str();
    let body = text
        .trim_start_matches(|ch: char| ch.is_ascii_digit())
        .strip_prefix("<<")?;
    let (chomp, name) = match body.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, body),
    };
    (!name.contains('<')).then(|| (chomp, word.from(text.len() - name.len())))
}

fn opener<'a>(piece: Piece<'a>, name: Piece<'a>, chomp: bool) -> Option<Opener<'a>> {
    let bare = Expander {
        unset: Unset::Keep,
        ..Expander::new('\\')
    };
    let raw = Expander {
        quotes: Quotes::Keep,
        escapes: Escapes::Keep,
        ..bare
    };
    // A name that does not expand, or to several words, is the shell's business and not ours.
    let words = |rules: Expander| {
        rules
            .expand_words(name.as_str(), &|_| None)
            .ok()
            .map(|expanded| expanded.words)
    };
    let [bare] = <[String; 1]>::try_from(words(bare)?).ok()?;
    let expand = words(raw)?.first() == Some(&bare);
    Some(Opener {
        piece,
        name: name.with(bare),
        expand,
        chomp,
    })
}

/// Words that end at blanks outside of quotes; `None` if a quote stays open.
fn command_words(rest: Piece<'_>) -> Option<Vec<Piece<'_>>> {
    let text = rest.as_str();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        match (quote, ch) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => {
                start.get_or_insert(at);
                chars.next();
            }
            (Some(_), _) => {}
            (None, _) if ch.is_whitespace() => words.extend(start.take().map(|start| rest.sub(start..at))),
            (None, _) => {
                start.get_or_insert(at);
                if matches!(ch, '\'' | '"') {
                    quote = Some(ch);
                }
            }
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(start.map(|start| rest.from(start)));
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Joined;

    fn check(command: &str, expected: &[&str]) {
        let mut line = Joined::default();
        line.push(command, 0);
        let found: Vec<String> = openers(line.piece(), |name| name == "LATER")
            .iter()
            .map(|opener| {
                let mark = if opener.expand { "" } else { "!" };
                let chomp = if opener.chomp { "-" } else { "" };
                format!("{} {chomp}{}{mark}", opener.piece.as_str(), opener.name.value)
            })
            .collect();
        assert_eq!(found, expected, "{command}");
    }

    #[test]
    fn openers_are_found_where_a_shell_would_find_them() {
        check("<<EOF", &["<<EOF EOF"]);
        check("cat <<A 3<<-B | sh", &["<<A A", "3<<-B -B"]);
        check(
            r#"<<"A" <<'B' <<\C <<D"E""#,
            &[r#"<<"A" A!"#, "<<'B' B!", r"<<\C C!", r#"<<D"E" DE!"#],
        );
        check("cat << LATER", &["<< LATER LATER"]);
        check("<<$X", &["<<$X $X"]);
    }

    #[test]
    fn what_only_looks_like_an_opener_is_none() {
        check(r#"echo "<<EOF" '<<EOF' \<<EOF a<<EOF"#, &[]);
        check("cat <<<word", &[]);
        check("cat << ", &[]);
        check("cat <<- LATER", &[]);
        check("echo $(( 1 << 3 ))", &[]);
        check("echo it's <<EOF", &[]);
        check(r#"<<"""#, &[]);
    }
}
