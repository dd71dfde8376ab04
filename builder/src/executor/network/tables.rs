//! Bringing the packet filter of this network namespace to what it should be, in one transaction.
//!
//! Several engines of one host share the tables, so tables that are as wanted stay: making them anew changes nothing, but other
//! engines would have to wait. "As wanted" is what the kernel lists, compared expression by expression. A table that differs in
//! anything is replaced. The transaction names the generation of the tables that were looked at: if another program changed
//! any in between, the kernel refuses it and everything is looked at again. So engines that start at the same time do not
//! replace each other's tables.
//!
//! Source: the kernel's `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::netlink::{APPEND, Attribute, CREATE, DUMP, Message, NetlinkError, Reply, Socket, Value, decode};
use super::rules::{Chain, IPV6, Table, wanted};

/// Looks and transactions until nobody else changes tables in between. The last one does not ask whether somebody did.
const ATTEMPTS: u32 = 16;
const NAME: &str = "rbuild";

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const GETTABLE: u16 = NEWTABLE + 1;
const DELTABLE: u16 = NEWTABLE + 2;
const NEWCHAIN: u16 = NEWTABLE + 3;
const GETCHAIN: u16 = NEWTABLE + 4;
const NEWRULE: u16 = NEWTABLE + 6;
const GETRULE: u16 = NEWTABLE + 7;
const GETGEN: u16 = NEWTABLE + 16;

/// Of the begin of a transaction and of the answer to [`GETGEN`].
const GENERATION: u16 = 1;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
/// Handle and padding.
const TABLE_IGNORED: &[u16] = &[4, 5];

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const CHAIN_FLAGS: u16 = 10;
/// Handle, number of rules, padding.
const CHAIN_IGNORED: &[u16] = &[2, 6, 9];
const POLICY_ACCEPT: u32 = 1;
/// That it is at a hook.
const FLAG_BASE: u32 = 1;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
/// Handle, that of the rule before, padding.
const RULE_IGNORED: &[u16] = &[3, 6, 8];

/// Makes the tables what they should be.
pub(super) fn establish() -> Result<(), NetlinkError> {
    let tables = here();
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match attempt(&tables, left == 0) {
            Err(error) if left > 0 && passes(&error) => std::thread::yield_now(),
            done => return done,
        }
    }
}

/// A kernel without IPv6 has no filter for it, and needs none.
fn here() -> Vec<Table> {
    let six = std::path::Path::new("/proc/net/if_inet6").exists();
    wanted()
        .into_iter()
        .filter(|table| six || table.family != IPV6)
        .collect()
}

/// Whether another program was in the way, and will not be for long.
fn passes(error: &NetlinkError) -> bool {
    /// What the kernel answers to a transaction on another generation; programs never see it from system calls.
    const RESTART: Errno = Errno::from_raw_os_error(85);
    matches!(error, NetlinkError::Changed { .. })
        || matches!(error.errno(), Some(RESTART | Errno::BUSY | Errno::INTR | Errno::AGAIN))
}

/// A conversation that failed may have left answers, so each attempt has a socket of its own.
fn attempt(tables: &[Table], anyway: bool) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Some(NETFILTER))?;
    let generation = generation(&mut socket)?;
    for table in tables {
        if !stands(&mut socket, table)? {
            let condition = (!anyway).then_some(generation);
            return socket.ask(&replacement(tables, condition)).map(drop);
        }
    }
    Ok(())
}

/// The kernel counts the transactions of a namespace.
pub(super) fn generation(socket: &mut Socket) -> Result<Vec<u8>, NetlinkError> {
    let question = Message::new("read the generation of nf_tables", GETGEN, &head(0), &[]);
    let replies = socket.ask(&[question])?;
    let attributes = replies.first().and_then(attributes_of).ok_or(NetlinkError::Malformed)?;
    let found = attributes.into_iter().find(|(kind, _)| *kind == GENERATION);
    found.map(|(_, value)| value.to_vec()).ok_or(NetlinkError::Malformed)
}

/// Whether the table is there, whole, and there is nothing else in it.
fn stands(socket: &mut Socket, table: &Table) -> Result<bool, NetlinkError> {
    let named = [Attribute::text(TABLE_NAME, NAME)];
    let question = Message::new("look at a table of nf_tables", GETTABLE, &head(table.family), &named);
    let found = match socket.ask(&[question]) {
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(false),
        found => found?,
    };
    let found = found.first().and_then(attributes_of).ok_or(NetlinkError::Malformed)?;
    // What uses a table is its chains, sets, maps, objects and flow tables.
    let chains = u32::try_from(table.chains.len()).expect("tables are small");
    let [name, flags] = table_attributes();
    if !says(
        &found,
        &[name, flags, Attribute::number(TABLE_USE, chains)],
        TABLE_IGNORED,
    ) {
        return Ok(false);
    }
    Ok(chains_stand(socket, table)? && rules_stand(socket, table)?)
}

fn chains_stand(socket: &mut Socket, table: &Table) -> Result<bool, NetlinkError> {
    let question = Message::new("list the chains of nf_tables", GETCHAIN, &head(table.family), &[]).with(DUMP);
    let replies = socket.ask(&[question])?;
    let listed = of_table(&replies, CHAIN_TABLE)?;
    let as_listed = |chain: &Chain| {
        let wanted = chain_attributes(chain);
        listed.iter().any(|found| says(found, &wanted, CHAIN_IGNORED))
    };
    Ok(listed.len() == table.chains.len() && table.chains.iter().all(as_listed))
}

/// Rules are listed in order, chain by chain.
fn rules_stand(socket: &mut Socket, table: &Table) -> Result<bool, NetlinkError> {
    let named = [Attribute::text(RULE_TABLE, NAME)];
    let question = Message::new("list the rules of nf_tables", GETRULE, &head(table.family), &named).with(DUMP);
    let replies = socket.ask(&[question])?;
    let mut listed = of_table(&replies, RULE_TABLE)?;
    for chain in &table.chains {
        let (here, others): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|found| is_named(found, RULE_CHAIN, chain.name));
        let mut pairs = here.iter().zip(&chain.rules);
        let same = pairs.all(|(found, rule)| says(found, &rule_attributes(chain, rule), RULE_IGNORED));
        if here.len() != chain.rules.len() || !same {
            return Ok(false);
        }
        listed = others;
    }
    Ok(listed.is_empty())
}

type Found<'a> = Vec<(u16, &'a [u8])>;

/// What was listed of our table; the kernel may list all tables of a family.
fn of_table(replies: &[Reply], table: u16) -> Result<Vec<Found<'_>>, NetlinkError> {
    let all: Option<Vec<Found<'_>>> = replies.iter().map(attributes_of).collect();
    let mut all = all.ok_or(NetlinkError::Malformed)?;
    all.retain(|found| is_named(found, table, NAME));
    Ok(all)
}

fn attributes_of(reply: &Reply) -> Option<Found<'_>> {
    decode(reply.body.get(head(0).len()..)?)
}

fn is_named(found: &Found<'_>, kind: u16, name: &str) -> bool {
    let is = |value: &[u8]| value.strip_suffix(b"\0").unwrap_or(value) == name.as_bytes();
    found.iter().any(|(found, value)| *found == kind && is(value))
}

/// Whether `found` is what is `wanted` and nothing else. Attributes of one number are in order.
fn says(found: &Found<'_>, wanted: &[Attribute], ignored: &[u16]) -> bool {
    let mut missing: Vec<&Attribute> = wanted.iter().collect();
    for (kind, value) in found.iter().filter(|(kind, _)| !ignored.contains(kind)) {
        let Some(position) = missing.iter().position(|wanted| wanted.kind == *kind) else {
            return false;
        };
        let same = match &missing.remove(position).value {
            Value::Bytes(bytes) | Value::Implied(bytes) => bytes == value,
            Value::Nested(wanted) => decode(value).is_some_and(|found| says(&found, wanted, &[])),
        };
        if !same {
            return false;
        }
    }
    missing.iter().all(|wanted| matches!(wanted.value, Value::Implied(_)))
}

/// Drops what is there under our names and makes it anew, at once; if `generation` is still that of the tables.
fn replacement(tables: &[Table], generation: Option<Vec<u8>>) -> Vec<Message> {
    let mut mark = head(0);
    mark[2..4].copy_from_slice(&SUBSYSTEM.to_be_bytes());
    let condition: Vec<Attribute> = generation
        .into_iter()
        .map(|generation| Attribute::bytes(GENERATION, generation))
        .collect();
    let begin = Message::new("change nf_tables", BATCH_BEGIN, &mark, &condition);
    let mut messages = vec![begin.unacknowledged()];
    for table in tables {
        messages.extend(new_table(table));
    }
    messages.push(Message::new("change nf_tables", BATCH_END, &mark, &[]).unacknowledged());
    messages
}

fn new_table(table: &Table) -> Vec<Message> {
    let head = head(table.family);
    let attributes = table_attributes();
    // A table that is made certainly is there, and can be deleted.
    let make = Message::new(format!("make the table `{NAME}`"), NEWTABLE, &head, &attributes).with(CREATE);
    let delete = Message::new(format!("delete the table `{NAME}`"), DELTABLE, &head, &attributes[..1]);
    let mut messages = vec![make.clone(), delete, make];
    for chain in &table.chains {
        let action = format!("make the chain `{}` of nf_tables", chain.name);
        messages.push(Message::new(action, NEWCHAIN, &head, &chain_attributes(chain)).with(CREATE));
        for rule in &chain.rules {
            let action = format!("make a rule of the chain `{}` of nf_tables", chain.name);
            let attributes = rule_attributes(chain, rule);
            messages.push(Message::new(action, NEWRULE, &head, &attributes).with(CREATE | APPEND));
        }
    }
    messages
}

fn table_attributes() -> [Attribute; 2] {
    [Attribute::text(TABLE_NAME, NAME), Attribute::number(TABLE_FLAGS, 0)]
}

fn chain_attributes(chain: &Chain) -> Vec<Attribute> {
    let hook = vec![Attribute::number(1, chain.hook), Attribute::number(2, chain.priority)];
    vec![
        Attribute::text(CHAIN_TABLE, NAME),
        Attribute::text(CHAIN_NAME, chain.name),
        Attribute::nested(CHAIN_HOOK, hook),
        Attribute::text(CHAIN_TYPE, chain.kind),
        Attribute::number(CHAIN_POLICY, POLICY_ACCEPT),
        Attribute::implied(CHAIN_FLAGS, FLAG_BASE),
    ]
}

fn rule_attributes(chain: &Chain, expressions: &[Attribute]) -> Vec<Attribute> {
    vec![
        Attribute::text(RULE_TABLE, NAME),
        Attribute::text(RULE_CHAIN, chain.name),
        Attribute::nested(RULE_EXPRESSIONS, expressions.to_vec()),
    ]
}

/// `nfgenmsg`.
fn head(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}
