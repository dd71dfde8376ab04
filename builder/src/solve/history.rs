//! Which step of the last build a step is compared with.
//!
//! A line that was put in or taken out moves all that follow, so the place of a step says little. First of all steps find the
//! one that says the same: the n-th that says so, in the same stage for the same platform. What is left over is what was
//! edited: it finds the left-over step that stood where it stands, after the partner of the step before it.

use std::collections::HashMap;

use proto::canonical;
use proto::definition::{Definition, Op, Vertex, VertexId};
use proto::digest::ContentDigest;
use proto::history::{PastStep, SeriesName};
use proto::record::{CacheKey, Preimage};

use super::cache_key;

/// Fields of a key that the instruction itself does not say: what is below, what other instructions set, what is copied.
const NOT_SAID: [&str; 6] = ["platform", "root", "directory", "user", "network", "shm size"];
/// Beginnings of names of such fields.
const NOT_SAID_BEGINS: [&str; 3] = ["variable ", "host ", "host name"];

/// Whether a vertex is a step that is remembered: all but files of contexts and remote sources.
#[must_use]
pub fn is_step(vertex: &Vertex) -> bool {
    matches!(vertex.op, Op::Image(_) | Op::Exec(_) | Op::File(_))
}

/// What is remembered of the step `vertex`, built under `key`.
#[must_use]
pub fn past_step(vertex: &Vertex, key: Option<CacheKey>) -> PastStep {
    PastStep {
        text: text(vertex),
        key,
        name: vertex.name.clone(),
        build_arguments: match &vertex.op {
            Op::Exec(exec) => exec.build_args.clone(),
            _ => Vec::new(),
        },
        image: match &vertex.op {
            Op::Image(image) => image.reference.clone(),
            _ => String::new(),
        },
    }
}

/// What the instruction says by itself.
fn text(vertex: &Vertex) -> ContentDigest {
    if let Op::Image(image) = &vertex.op {
        return ContentDigest::of(format!("FROM {}", image.reference).as_bytes());
    }
    let nothing = |_: VertexId| CacheKey(ContentDigest::of(b""));
    let mut said = Preimage::default();
    for field in cache_key::fields(vertex, &nothing).fields {
        let name = field.name.as_str();
        if !NOT_SAID.contains(&name) && !NOT_SAID_BEGINS.iter().any(|begin| name.starts_with(begin)) {
            said.push(field.name, field.value);
        }
    }
    canonical::key(&said).0
}

/// The series that a step belongs to: its stage, its platform and that of the image it works for. A build for one platform
/// does not disturb what is known of the steps of another.
#[must_use]
pub fn series_of(vertex: &Vertex) -> SeriesName {
    SeriesName {
        stage: vertex.stage.clone(),
        platform: vertex.platform.to_string(),
        image_platform: image_platform(&vertex.name).to_owned(),
    }
}

/// `arm64` of `[linux/amd64->arm64 build 2/3] RUN …`: steps of a stage that differ by the image they work for are told apart by
/// nothing but this. Empty for all others.
fn image_platform(name: &str) -> &str {
    let first = name.strip_prefix('[').and_then(|rest| rest.split([' ', ']']).next());
    first
        .and_then(|first| first.split_once("->"))
        .map_or("", |(_, target)| target)
}

/// The steps of each series, in the order of the definition.
#[must_use]
pub fn series(definition: &Definition) -> Vec<(SeriesName, Vec<VertexId>)> {
    let mut series: Vec<(SeriesName, Vec<VertexId>)> = Vec::new();
    for (index, vertex) in definition
        .vertices
        .iter()
        .enumerate()
        .filter(|(_, vertex)| is_step(vertex))
    {
        let id = VertexId(u32::try_from(index).expect("ids of a definition are 32 bits"));
        let name = series_of(vertex);
        match series.iter_mut().find(|(known, _)| *known == name) {
            Some((_, ids)) => ids.push(id),
            None => series.push((name, vec![id])),
        }
    }
    series
}

/// For each of the `new` steps the index of the one of the `old` steps that it is compared with.
#[must_use]
pub fn pair(old: &[PastStep], new: &[PastStep]) -> Vec<Option<usize>> {
    let mut of_text: HashMap<ContentDigest, Vec<usize>> = HashMap::new();
    for (index, step) in old.iter().enumerate().rev() {
        of_text.entry(step.text).or_default().push(index);
    }
    let mut pairs: Vec<Option<usize>> = new
        .iter()
        .map(|step| of_text.get_mut(&step.text).and_then(Vec::pop))
        .collect();
    let mut taken = vec![false; old.len()];
    for index in pairs.iter().flatten() {
        taken[*index] = true;
    }
    let mut next = 0;
    for (index, pair) in pairs.iter_mut().enumerate() {
        // An image is never what a step was edited from.
        let fits = |candidate: &PastStep| candidate.image.is_empty() == new[index].image.is_empty();
        if pair.is_none() && next < old.len() && !taken[next] && fits(&old[next]) {
            taken[next] = true;
            *pair = Some(next);
        }
        next = pair.map_or(next, |at| at + 1);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps are letters; a capital letter is an image.
    fn steps(text: &str) -> Vec<PastStep> {
        let step = |letter: char| PastStep {
            text: ContentDigest::of(letter.to_string().as_bytes()),
            key: None,
            name: letter.to_string(),
            build_arguments: Vec::new(),
            image: if letter.is_uppercase() {
                letter.to_string()
            } else {
                String::new()
            },
        };
        text.chars().map(step).collect()
    }

    fn check(old: &str, new: &str, expected: &str) {
        let (old, new) = (steps(old), steps(new));
        let pairs = pair(&old, &new).into_iter();
        let shown: String = pairs.map(|at| at.map_or("-", |at| old[at].name.as_str())).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn steps_are_found_by_what_they_say_wherever_they_stand() {
        check("Fabc", "Fabc", "Fabc");
        check("Fabc", "Faxbc", "Fa-bc");
        check("Fabc", "Fac", "Fac");
        check("Fabc", "Fcab", "Fcab");
        check("Faa", "Faaa", "Faa-");
        check("", "ab", "--");
    }

    #[test]
    fn an_edited_step_is_compared_with_the_one_that_stood_there() {
        check("Fabc", "Faxc", "Fabc");
        check("Fabc", "Fxyz", "Fabc");
        check("Fabc", "Fnaxc", "F-abc");
        check("Fabc", "Gabc", "Fabc");
        check("Fabc", "Fabcd", "Fabc-");
    }

    #[test]
    fn the_platform_of_the_image_is_read_from_the_name_of_a_step() {
        assert_eq!(image_platform("[linux/amd64->arm/v7 build 2/3] RUN a->b"), "arm/v7");
        assert_eq!(image_platform("[linux/amd64 build 2/3] RUN a->b"), "");
        assert_eq!(image_platform("[2/3] RUN a->b"), "");
        assert_eq!(image_platform("FROM a->b"), "");
    }
}
