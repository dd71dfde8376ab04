//! The SSH agent protocol, as far as a build may speak it: list keys, and sign.
//!
//! Every message is a length (4 bytes, big-endian) and that many bytes, the first of which says what it is. A client asks, the
//! agent answers, in turn. Neither of the two requests that pass here depends on what the same connection said before, so each
//! may travel alone.
//!
//! What does not pass: adding and removing keys, locking, smart cards, and every extension. A step could otherwise change the
//! agent of the user who builds. The client filters, since the agent is the client's; the server filters too, so that a
//! refused request costs no trip.
//!
//! Source: IETF draft `draft-ietf-sshm-ssh-agent`, section 3.

/// Longest message, its length left out: OpenSSH's agent reads no longer one.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// The answer to a request that is refused.
pub const FAILURE: &[u8] = &[5];

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// The request for the list of keys.
pub const LIST: &[u8] = &[REQUEST_IDENTITIES];

/// Whether a build may send `request` to an agent.
#[must_use]
pub fn is_permitted(request: &[u8]) -> bool {
    match request.split_first() {
        Some((&REQUEST_IDENTITIES, rest)) => rest.is_empty(),
        Some((&SIGN_REQUEST, rest)) => !rest.is_empty(),
        _ => false,
    }
}

/// Whether `reply` is what an agent may say to a permitted request.
#[must_use]
pub fn is_reply(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(&(IDENTITIES_ANSWER | SIGN_RESPONSE))) || reply == FAILURE
}

/// How many keys the answer to [`LIST`] names; nothing if it is no such answer.
#[must_use]
pub fn key_count(reply: &[u8]) -> Option<u32> {
    let count = reply.strip_prefix(&[IDENTITIES_ANSWER])?.first_chunk()?;
    Some(u32::from_be_bytes(*count))
}

/// The length that a message begins with; nothing if no message may be that long, or that short.
#[must_use]
pub fn length(header: [u8; 4]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(header)).ok()?;
    (1..=MAX_MESSAGE_BYTES).contains(&length).then_some(length)
}

/// `message` with its length before it.
///
/// # Panics
/// If the message is longer than 2^32 bytes; none is longer than [`MAX_MESSAGE_BYTES`].
#[must_use]
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("messages of agents are short");
    [&length.to_be_bytes(), message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listing_and_signing_pass() {
        for request in 0..=u8::MAX {
            let bare = is_permitted(&[request]);
            assert_eq!(bare, request == REQUEST_IDENTITIES, "{request}");
            let with_body = is_permitted(&[request, 0, 0, 0, 0]);
            assert_eq!(with_body, request == SIGN_REQUEST, "{request}");
        }
        assert!(!is_permitted(b""));
    }

    #[test]
    fn replies_are_lists_signatures_and_failures() {
        for (reply, expected) in [
            (&[12, 0, 0, 0, 0][..], true),
            (&[14, 1], true),
            (&[5], true),
            (&[5, 1], false),
            (&[6], false),
            (&[], false),
        ] {
            assert_eq!(is_reply(reply), expected, "{reply:?}");
        }
        assert_eq!(key_count(&[12, 0, 0, 0, 2, 9]), Some(2));
        assert_eq!(key_count(&[12, 0, 0]), None);
        assert_eq!(key_count(FAILURE), None);
    }

    #[test]
    fn lengths_are_limited_on_both_sides() {
        assert_eq!(frame(FAILURE), [0, 0, 0, 1, 5]);
        assert_eq!(length([0, 0, 0, 1]), Some(1));
        assert_eq!(length([0, 4, 0, 0]), Some(MAX_MESSAGE_BYTES));
        assert_eq!(length([0, 4, 0, 1]), None);
        assert_eq!(length([0, 0, 0, 0]), None);
        assert_eq!(length([255; 4]), None);
    }
}
