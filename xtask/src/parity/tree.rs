//! The tree that the layers of an image make when they are put on each other.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;

use anyhow::{Context, Result};
use tar::EntryType;

/// Path to what is there. Paths start with `/`.
pub(crate) type Tree = BTreeMap<String, Node>;

/// What a path leads to, with everything that an image says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    /// Seconds since 1970 as layers write them, with the fraction if there is one.
    pub(crate) time: String,
    pub(crate) xattrs: BTreeMap<String, String>,
    /// The first path, in byte order, of those that are the same file; only if there are several.
    pub(crate) same_as: Option<String>,
}

/// What kind of file it is, and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File {
        size: usize,
        hash: u64,
        start: String,
    },
    Symlink(String),
    Device {
        letter: char,
        major: u32,
        minor: u32,
    },
    Fifo,
    /// A hard link to something that no layer has.
    BrokenLink(String),
    /// A whiteout that hides nothing.
    IdleWhiteout,
    Other(u8),
}

/// Nodes by number, so that hard links are paths with the same number.
#[derive(Default)]
struct Merged {
    nodes: Vec<Node>,
    paths: BTreeMap<String, usize>,
}

/// Puts `layers` on each other, the lowest first.
pub(crate) fn merge(layers: &[Vec<u8>]) -> Result<Tree> {
    let mut merged = Merged::default();
    for (number, layer) in layers.iter().enumerate() {
        let entries = entries(layer).with_context(|| format!("layer {number}"))?;
        // Whiteouts hide what is below their layer, wherever in the layer they stand.
        for (path, node) in &entries {
            merged.hide(path, node);
        }
        for (path, node) in entries {
            merged.put(path, node);
        }
    }
    Ok(merged.finish())
}

impl Merged {
    fn hide(&mut self, path: &str, node: &Node) {
        let Some((folder, name)) = path.rsplit_once('/') else {
            return;
        };
        if name == ".wh..wh..opq" {
            self.remove_below(folder);
        } else if let Some(hidden) = name.strip_prefix(".wh.") {
            let hidden = format!("{folder}/{hidden}");
            self.remove_below(&hidden);
            if self.paths.remove(&hidden).is_none() {
                let mut idle = node.clone();
                idle.kind = Kind::IdleWhiteout;
                self.insert(format!("whiteout {hidden}"), idle);
            }
        }
    }

    fn put(&mut self, path: String, node: Node) {
        if path.rsplit('/').next().is_some_and(|name| name.starts_with(".wh.")) {
            return;
        }
        if node.kind != Kind::Directory {
            self.remove_below(&path);
        }
        if let Kind::BrokenLink(target) = &node.kind
            && let Some(number) = self.paths.get(target)
        {
            self.paths.insert(path, *number);
            return;
        }
        self.insert(path, node);
    }

    fn insert(&mut self, path: String, node: Node) {
        self.paths.insert(path, self.nodes.len());
        self.nodes.push(node);
    }

    fn remove_below(&mut self, folder: &str) {
        let below = format!("{folder}/");
        self.paths.retain(|path, _| !path.starts_with(&below));
    }

    fn finish(self) -> Tree {
        let mut first: BTreeMap<usize, (&String, usize)> = BTreeMap::new();
        for (path, number) in &self.paths {
            first.entry(*number).or_insert((path, 0)).1 += 1;
        }
        let node = |number: &usize| {
            let mut node = self.nodes.get(*number)?.clone();
            if let Some((path, count)) = first.get(number)
                && *count > 1
            {
                node.same_as = Some((*path).clone());
            }
            Some(node)
        };
        let nodes = self
            .paths
            .iter()
            .filter_map(|(path, number)| Some((path.clone(), node(number)?)));
        nodes.collect()
    }
}

fn entries(layer: &[u8]) -> Result<Vec<(String, Node)>> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path = absolute(&String::from_utf8_lossy(&entry.path_bytes()));
        let node = node(&mut entry).with_context(|| path.clone())?;
        entries.push((path, node));
    }
    Ok(entries)
}

fn node<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Node> {
    let mut records = BTreeMap::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for record in extensions {
            let record = record?;
            let value = record.value_bytes().escape_ascii().to_string();
            records.insert(String::from_utf8_lossy(record.key_bytes()).into_owned(), value);
        }
    }
    let kind = kind(entry)?;
    let header = entry.header();
    let number = |key: &str, plain: u64| records.get(key).and_then(|value| value.parse().ok()).unwrap_or(plain);
    Ok(Node {
        kind,
        mode: header.mode()? & 0o7777,
        owner: (number("uid", header.uid()?), number("gid", header.gid()?)),
        time: match records.get("mtime") {
            Some(time) => time.clone(),
            None => header.mtime()?.to_string(),
        },
        xattrs: records.into_iter().filter(|(key, _)| key.contains("xattr")).collect(),
        same_as: None,
    })
}

fn kind<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Kind> {
    let target = entry
        .link_name_bytes()
        .map(|target| String::from_utf8_lossy(&target).into_owned());
    let target = target.unwrap_or_default();
    let header = entry.header();
    let device = |letter| -> Result<Kind> {
        Ok(Kind::Device {
            letter,
            major: header.device_major()?.unwrap_or_default(),
            minor: header.device_minor()?.unwrap_or_default(),
        })
    };
    Ok(match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Regular => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            let start = content.get(..200).unwrap_or(&content);
            Kind::File {
                size: content.len(),
                hash: hasher.finish(),
                start: start.escape_ascii().to_string(),
            }
        }
        EntryType::Symlink => Kind::Symlink(target),
        EntryType::Link => Kind::BrokenLink(absolute(&target)),
        EntryType::Char => device('c')?,
        EntryType::Block => device('b')?,
        EntryType::Fifo => Kind::Fifo,
        other => Kind::Other(other.as_byte()),
    })
}

/// `./a/b/` as `/a/b`; the root is empty.
fn absolute(path: &str) -> String {
    let names = path.split('/').filter(|name| !name.is_empty() && *name != ".");
    names.fold(String::new(), |path, name| path + "/" + name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o640);
            header.set_uid(1);
            header.set_gid(2);
            header.set_mtime(5);
            header.set_size(0);
            if kind.is_file() {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, content.as_bytes()).unwrap();
            } else if kind.is_dir() {
                archive.append_data(&mut header, path, std::io::empty()).unwrap();
            } else {
                archive.append_link(&mut header, path, content).unwrap();
            }
        }
        archive.into_inner().unwrap()
    }

    fn paths(layers: &[Vec<u8>]) -> Vec<String> {
        merge(layers).unwrap().into_keys().collect()
    }

    const FILE: EntryType = EntryType::Regular;
    const FOLDER: EntryType = EntryType::Directory;

    #[test]
    fn whiteouts_hide_what_is_below_and_not_their_own_layer() {
        let lower = layer(&[("d/", FOLDER, ""), ("d/a", FILE, "1"), ("d/b", FILE, "2")]);
        let upper = layer(&[("d/a", FILE, "3"), ("d/.wh.a", FILE, ""), ("d/.wh.b", FILE, "")]);
        let tree = merge(&[lower, upper]).unwrap();
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["/d", "/d/a"]);
        assert!(matches!(&tree["/d/a"].kind, Kind::File { start, .. } if start == "3"));
    }

    #[test]
    fn an_opaque_directory_keeps_only_what_its_layer_has() {
        let lower = layer(&[("d/", FOLDER, ""), ("d/a", FILE, "1"), ("da", FILE, "1")]);
        let upper = layer(&[("d/", FOLDER, ""), ("d/b", FILE, "1"), ("d/.wh..wh..opq", FILE, "")]);
        assert_eq!(paths(&[lower, upper]), ["/d", "/d/b", "/da"]);
    }

    #[test]
    fn a_whiteout_of_nothing_is_seen() {
        let tree = merge(&[layer(&[("d/.wh.x", FILE, "")])]).unwrap();
        assert_eq!(tree["whiteout /d/x"].kind, Kind::IdleWhiteout);
    }

    #[test]
    fn a_file_replaces_a_directory_with_all_below_and_a_directory_only_itself() {
        let lower = layer(&[
            ("d/", FOLDER, ""),
            ("d/a", FILE, "1"),
            ("e/", FOLDER, ""),
            ("e/a", FILE, "1"),
        ]);
        let upper = layer(&[("d", FILE, "1"), ("e/", FOLDER, "")]);
        assert_eq!(paths(&[lower, upper]), ["/d", "/e", "/e/a"]);
    }

    #[test]
    fn hard_links_name_the_first_of_their_paths_and_broken_ones_are_seen() {
        let one = layer(&[
            ("b", FILE, "1"),
            ("a", EntryType::Link, "b"),
            ("c", EntryType::Link, "nope"),
        ]);
        let tree = merge(&[one]).unwrap();
        assert_eq!(tree["/a"].same_as.as_deref(), Some("/a"));
        assert_eq!(tree["/b"], tree["/a"]);
        assert_eq!(tree["/c"].kind, Kind::BrokenLink("/nope".to_owned()));
    }

    #[test]
    fn a_replaced_hard_link_is_a_file_of_its_own() {
        let one = layer(&[("a", FILE, "1"), ("b", EntryType::Link, "a")]);
        let tree = merge(&[one, layer(&[("b", FILE, "2")])]).unwrap();
        assert_eq!(tree["/a"].same_as, None);
        assert_eq!(tree["/b"].same_as, None);
    }
}
