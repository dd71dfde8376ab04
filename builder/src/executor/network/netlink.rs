//! Netlink: messages to the kernel and its answers, whatever they are about.
//!
//! A message is a header, a structure that its family fixes, and a tree of attributes, all aligned to four bytes. The kernel takes
//! several in one buffer, and answers each with what was asked for and an acknowledgement, or with an error and often a sentence
//! that explains it.
//!
//! Source: the kernel's `Documentation/userspace-api/netlink/intro.rst`, `include/uapi/linux/netlink.h`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::sys;

/// The kernel answers before it returns from sending: a socket on which nothing comes will never answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel fills at most 32 KiB at once.
const RECEIVED_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// All that there is.
pub(super) const DUMP: u16 = 0x300;
/// Make it if it is not there.
pub(super) const CREATE: u16 = 0x400;
/// Refuse if it is there.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// Behind what is there.
pub(super) const APPEND: u16 = 0x800;

/// Marks of an attribute's number: it holds attributes, it is big-endian.
const KIND_MARKS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// Something said about the subject of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) kind: u16,
    pub(super) value: Value,
}

/// What an attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bytes(Vec<u8>),
    Nested(Vec<Attribute>),
    /// Never sent: the kernel takes this where nothing is sent, and may say it when it is asked.
    Implied(Vec<u8>),
}

impl Attribute {
    pub(super) fn bytes(kind: u16, bytes: impl Into<Vec<u8>>) -> Self {
        let value = Value::Bytes(bytes.into());
        Self { kind, value }
    }

    /// A number as netfilter takes them: big-endian.
    pub(super) fn number(kind: u16, number: u32) -> Self {
        Self::bytes(kind, number.to_be_bytes())
    }

    /// A string with its end.
    pub(super) fn text(kind: u16, text: &str) -> Self {
        Self::bytes(kind, [text.as_bytes(), b"\0"].concat())
    }

    pub(super) fn nested(kind: u16, attributes: Vec<Self>) -> Self {
        let value = Value::Nested(attributes);
        Self { kind, value }
    }

    pub(super) fn implied(kind: u16, number: u32) -> Self {
        let value = Value::Implied(number.to_be_bytes().to_vec());
        Self { kind, value }
    }
}

/// Appends attributes to the body of a message.
pub(super) fn encode(attributes: &[Attribute], into: &mut Vec<u8>) {
    for attribute in attributes {
        let start = into.len();
        let mark = match &attribute.value {
            Value::Implied(_) => continue,
            Value::Bytes(_) => 0,
            Value::Nested(_) => NESTED,
        };
        into.extend_from_slice(&[0; 2]);
        into.extend_from_slice(&(attribute.kind | mark).to_ne_bytes());
        match &attribute.value {
            Value::Bytes(bytes) | Value::Implied(bytes) => into.extend_from_slice(bytes),
            Value::Nested(attributes) => encode(attributes, into),
        }
        let length = u16::try_from(into.len() - start).expect("attributes of ours are short");
        into[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        into.resize(into.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `bytes`, in order, with their numbers; `None` if they are cut off.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut rest = bytes;
    let mut attributes = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & !KIND_MARKS;
        attributes.push((kind, rest.get(4..length)?));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(attributes)
}

/// One message to the kernel.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// What it does, for an error: "make the chain `nat`".
    pub(super) action: String,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message that the kernel acknowledges. `head` is the structure that the family fixes.
    pub(super) fn new(action: impl Into<String>, kind: u16, head: &[u8], attributes: &[Attribute]) -> Self {
        let mut body = head.to_vec();
        encode(attributes, &mut body);
        Self {
            action: action.into(),
            kind,
            flags: NLM_F_REQUEST | NLM_F_ACK,
            body,
        }
    }

    pub(super) fn with(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Not every kernel acknowledges the marks around a transaction.
    pub(super) fn unacknowledged(mut self) -> Self {
        self.flags &= !NLM_F_ACK;
        self
    }

    fn encode(&self, number: u32, into: &mut Vec<u8>) {
        let length = u32::try_from(HEADER_BYTES + self.body.len()).expect("messages of ours are short");
        into.extend_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(&self.kind.to_ne_bytes());
        into.extend_from_slice(&self.flags.to_ne_bytes());
        into.extend_from_slice(&number.to_ne_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&self.body);
        into.resize(into.len().next_multiple_of(4), 0);
    }
}

/// Why the kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(in crate::executor) enum NetlinkError {
    /// It refused a message.
    #[error("cannot {action}: {}", explained(said, errno))]
    Refused {
        /// What the message does.
        action: String,
        /// The number.
        errno: Errno,
        /// A sentence, if it has one.
        said: Option<String>,
    },
    /// What it listed changed meanwhile.
    #[error("cannot {action}: it changes all the time")]
    Changed {
        /// What was asked for.
        action: String,
    },
    /// It could not be asked.
    #[error("cannot talk to the kernel about networks: {0}")]
    Socket(#[from] io::Error),
    /// It answered something that is no answer.
    #[error("the kernel's answer about networks cannot be read")]
    Malformed,
}

fn explained(said: &Option<String>, errno: &Errno) -> String {
    let number = io::Error::from(*errno);
    said.as_ref()
        .map_or_else(|| number.to_string(), |said| format!("{said} ({number})"))
}

impl NetlinkError {
    /// The number, where the kernel gave one.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(error) => Errno::from_io_error(error),
            Self::Changed { .. } | Self::Malformed => None,
        }
    }
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The structure that the family fixes, and attributes.
    pub(super) body: Vec<u8>,
}

/// A way to one family of the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    asked: u32,
}

impl Socket {
    /// `None` is the family of links, addresses and routes.
    pub(super) fn open(family: Option<Protocol>) -> Result<Self, NetlinkError> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family)
            .map_err(io::Error::from)?;
        // Nobody but the kernel may answer.
        rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0)).map_err(io::Error::from)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE)).map_err(io::Error::from)?;
        sys::explain_netlink_errors(&fd)?;
        Ok(Self { fd, asked: 0 })
    }

    /// The index of the interface called `name`, where this socket was opened.
    pub(super) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.fd, name)?)
    }

    /// Sends the messages in one go, and waits until the kernel has acknowledged each of them. The first that is refused is the
    /// error. Of several messages of which none is a transaction, those before it stay done.
    pub(super) fn ask(&mut self, messages: &[Message]) -> Result<Vec<Reply>, NetlinkError> {
        let first = self.asked;
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(self.asked, &mut bytes);
            self.asked = self.asked.wrapping_add(1);
        }
        let sent = rustix::net::send(&self.fd, &bytes, SendFlags::empty()).map_err(io::Error::from)?;
        if sent != bytes.len() {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        let mut conversation = Conversation {
            messages,
            first,
            open: messages.iter().filter(|message| message.flags & NLM_F_ACK != 0).count(),
            replies: Vec::new(),
        };
        while conversation.open > 0 {
            conversation.take(&self.receive()?)?;
        }
        Ok(conversation.replies)
    }

    fn receive(&self) -> Result<Vec<u8>, NetlinkError> {
        let mut buffer = vec![0; RECEIVED_BYTES];
        let received = loop {
            match rustix::net::recv(self.fd.as_fd(), &mut buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                received => break received.map_err(io::Error::from)?.1,
            }
        };
        if received > buffer.len() {
            return Err(NetlinkError::Malformed);
        }
        buffer.truncate(received);
        Ok(buffer)
    }
}

/// The answers to messages that were sent together.
struct Conversation<'a> {
    messages: &'a [Message],
    /// Number of the first message.
    first: u32,
    /// Messages that are not acknowledged yet.
    open: usize,
    replies: Vec<Reply>,
}

impl Conversation<'_> {
    /// Takes what came at once: any number of answers.
    fn take(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = u32_at(rest, 0).and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or(NetlinkError::Malformed)?;
            let answer = rest.get(..length).filter(|answer| answer.len() >= HEADER_BYTES);
            self.take_one(answer.ok_or(NetlinkError::Malformed)?)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    fn take_one(&mut self, answer: &[u8]) -> Result<(), NetlinkError> {
        let (header, body) = answer.split_at(HEADER_BYTES);
        let kind = u16_at(header, 4).ok_or(NetlinkError::Malformed)?;
        let flags = u16_at(header, 6).ok_or(NetlinkError::Malformed)?;
        let number = u32_at(header, 8).ok_or(NetlinkError::Malformed)?;
        let position = usize::try_from(number.wrapping_sub(self.first)).map_err(|_| NetlinkError::Malformed)?;
        let Some(message) = self.messages.get(position) else {
            // What is left of an earlier conversation that ended with an error.
            return Ok(());
        };
        if flags & NLM_F_DUMP_INTR != 0 {
            let action = message.action.clone();
            return Err(NetlinkError::Changed { action });
        }
        match kind {
            NLMSG_ERROR | NLMSG_DONE => {
                // The number after a list is left out by some.
                let code = i32_at(body, 0).unwrap_or(0);
                if code != 0 {
                    return Err(refusal(message, code, flags, body));
                }
                self.open = self.open.saturating_sub(1);
            }
            _ => self.replies.push(Reply { body: body.to_vec() }),
        }
        Ok(())
    }
}

/// An error: its number, the header of the message that it is about, the rest of that unless it is left out, and attributes.
fn refusal(message: &Message, code: i32, flags: u16, body: &[u8]) -> NetlinkError {
    // The kernel's numbers are small and stand there negated.
    let Some(code) = code.checked_neg().filter(|code| (1..4096).contains(code)) else {
        return NetlinkError::Malformed;
    };
    let echoed = match flags & NLM_F_CAPPED {
        0 => u32_at(body, 4).and_then(|length| usize::try_from(length).ok()),
        _ => Some(HEADER_BYTES),
    };
    let attributes = echoed
        .filter(|_| flags & NLM_F_ACK_TLVS != 0)
        .and_then(|echoed| body.get(4_usize.checked_add(echoed)?.checked_next_multiple_of(4)?..))
        .and_then(decode);
    let said = attributes
        .unwrap_or_default()
        .into_iter()
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
    let text = said.map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    NetlinkError::Refused {
        action: message.action.clone(),
        errno: Errno::from_raw_os_error(code),
        said: text,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(action: &str) -> Message {
        Message::new(action, 16, &[7; 4], &[])
    }

    fn conversation(messages: &[Message]) -> Conversation<'_> {
        Conversation {
            messages,
            first: 5,
            open: messages.len(),
            replies: Vec::new(),
        }
    }

    fn answer(kind: u16, flags: u16, number: u32, body: &[u8]) -> Vec<u8> {
        let answer = Message {
            action: String::new(),
            kind,
            flags,
            body: body.to_vec(),
        };
        let mut bytes = Vec::new();
        answer.encode(number, &mut bytes);
        bytes
    }

    #[test]
    fn attributes_are_aligned_nested_and_read_back() {
        let inner = vec![
            Attribute::text(1, "ab"),
            Attribute::implied(4, 9),
            Attribute::number(2, 3),
        ];
        let mut bytes = Vec::new();
        encode(&[Attribute::bytes(3, [1]), Attribute::nested(9, inner)], &mut bytes);
        let little = [
            5, 0, 3, 0, 1, 0, 0, 0, 20, 0, 9, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0, 8, 0, 2, 0, 0, 0, 0, 3,
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(bytes, little);
        }
        let outer = decode(&bytes).unwrap();
        assert_eq!(outer[0], (3, &[1][..]));
        assert_eq!(outer[1].0, 9);
        assert_eq!(decode(outer[1].1).unwrap(), [(1, &b"ab\0"[..]), (2, &[0, 0, 0, 3])]);
    }

    #[test]
    fn attributes_that_are_cut_off_are_none() {
        let mut bytes = Vec::new();
        encode(&[Attribute::number(1, 1)], &mut bytes);
        assert!((1..8).all(|length| decode(&bytes[..length]).is_none()));
        // A length that is shorter than its own field.
        assert_eq!(decode(&[0; 4]), None);
    }

    #[test]
    fn a_refusal_names_the_message_and_what_the_kernel_said() {
        let messages = [message("sow"), message("reap")];
        let mut body = (-95_i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER_BYTES]);
        encode(
            &[Attribute::number(2, 8), Attribute::text(1, "no such seed")],
            &mut body,
        );
        let mut talk = conversation(&messages);
        talk.take(&answer(NLMSG_ERROR, 0, 5, &[0; 4])).unwrap();
        assert_eq!(talk.open, 1);
        let error = talk
            .take(&answer(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 6, &body))
            .unwrap_err();
        assert_eq!(error.errno(), Some(Errno::OPNOTSUPP));
        assert_eq!(
            error.to_string(),
            "cannot reap: no such seed (Operation not supported (os error 95))"
        );
    }

    #[test]
    fn a_refusal_that_repeats_the_message_is_read_behind_it() {
        let messages = [message("reap")];
        let mut body = (-1_i32).to_ne_bytes().to_vec();
        messages[0].encode(5, &mut body);
        encode(&[Attribute::text(1, "not yours")], &mut body);
        let error = conversation(&messages)
            .take(&answer(NLMSG_ERROR, NLM_F_ACK_TLVS, 5, &body))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reap: not yours (Operation not permitted (os error 1))"
        );
    }

    #[test]
    fn answers_come_together_and_strangers_are_passed_over() {
        let messages = [message("list")];
        let mut bytes = answer(20, 0, 4, b"stranger");
        bytes.extend(answer(20, 0, 5, b"one"));
        bytes.extend(answer(20, 0, 5, b"two"));
        bytes.extend(answer(NLMSG_DONE, 0, 5, &[0; 4]));
        let mut talk = conversation(&messages);
        talk.take(&bytes).unwrap();
        assert_eq!(talk.open, 0);
        let bodies: Vec<&[u8]> = talk.replies.iter().map(|reply| &reply.body[..]).collect();
        assert_eq!(bodies, [b"one", b"two"]);
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_no_list() {
        let messages = [message("list")];
        let error = conversation(&messages)
            .take(&answer(20, NLM_F_DUMP_INTR, 5, b"one"))
            .unwrap_err();
        assert!(matches!(error, NetlinkError::Changed { .. }), "{error}");
    }

    #[test]
    fn damaged_answers_are_errors() {
        let messages = [message("list")];
        let mut body = (-1_i32).to_ne_bytes().to_vec();
        messages[0].encode(5, &mut body);
        encode(&[Attribute::text(1, "not yours")], &mut body);
        let whole = answer(NLMSG_ERROR, NLM_F_ACK_TLVS, 5, &body);
        for length in 1..whole.len() {
            assert!(
                conversation(&messages).take(&whole[..length]).is_err(),
                "{length} bytes"
            );
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            // Whatever it is taken for, nothing breaks.
            drop(conversation(&messages).take(&damaged));
        }
    }

    #[test]
    fn the_kernel_answers_and_explains() {
        let mut socket = Socket::open(None).unwrap();
        // RTM_GETLINK of the loopback interface, and of one that cannot be there.
        let link = |index: i32| {
            let mut head = [0; 16];
            head[4..8].copy_from_slice(&index.to_ne_bytes());
            Message::new(format!("find link {index}"), 18, &head, &[])
        };
        assert_eq!(socket.ask(&[link(1), link(1)]).unwrap().len(), 2);
        let error = socket.ask(&[link(1), link(i32::MAX)]).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NODEV), "{error}");
        assert_eq!(socket.ask(&[link(1)]).unwrap().len(), 1);
        assert_eq!(socket.index("lo").unwrap(), 1);
    }
}
