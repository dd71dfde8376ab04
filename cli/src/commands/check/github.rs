//! Workflow commands: GitHub draws them beside the lines of a pull request.

use frontend::source::SourceFile;
use frontend::{Checked, Finding};

use super::{Level, region};

pub(super) fn print(checked: &Checked, source: &SourceFile) -> String {
    super::all(checked)
        .map(|(level, finding)| command(level, finding, source))
        .collect()
}

fn command(level: Level, finding: &Finding, source: &SourceFile) -> String {
    let word = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "notice",
    };
    let mut properties = format!("file={}", property(&source.name));
    if let Some([start, end]) = region(source, finding) {
        properties.push_str(&format!(",line={},endLine={},col={}", start.0, end.0, start.1));
        // Columns on two lines are refused there.
        if start.0 == end.0 && end.1 > start.1 {
            properties.push_str(&format!(",endColumn={}", end.1 - 1));
        }
    }
    let diagnostic = &finding.diagnostic;
    let notes = diagnostic.notes.iter().map(|note| format!("\nnote: {note}"));
    let helps = diagnostic.helps.iter().map(|help| format!("\nhelp: {help}"));
    let message: String = std::iter::once(diagnostic.message.clone())
        .chain(notes)
        .chain(helps)
        .collect();
    format!(
        "::{word} {properties},title={}::{}\n",
        property(diagnostic.code),
        data(&message)
    )
}

/// Text behind the `::`: nothing in it may end the line.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A value between commas.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_message_is_taken_for_a_command() {
        assert_eq!(data("100%\n::error::x"), "100%25%0A::error::x");
        assert_eq!(property("a,b:c"), "a%2Cb%3Ac");
    }
}
