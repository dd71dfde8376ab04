//! `--chmod`: octal numbers and symbolic clauses applied to a mode.

use proto::definition::ModeChange;

/// `mode` after `change`. The umask plays no part.
#[must_use]
pub fn apply(change: &ModeChange, mode: u32, is_directory: bool) -> u32 {
    match change {
        ModeChange::Octal(bits) => bits & 0o7777,
        ModeChange::Symbolic(clauses) => clauses
            .split(',')
            .fold(mode, |mode, clause| apply_clause(clause, mode, is_directory)),
    }
}

fn apply_clause(clause: &str, mut mode: u32, is_directory: bool) -> u32 {
    let operator_at = clause.find(['+', '-', '=']).unwrap_or(clause.len());
    let (who, mut rest) = clause.split_at(operator_at);
    let classes = classes(who);
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let bits = bits(&rest[1..end], classes, mode, is_directory);
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !owned(classes)) | bits,
        };
        rest = &rest[end..];
    }
    mode
}

/// The `rwx` bits of those who are meant; nobody named means all.
fn classes(who: &str) -> u32 {
    let named = who.chars().fold(0, |bits, class| {
        bits | match class {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            _ => 0o777,
        }
    });
    if named == 0 { 0o777 } else { named }
}

/// What `=` clears: the permission bits of the classes with their special bits.
fn owned(classes: u32) -> u32 {
    let mut bits = classes;
    for (class, special) in [(0o700, 0o4000), (0o070, 0o2000), (0o007, 0o1000)] {
        if classes & class != 0 {
            bits |= special;
        }
    }
    bits
}

fn bits(permissions: &str, classes: u32, mode: u32, is_directory: bool) -> u32 {
    permissions.chars().fold(0, |bits, permission| {
        bits | match permission {
            'r' => 0o444 & classes,
            'w' => 0o222 & classes,
            'x' => 0o111 & classes,
            'X' if is_directory || mode & 0o111 != 0 => 0o111 & classes,
            's' => owned(classes) & 0o6000,
            't' => 0o1000,
            'u' => spread(mode >> 6) & classes,
            'g' => spread(mode >> 3) & classes,
            'o' => spread(mode) & classes,
            _ => 0,
        }
    })
}

/// Three bits for everybody.
fn spread(bits: u32) -> u32 {
    (bits & 7) * 0o111
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_clauses_change_modes_like_chmod_without_umask() {
        for (clauses, mode, is_directory, expected) in [
            ("a+rwX", 0o644, false, 0o666),
            ("a+rwX", 0o644, true, 0o777),
            ("a+rwX", 0o744, false, 0o777),
            ("u=rw,go=r", 0o755, true, 0o644),
            ("g+w,o=u-x,+X", 0o640, false, 0o666),
            ("u+s,+t", 0o755, false, 0o5755),
            ("go-rwx", 0o4777, false, 0o4700),
            ("u=r", 0o4755, false, 0o455),
            ("g=u", 0o705, false, 0o775),
            ("x", 0o644, false, 0o644),
        ] {
            let change = ModeChange::Symbolic(clauses.to_owned());
            let changed = apply(&change, mode, is_directory);
            assert_eq!(changed, expected, "{clauses} on {mode:o}: {changed:o}");
        }
    }

    #[test]
    fn an_octal_mode_replaces_all_bits() {
        assert_eq!(apply(&ModeChange::Octal(0o600), 0o4755, true), 0o600);
    }
}
