//! Files with several names, while names come and go: which of them is the file, and which are hard links to it, is said once,
//! at the end. Until then one name *holds* the file; each change costs the same however many names there are.

use std::collections::{BTreeSet, HashMap};

use proto::tree::RelPath;

/// All names of all files that have, or had, more than one.
#[derive(Debug, Default)]
pub(crate) struct Names {
    files: Vec<File>,
    /// Position in `files`.
    of: HashMap<RelPath, usize>,
}

#[derive(Debug)]
struct File {
    holder: RelPath,
    /// The holder among them.
    names: BTreeSet<RelPath>,
}

impl Names {
    /// `name`, which was none of a file before, is a further one of the file `file`.
    pub(crate) fn add(&mut self, file: &RelPath, name: RelPath) {
        let at = *self.of.entry(file.clone()).or_insert_with(|| {
            self.files.push(File {
                holder: file.clone(),
                names: BTreeSet::from([file.clone()]),
            });
            self.files.len() - 1
        });
        self.files[at].names.insert(name.clone());
        self.of.insert(name, at);
    }

    /// The name that holds the file of `name`; nothing if it has one name only.
    pub(crate) fn holder(&self, name: &RelPath) -> Option<&RelPath> {
        self.of.get(name).map(|at| &self.files[*at].holder)
    }

    /// Forgets a name. If it held its file and others are left, one of them holds it from now on, and is returned.
    pub(crate) fn remove(&mut self, name: &RelPath) -> Option<RelPath> {
        let file = &mut self.files[self.of.remove(name)?];
        file.names.remove(name);
        if file.holder != *name {
            return None;
        }
        file.holder = file.names.first()?.clone();
        Some(file.holder.clone())
    }

    /// Every file with more than one name: who holds it, and all names in order.
    pub(crate) fn into_files(self) -> impl Iterator<Item = (RelPath, BTreeSet<RelPath>)> {
        let several = self.files.into_iter().filter(|file| file.names.len() > 1);
        several.map(|file| (file.holder, file.names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::clean(text.as_bytes())
    }

    #[test]
    fn a_file_outlives_each_of_its_names() {
        let mut names = Names::default();
        names.add(&path("m"), path("b"));
        names.add(&path("b"), path("z"));
        assert_eq!(names.holder(&path("z")), Some(&path("m")));
        assert_eq!(names.remove(&path("b")), None);
        assert_eq!(names.remove(&path("m")), Some(path("z")));
        names.add(&path("z"), path("a"));
        assert_eq!(names.holder(&path("a")), Some(&path("z")));
        assert_eq!(names.holder(&path("m")), None);
        let files: Vec<_> = names.into_files().collect();
        assert_eq!(files, [(path("z"), BTreeSet::from([path("a"), path("z")]))]);
    }

    #[test]
    fn a_name_that_comes_back_is_one_of_another_file() {
        let mut names = Names::default();
        names.add(&path("a"), path("b"));
        assert_eq!(names.remove(&path("a")), Some(path("b")));
        assert_eq!(names.remove(&path("b")), None);
        names.add(&path("a"), path("b"));
        assert_eq!(names.holder(&path("b")), Some(&path("a")));
        assert_eq!(names.into_files().count(), 1);
    }
}
