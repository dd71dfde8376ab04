//! The one encoding that is hashed into cache keys.
//!
//! A key is BLAKE3 over: the ASCII bytes `rbuild key`, the schema as 4 bytes, then for each field its name and its value, each
//! as an 8-byte length and its bytes. Numbers are little-endian. Lengths make the encoding injective: no two lists of fields
//! share bytes. The same list of fields, kept as text, explains a miss (see [`crate::record::Preimage`]).

use crate::record::{CacheKey, Preimage};

/// Version of what enters keys. Raise it whenever equal input must not find older results, or can not: then the reason of a miss
/// is that this program is another one, and not a guess.
///
/// 2: the files of a `COPY` or a bind mount are one digest a source. 1: they were a field each, with parts of the pattern.
pub const SCHEMA: u32 = 2;

/// The key that `preimage` stands for.
#[must_use]
pub fn key(preimage: &Preimage) -> CacheKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rbuild key");
    hasher.update(&SCHEMA.to_le_bytes());
    for field in &preimage.fields {
        for part in [field.name.as_bytes(), field.value.as_slice()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    CacheKey(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Field;

    fn preimage(fields: &[(&str, &str)]) -> Preimage {
        let field = |(name, value): &(&str, &str)| Field {
            name: (*name).into(),
            value: value.as_bytes().to_vec(),
        };
        Preimage {
            fields: fields.iter().map(field).collect(),
            listing: Vec::new(),
        }
    }

    #[test]
    fn golden_keys() {
        // A change here makes every store in the field cold: raise SCHEMA and say so in the changelog.
        let check = |fields: &[(&str, &str)], expected: &str| {
            assert_eq!(key(&preimage(fields)).to_string(), expected);
        };
        check(&[], "3645ca157096dbffff5d5fe05c7bc8b74cd147fc59551db055742bff5bc96c2c");
    }

    #[test]
    fn what_is_only_listed_is_not_hashed() {
        let mut listed = preimage(&[("a", "b")]);
        listed.listing = preimage(&[("file 0.0 f", "x")]).fields;
        assert_eq!(key(&listed), key(&preimage(&[("a", "b")])));
    }

    #[test]
    fn fields_do_not_run_together() {
        assert_ne!(key(&preimage(&[("a", "b")])), key(&preimage(&[("ab", "")])));
        assert_ne!(
            key(&preimage(&[("a", "b"), ("c", "d")])),
            key(&preimage(&[("a", "bcd")]))
        );
        assert_ne!(
            key(&preimage(&[("a", "1"), ("b", "2")])),
            key(&preimage(&[("b", "2"), ("a", "1")]))
        );
    }
}
