//! What clients say to the server, and what it makes of that.

use std::collections::HashMap;

use builder::request::{BuildRequest, check_build_id};
use prost::Message;
use proto::digest::ContentDigest;
use proto::entitlement::Entitlement;
use proto::platform::Platform;
use proto::tree::{Tree, TreeEntry};
use proto::v1;

/// Every message of a client is understood or refused.
pub fn requests(input: &[u8]) {
    if let Ok(wire) = v1::SubmitRequest::decode(input) {
        let native: Platform = "linux/amd64".parse().expect("a platform that everybody knows");
        if let Ok(request) = BuildRequest::from_wire(wire, &native) {
            assert_eq!(check_build_id(&request.build_id), Ok(()));
            assert!(!format!("{request:?}").is_empty());
        }
    }
    if let Ok(message) = v1::ClientMessage::decode(input) {
        use v1::client_message::Body;
        match message.body {
            Some(Body::Tree(tree)) => take_tree(tree),
            Some(Body::Hello(hello)) => drop(check_build_id(&hello.build_id)),
            other => drop(format!("{other:?}")),
        }
    }
    drop(v1::TransferRequest::decode(input));
    drop(v1::AttachRequest::decode(input));
    drop(v1::CancelRequest::decode(input));
    drop(v1::PruneRequest::decode(input));
    drop(v1::DiskUsageRequest::decode(input));
    drop(v1::ExplainRequest::decode(input));
    drop(v1::TagImageRequest::decode(input));
    drop(v1::RemoveImageRequest::decode(input));
    drop(v1::InspectImageRequest::decode(input));
    drop(v1::VerifyStoreRequest::decode(input));
    drop(v1::ShutdownRequest::decode(input));
    if let Ok(text) = std::str::from_utf8(input) {
        drop(text.parse::<Entitlement>());
    }
}

/// The entries of a context are paths below it, or none.
fn take_tree(tree: v1::ContextTree) {
    if let Some(Ok(tree)) = tree.tree.map(Tree::try_from) {
        check(tree.entries());
    }
}

fn check(entries: &[TreeEntry]) {
    for entry in entries {
        assert!(entry.path.components().all(|name| name != b".." && !name.contains(&0)));
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let submit = v1::SubmitRequest {
        build_id: "0123456789abcdef".to_owned(),
        build_args: HashMap::from([("A".to_owned(), "b".to_owned())]),
        platforms: vec!["linux/arm64".to_owned()],
        ..v1::SubmitRequest::default()
    };
    let client = |body| v1::ClientMessage {
        request_id: 1,
        last: true,
        body: Some(body),
    };
    use v1::client_message::Body;
    let hello = client(Body::Hello(v1::Hello {
        build_id: "0123456789abcdef".to_owned(),
        ..v1::Hello::default()
    }));
    let file = v1::tree_entry::File {
        size: 1,
        content: ContentDigest::of(b"x").as_bytes().to_vec(),
    };
    let entry = |path: &str, kind| v1::TreeEntry {
        path: path.as_bytes().to_vec(),
        mode: 0o644,
        kind: Some(kind),
        ..v1::TreeEntry::default()
    };
    let tree = v1::Tree {
        entries: vec![
            entry(
                "a",
                v1::tree_entry::Kind::Directory(v1::tree_entry::Directory::default()),
            ),
            entry("a/b", v1::tree_entry::Kind::File(file)),
            entry("c", v1::tree_entry::Kind::SymlinkTarget(b"../a".to_vec())),
        ],
    };
    let context = client(Body::Tree(v1::ContextTree {
        tree: Some(tree.clone()),
        ..v1::ContextTree::default()
    }));
    vec![
        submit.encode_to_vec(),
        hello.encode_to_vec(),
        context.encode_to_vec(),
        tree.encode_to_vec(),
    ]
}
