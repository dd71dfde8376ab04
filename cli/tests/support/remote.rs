//! Pages and repositories that builds fetch, and what became of them.

use std::path::{Path, PathBuf};

use testdata::image::{Image, LayerEntry};
use testdata::web::{Page, Web};

use super::Place;

const YESTERDAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A page with everything that a server says of a file.
pub(crate) fn page(body: &str) -> Page {
    Page {
        body: body.into(),
        etag: Some("\"1\""),
        modified: Some(YESTERDAY),
        ..Page::default()
    }
}

/// The entries of the first layer of what the Dockerfile makes.
pub(crate) fn added(place: &Place, dockerfile: &str, arguments: &[&str]) -> Vec<LayerEntry> {
    place.dockerfile(dockerfile);
    place.image(arguments).layer(0)
}

/// Mode, owner, time and text of an entry.
pub(crate) fn one(entries: &[LayerEntry], path: &str) -> (u32, u64, u64, String) {
    let entry = entries.iter().find(|entry| entry.path == path);
    let entry = entry.unwrap_or_else(|| panic!("no `{path}` in {entries:?}"));
    let text = String::from_utf8_lossy(&entry.content).into_owned();
    (entry.mode, entry.owner.0, entry.mtime, text)
}

/// An archive of these files.
pub(crate) fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let place = Place::new();
    for (path, content) in files {
        place.file(path, content);
    }
    place.other("tar", &["-czf", "-", "--owner=5", "--mtime=@1000", "."])
}

/// A git repository with a branch, a tag, a link, an executable, line ends to convert, and a submodule on request.
pub(crate) struct Repository<'a> {
    place: &'a Place,
    pub(crate) directory: PathBuf,
}

impl<'a> Repository<'a> {
    pub(crate) fn new(place: &'a Place, name: &str) -> Self {
        let directory = place.work().join("git").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let repository = Self { place, directory };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let directory = self.directory.to_str().unwrap();
        let mut all = vec![
            "-C",
            directory,
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "protocol.file.allow=always",
        ];
        all.extend_from_slice(arguments);
        let output = self.place.other("git", &all);
        String::from_utf8(output).unwrap().trim().to_owned()
    }

    pub(crate) fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Commits everything at a time that is always the same; returns the commit.
    pub(crate) fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        let message = ["commit", "--quiet", "--message=x", "--date=@1000000000 +0000"];
        let directory = self.directory.to_str().unwrap();
        let mut all = vec!["GIT_COMMITTER_DATE=@1000000000 +0000", "git", "-C", directory];
        all.extend(["-c", "user.name=t", "-c", "user.email=t@t"]);
        all.extend(message);
        self.place.other("env", &all);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// A repository, and its commit.
pub(crate) fn sample(place: &Place) -> (Repository<'_>, String) {
    let repository = Repository::new(place, "app.git");
    repository
        .write("a.txt", "first\n")
        .write("sub/b.txt", "below\n")
        .write(".gitattributes", "*.bat text eol=crlf\n")
        .write("run.bat", "echo\n")
        .write("tool", "#!\n");
    std::os::unix::fs::symlink("a.txt", repository.directory.join("link")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(repository.directory.join("tool"), mode).unwrap();
    let commit = repository.commit();
    repository.git(&["tag", "--annotate", "--message=x", "v1"]);
    (repository, commit)
}

/// A server for the repositories of `place`.
pub(crate) fn web_of(place: &Place) -> Web {
    let web = Web::start();
    web.serve_git(&place.work().join("git"), None);
    web
}

/// The files below `directory` that hold `bytes`.
pub(crate) fn files_with(directory: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let facts = std::fs::symlink_metadata(&path).unwrap();
        if facts.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if facts.is_file()
            && std::fs::read(&path)
                .unwrap()
                .windows(bytes.len())
                .any(|part| part == bytes)
        {
            found.push(path);
        }
    }
    found
}

/// Builds with these arguments, the context among them, and returns the image.
pub(crate) fn image_of(place: &Place, arguments: &[&str]) -> Image {
    let directory = place.work().join("built");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
    let output = format!("--output=type=oci,tar=false,dest={}", directory.display());
    let mut all = vec![output.as_str()];
    all.extend_from_slice(arguments);
    drop(place.build(&all).exits(0));
    Image::read(&directory)
}
