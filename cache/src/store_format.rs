//! The store on disk, version 1.0: documentation, and the names in it.
//!
//! # The tree
//!
//! One directory, mode 0700, refused if another user owns it or can enter it. `hh` are the first two hex digits of the name.
//!
//! | path | holds | lost by |
//! |---|---|---|
//! | `VERSION` | `rbuild store 1.0`, one line | nothing |
//! | `lock` | process ID and start time of the owner, who has it locked (`flock`) | death of the owner |
//! | `blobs/sha256/hh/<62 hex>` | the bytes of that SHA-256; their check digest in the attribute `user.rbuild.blake3` | collection |
//! | `trees/hh/<diff ID>` | `Tree`, sealed: what a layer changes | collection |
//! | `records/hh/<key>` | `StoredRecord`, sealed | collection |
//! | `aliases/hh/<key>` | `StoredAlias`, sealed: the content key that a definition key led to, and from which inputs | collection |
//! | `preimages/hh/<key>` | `StoredPreimage`, sealed: what a key was computed from, and the files behind it; read only to explain | collection |
//! | `history/hh/<project>` | `StoredHistory`, sealed, never synced: keys of the steps of a project in its last builds | collection beyond 1000 projects, loss of power |
//! | `builds/<id>` | `StoredBuild`, sealed, never synced: what a build did | collection, 100 newer ones, loss of power |
//! | `forms/hh/<diff ID>` | `StoredForms`, sealed: blobs of a layer made after its record | collection |
//! | `answers/hh/<key>` | `StoredAnswer`, sealed: what a server said of a file behind a URL | collection of its record |
//! | `images/<reference>` | `StoredImage`, sealed: an image or an index; the name percent-encoded, or `%` and its BLAKE3 if too long | removal by name |
//! | `pending-<boot>-<n>/` | a group that is not durable yet; `/` in names is `+` | see below |
//! | `synced-<boot>-<n>/` | a durable group on its way to its places | nothing |
//! | `quarantine/` | files with wrong bytes; `/` in names is `+` | collection |
//! | `tmp/` | files being written | opening |
//! | `index/` | sled: times of last use | damage |
//! | `snapshots/` | the builder's | collection |
//! | `snapshots-*/` | the same, of other kinds of sandboxes: owners and marks of their files differ | by hand |
//! | `worktrees/` | root filesystems of steps where nothing can be mounted | opening, a minute without use |
//! | `cachemounts/<BLAKE3>[-<n>]/` | what steps keep from build to build; `n` is a further copy for another step at the same time | collection |
//! | `cachemounts/<BLAKE3>[-<n>].about` | `StoredCacheMount`, sealed: what the directory is; missing for those of older versions | collection |
//! | `failed/<build>-<step>/` | the builder's, and `record`, a `StoredKept`, sealed, never synced: what a failed step left, and what it had | an hour, collection, restart of the machine |
//! | `mirrors/<key>/` | a bare git repository: what was fetched of one remote; its file `rbuild-used` has the time of last use | collection |
//! | `usage` | text: bytes in use, bytes free then, when that was, bytes that no collection gives back; a hint | anything |
//! | `server.log` | the server's words | |
//!
//! **Sealed** means: the protobuf encoding (`proto/rbuild/v1/store.proto`, `tree.proto`), then 32 bytes of BLAKE3 over
//! `rbuild store 1` NUL, the path of the file below the root, NUL, the encoding. A file with another checksum, or one whose
//! message is refused, is moved to `quarantine/` and counts as absent.
//!
//! # Check digests
//!
//! A blob is named by its SHA-256, which takes a second for a large layer, and layers are read again and again: to unpack, to
//! compress, to export, to push. So whoever writes a blob also computes BLAKE3 of the bytes, in the same pass, and keeps it as an
//! extended attribute of the file (32 bytes) before the file gets its name; readers compare that. What this is worth:
//!
//! - *The same bytes were named and checked.* Both digests are computed from the buffers that are written, before the name is given. Bytes
//!   with that check digest are the bytes of that name, as sure as BLAKE3 has no collisions: that is what records stand on already.
//! - *It cannot belong to other bytes.* It is part of the file and not a file of its own: rename, group and removal treat both
//!   as one, and no crash can leave one without the other but by losing it. A file that is written again is a new file.
//! - *Damage is found as before.* A flipped bit, a torn or a shorter file, a block of another file: the check digest does not match. Then
//!   the bytes are read a second time and both digests computed: the blob is whole if SHA-256 is its name and BLAKE3 that of what was
//!   handed out. So a damaged attribute costs time and is written anew; it never damns a blob, and never saves one.
//! - *Without it* (an older store, a copy without attributes, a file system that has none), SHA-256 is compared, as it always was,
//!   and the check digest is kept for the next reader.
//! - *Whoever can write it can write the blob.* The store is its owner's alone (0700), and who may change its files can change records as
//!   well: no digest in the store is a defence against the store's owner. What comes from outside is compared with the SHA-256 that was
//!   promised before it becomes a blob.
//!
//! # Versions
//!
//! Within a major version, fields may be added: older readers skip them. Whatever would make an older reader wrong raises the
//! major version; a store of another major version is refused, never changed.
//!
//! What enters keys has a version of its own, `proto::canonical::SCHEMA`, which is hashed into each of them: a store opens under every
//! one, records under keys of another one are never looked up, and collection takes them in their turn.
//!
//! # Publishing
//!
//! Every file is written in `tmp/`, then renamed. *Now* (image names, `VERSION`): sync of the file, rename, sync of the
//! directories up to the root. *Group* (all else): renamed into `pending-<boot>-<n>/`, where this process finds it at once.
//! Committing a group: end it, so that newer files go to group n+1; one `syncfs`; rename the directory to
//! `synced-<boot>-<n>`; sync the root; rename each file to its place; remove the directory. With no pending file none of
//! this happens. *Never* (`history/`, `builds/`): rename, and nothing else.
//! A file that is written again or removed leaves the group it waited in, so that no earlier one comes back at opening.
//!
//! So a file in its place, or in `synced-`, has bytes that were synced before it got there, but for those that are never
//! synced. Giving an image its name commits
//! the group first: what a name leads to is never less durable than the name.
//!
//! # The crash argument
//!
//! *The process dies* (the page cache lives on), opening under the same boot ID:
//! - while writing in `tmp/`: removed at opening;
//! - after renaming into `pending-`: bytes and name are in the page cache, complete. Opening commits the group. Within it,
//!   blobs and trees were renamed before the records that name them, so each record finds its bytes;
//! - a snapshot that was committed and not synced: it is marked with the boot ID, and kept;
//! - inside a commit, before the directory has its second name: as above; after it: opening goes on moving the files;
//! - between sync and rename of a *now* file: the old name stands, the new bytes are in `tmp/`.
//!
//! *The machine dies* (the page cache is lost), opening under another boot ID:
//! - `pending-` of another boot: its files may be empty, torn or missing, one by one. All are dropped, blobs with the records
//!   that name them; nobody was told that they last. What stays never refers to them: a durable file was written after its
//!   group was synced;
//! - `synced-`: its name was only given after `syncfs`, so each file in it is whole; opening moves them on. The move of one
//!   file is a rename inside one file system: afterwards it is in one of the two places;
//! - the removal of a file by collection may be undone: records are removed before what they lead to, so at worst something
//!   is there that nobody needs; or only the removal of the record is undone, then its blob is a miss, and the step runs again;
//! - a cache mount was filled in `tmp/` and synced before it was renamed; what steps wrote to it afterwards may be torn, as on
//!   any machine that loses power while a package manager works;
//! - a blob that fails its digest all the same (a disk that lies, a flipped bit) is noticed by the read that would return its
//!   last bytes, set aside, and made again. A blob that is written again replaces what was there;
//! - a check digest is in the file's inode before its name is: a blob has it, or lost it, or has a wrong one, and each is dealt with
//!   above.
//!
//! - `history/` and `builds/`: anything may be left of a file, also nothing. Its seal tells; it counts as absent; what is lost is
//!   why a step ran, never a result.
//!
//! *Without a boot ID*, every pending group counts as of another boot.
//!
//! # Verifying
//!
//! [`crate::verify`] reads all of this and compares: blobs with their digests, sealed files with their checksums and names, snapshots
//! with the trees of their layers; it looks whether records and images lead to bytes that are whole, and for what is nobody's.
//!
//! # The index
//!
//! Holds times of last use and nothing that a result depends on. Absent or damaged, it starts empty, and the times of the
//! files decide what is collected first.

/// What a store may hold; a directory with anything else in it, and no version, is somebody's home.
pub(crate) const NAMES: [&str; 32] = [
    "VERSION",
    "lock",
    "blobs",
    "trees",
    "records",
    "aliases",
    "preimages",
    "history",
    "builds",
    "forms",
    "answers",
    "mirrors",
    "images",
    "snapshots",
    "snapshots-rootless",
    "snapshots-single-id",
    "snapshots-plain",
    "worktrees",
    "tmp",
    "quarantine",
    "cachemounts",
    "failed",
    "index",
    "server.log",
    "server.sock",
    "server.lock",
    "server.starting",
    "rbuild.sock",
    "known_hosts",
    "lost+found",
    "usage",
    "run",
];
