//! Columns as other builders align them: every cell but the last of a line is padded.

/// The lines, with `gap` blanks between columns.
pub(super) fn table<const N: usize>(rows: &[[&str; N]], gap: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + gap;
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            match at + 1 == N {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:0$}", widths[at])),
            }
        }
        text.push('\n');
    }
    text
}
