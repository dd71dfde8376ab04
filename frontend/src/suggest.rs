//! The nearest name, for "did you mean".

/// The candidate that `word` was probably meant to be: at most two slips away (one for short words, none for a single letter),
/// case aside.
///
/// A slip is a character too many, too few, wrong, or swapped with its neighbour. Of equally near ones the first is taken.
/// `None` also if `word` is a candidate.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = match wanted.len() {
        0 | 1 => return None,
        2 | 3 => 1,
        _ => 2,
    };
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let chars: Vec<char> = candidate.to_lowercase().chars().collect();
        if wanted.len().abs_diff(chars.len()) > allowed {
            continue;
        }
        let slips = distance(&wanted, &chars, Swaps::AreOne);
        if slips <= allowed && best.is_none_or(|(least, _)| slips < least) {
            best = Some((slips, candidate));
        }
    }
    best.filter(|(slips, _)| *slips > 0).map(|(_, candidate)| candidate)
}

/// The candidate that other builders name beside an unknown variable: at most two edits away, however short the words, case
/// told apart. Of equally near ones the first is taken. It stands in texts that tools compare; elsewhere [`nearest`] is better.
pub(crate) fn similar<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = word.chars().collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let chars: Vec<char> = candidate.chars().collect();
        let edits = match wanted.len().abs_diff(chars.len()) {
            0..=2 => distance(&wanted, &chars, Swaps::AreTwo),
            _ => continue,
        };
        if edits <= 2 && best.is_none_or(|(least, _)| edits < least) {
            best = Some((edits, candidate));
        }
    }
    best.filter(|(edits, _)| *edits > 0).map(|(_, candidate)| candidate)
}

/// What a swap of neighbours costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swaps {
    AreOne,
    AreTwo,
}

/// Edits between two words.
fn distance(left: &[char], right: &[char], swaps: Swaps) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let mut least = above[column] + usize::from(a != b);
            least = least.min(above[column + 1] + 1).min(current[column] + 1);
            let may_swap = swaps == Swaps::AreOne && row > 0 && column > 0;
            if may_swap && *a == right[column - 1] && left[row - 1] == *b {
                least = least.min(before[column - 1] + 1);
            }
            current.push(least);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let names = ["FROM", "RUN", "ENV", "ENTRYPOINT", "COPY"];
        let find = |word| nearest(word, names);
        assert_eq!(find("FORM"), Some("FROM"));
        assert_eq!(find("entrypiont"), Some("ENTRYPOINT"));
        assert_eq!(find("RUNN"), Some("RUN"));
        assert_eq!(find("run"), None, "the name itself is no suggestion");
        assert_eq!(find("EXPLODE"), None);
        assert_eq!(find("XY"), None);
        assert_eq!(nearest("A", ["B"]), None, "any letter is one slip from any other");
    }

    #[test]
    fn similar_names_may_be_short_and_case_counts() {
        assert_eq!(similar("A", ["PATH", "BC", "D"]), Some("D"));
        assert_eq!(similar("NMAE", ["PATH", "NAME"]), Some("NAME"));
        assert_eq!(similar("name", ["NAME"]), None);
    }
}
