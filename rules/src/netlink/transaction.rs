//! Many changes in one buffer, which the kernel does all or none of.

use std::{ffi::c_char, ops::Range};

use nftnl::nftnl_sys::{self as sys, libc};
use nix::errno::Errno;

use super::{
    Error,
    error::{Object, refused},
    object::{self, Home, RawElement},
};
use crate::model::*;

/// Elements in one message: their list is one attribute, and an attribute has at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// A transaction that is being written. Each message is kept with its sequence number, since the kernel
/// reports each refusal under the number of the message that it refuses.
pub(crate) struct Transaction {
    buffer: Vec<u8>,
    scratch: Scratch,
    /// What message `first_sequence + n` is about.
    steps: Vec<(Object, String)>,
    /// Start of the last message in the buffer.
    last: usize,
    first_sequence: u32,
    /// How many sets it makes: each has a number of its own.
    sets: u32,
}

impl Transaction {
    /// Starts a transaction whose messages are numbered from `first_sequence`.
    pub(crate) fn new(first_sequence: u32) -> Self {
        let mut this = Self {
            buffer: Vec::new(),
            scratch: Scratch::new(),
            steps: Vec::new(),
            last: 0,
            first_sequence,
            sets: 0,
        };
        this.frame("start an nf_tables transaction", sys::nftnl_batch_begin);
        this
    }

    /// Makes the table anew: whatever was in it goes.
    pub(crate) fn replace(&mut self, table: &Table) -> Result<(), Error> {
        let home = Home::from(table);
        let name = format!("table {} {}", table.family.name(), table.name);
        // Added first, so that there is one to delete.
        self.table(home, &[], libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, format!("add {name}"))?;
        self.table(home, &[], libc::NFT_MSG_DELTABLE, 0, format!("delete {name}"))?;
        self.table(
            home,
            &table.userdata(),
            libc::NFT_MSG_NEWTABLE,
            libc::NLM_F_CREATE,
            format!("add {name}"),
        )?;
        // All chains before the first rule or map: these may go to a chain that stands behind.
        for chain in &table.chains {
            self.chain(home, chain)?;
        }
        for set in &table.sets {
            self.set(home, set)?;
        }
        for set in &table.sets {
            self.add_elements(home, set.key, &set.name, &set.elements)?;
        }
        for chain in &table.chains {
            self.add_rules(home, &chain.name, &chain.rules)?;
        }
        Ok(())
    }

    /// Takes the table away.
    pub(crate) fn delete(&mut self, home: Home<'_>) -> Result<(), Error> {
        let what = format!("delete table {} {}", home.family.name(), home.table);
        self.table(home, &[], libc::NFT_MSG_DELTABLE, 0, what)
    }

    fn table(
        &mut self,
        home: Home<'_>,
        userdata: &[u8],
        kind: i32,
        flags: i32,
        what: String,
    ) -> Result<(), Error> {
        let object = object::table(home, userdata)?;
        self.message(Object::Table, what, kind, home, flags, |header| {
            // SAFETY: header and object are valid, and the buffer has room for any message.
            unsafe { sys::nftnl_table_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Adds a set without its elements.
    pub(crate) fn set(&mut self, home: Home<'_>, set: &Set) -> Result<(), Error> {
        self.sets += 1;
        let object = object::set(home, set, self.sets)?;
        let what = format!("add set {} {} {}", home.family.name(), home.table, set.name);
        self.message(Object::Set, what, libc::NFT_MSG_NEWSET, home, libc::NLM_F_CREATE, |header| {
            // SAFETY: as above.
            unsafe { sys::nftnl_set_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Takes a set away, with its elements.
    pub(crate) fn delete_set(&mut self, home: Home<'_>, set: &str) -> Result<(), Error> {
        let object = object::set_named(home, set)?;
        let what = format!("delete set {} {} {set}", home.family.name(), home.table);
        self.message(Object::Set, what, libc::NFT_MSG_DELSET, home, 0, |header| {
            // SAFETY: as above.
            unsafe { sys::nftnl_set_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Takes a chain away, which must have no rules.
    pub(crate) fn delete_chain(&mut self, home: Home<'_>, chain: &str) -> Result<(), Error> {
        let object = object::chain_named(home, chain)?;
        let what = format!("delete chain {} {} {chain}", home.family.name(), home.table);
        self.message(Object::Chain, what, libc::NFT_MSG_DELCHAIN, home, 0, |header| {
            // SAFETY: as above.
            unsafe { sys::nftnl_chain_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Adds a chain without its rules.
    pub(crate) fn chain(&mut self, home: Home<'_>, chain: &Chain) -> Result<(), Error> {
        let object = object::chain(home, chain)?;
        let mut what = format!("add chain {} {} {}", home.family.name(), home.table, chain.name);
        let mut kind = Object::Chain;
        if let Some(hook) = &chain.hook {
            what += &format!(" ({})", hook.place.to_nft());
            kind = match hook.place {
                Place::Egress(_) => Object::EgressChain,
                Place::Ingress(_) => Object::Chain,
                _ => Object::InetChain,
            };
        }
        self.message(kind, what, libc::NFT_MSG_NEWCHAIN, home, libc::NLM_F_CREATE, |header| {
            // SAFETY: as above.
            unsafe { sys::nftnl_chain_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Appends rules to a chain.
    pub(crate) fn add_rules(&mut self, home: Home<'_>, chain: &str, rules: &[Rule]) -> Result<(), Error> {
        for (number, rule) in (1..).zip(rules) {
            let object = object::rule(home, chain, rule)?;
            let what = format!(
                "add rule {number} of chain {} {} {chain}: {}",
                home.family.name(),
                home.table,
                rule.to_nft()
            );
            let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
            let kind = match home.family {
                Family::Netdev => Object::Rules,
                Family::Inet | Family::Arp => Object::InetRules,
            };
            self.message(kind, what, libc::NFT_MSG_NEWRULE, home, flags, |header| {
                // SAFETY: as above.
                unsafe { sys::nftnl_rule_nlmsg_build_payload(header, object.as_ptr()) }
            });
        }
        Ok(())
    }

    /// Takes all rules out of a chain.
    pub(crate) fn flush_chain(&mut self, home: Home<'_>, chain: &str) -> Result<(), Error> {
        let object = object::rules_of(home, Some(chain))?;
        let what = format!("flush chain {} {} {chain}", home.family.name(), home.table);
        self.message(Object::Rules, what, libc::NFT_MSG_DELRULE, home, 0, |header| {
            // SAFETY: as above.
            unsafe { sys::nftnl_rule_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Takes all elements out of a set. Unlike a deletion by key it does not mind what has expired.
    pub(crate) fn flush_set(&mut self, home: Home<'_>, set: &str) -> Result<(), Error> {
        self.element_message(home, set, "flush", libc::NFT_MSG_DELSETELEM, 0, &[])
    }

    /// Puts elements into a set; those that are there already stay as they are.
    pub(crate) fn add_elements(
        &mut self,
        home: Home<'_>,
        key: KeyType,
        set: &str,
        elements: &[Element],
    ) -> Result<(), Error> {
        self.add_raw(home, set, &raw_elements(elements, key))
    }

    /// The same for elements in the kernel's form.
    pub(crate) fn add_raw(&mut self, home: Home<'_>, set: &str, raw: &[RawElement]) -> Result<(), Error> {
        for chunk in raw.chunks(ELEMENTS_PER_MESSAGE) {
            let (kind, flags) = (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE);
            self.element_message(home, set, "add elements to", kind, flags, chunk)?;
        }
        Ok(())
    }

    /// Takes elements out of a set by their keys; the transaction fails if one is not there.
    pub(crate) fn remove_elements(
        &mut self,
        home: Home<'_>,
        key: KeyType,
        set: &str,
        elements: &[Element],
    ) -> Result<(), Error> {
        let mut raw = raw_elements(elements, key);
        raw.iter_mut().for_each(|element| (element.timeout_ms, element.data) = (None, None));
        self.remove_raw(home, set, &raw)
    }

    /// The same by keys in the kernel's form, which are to stand alone.
    pub(crate) fn remove_raw(&mut self, home: Home<'_>, set: &str, raw: &[RawElement]) -> Result<(), Error> {
        for chunk in raw.chunks(ELEMENTS_PER_MESSAGE) {
            let kind = libc::NFT_MSG_DELSETELEM;
            self.element_message(home, set, "remove elements from", kind, 0, chunk)?;
        }
        Ok(())
    }

    fn element_message(
        &mut self,
        home: Home<'_>,
        set: &str,
        verb: &str,
        kind: i32,
        flags: i32,
        elements: &[RawElement],
    ) -> Result<(), Error> {
        let object = object::elements(home, set, elements)?;
        let what = format!("{verb} set {} {} {set}", home.family.name(), home.table);
        self.message(Object::Elements, what, kind, home, flags, |header| {
            // SAFETY: as above; a chunk of elements stays below the largest attribute.
            unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, object.as_ptr()) }
        });
        Ok(())
    }

    /// Whether there is nothing to be done.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.len() <= 1
    }

    /// Ends the transaction: the bytes to send.
    ///
    /// Only the last change asks for an acknowledgement: one for each would overflow the receive buffer at
    /// some 400 messages. Refusals come without being asked for.
    pub(crate) fn finish(mut self) -> Finished {
        if self.steps.len() > 1 {
            set_flag(&mut self.buffer[self.last..], libc::NLM_F_ACK);
        }
        let acknowledged = self.next_sequence().wrapping_sub(1);
        self.frame("end the nf_tables transaction", sys::nftnl_batch_end);
        Finished { buffer: self.buffer, steps: self.steps, first_sequence: self.first_sequence, acknowledged }
    }

    fn next_sequence(&self) -> u32 {
        self.first_sequence.wrapping_add(self.steps.len() as u32)
    }

    fn frame(&mut self, what: &str, write: unsafe extern "C" fn(*mut c_char, u32) -> *mut libc::nlmsghdr) {
        let sequence = self.next_sequence();
        // SAFETY: the scratch space has room for any message; these are two dozen bytes.
        unsafe { write(self.scratch.start(), sequence) };
        self.keep(Object::Batch, what.into());
    }

    fn message(
        &mut self,
        object: Object,
        what: String,
        kind: i32,
        home: Home<'_>,
        flags: i32,
        fill: impl FnOnce(*mut libc::nlmsghdr),
    ) {
        let sequence = self.next_sequence();
        fill(self.scratch.header(kind, home.family_number(), flags, sequence));
        self.keep(object, what);
    }

    fn keep(&mut self, object: Object, what: String) {
        self.last = self.buffer.len();
        self.buffer.extend_from_slice(self.scratch.message());
        self.steps.push((object, what));
    }
}

/// A transaction that is ready to be sent.
pub(crate) struct Finished {
    pub buffer: Vec<u8>,
    /// Sequence number of the change that is acknowledged when all went well.
    pub acknowledged: u32,
    first_sequence: u32,
    steps: Vec<(Object, String)>,
}

impl Finished {
    /// Sequence numbers in use.
    pub(crate) fn sequences(&self) -> Range<u32> {
        self.first_sequence..self.first_sequence.wrapping_add(self.steps.len() as u32)
    }

    /// The error for a refusal of the message with that number.
    pub(crate) fn refused(&self, sequence: u32, errno: Errno) -> Error {
        let n = sequence.wrapping_sub(self.first_sequence) as usize;
        let (object, what) = self.steps.get(n).cloned().unwrap_or((Object::Batch, "commit".into()));
        refused(object, what, errno)
    }
}

/// Room for one message, aligned for its header.
pub(crate) struct Scratch(Vec<u32>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(vec![0; nftnl::nft_nlmsg_maxsize() as usize / size_of::<u32>() + 1])
    }

    fn start(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    /// Begins a message about an nf_tables object; what is filled in goes behind the returned header.
    pub(crate) fn header(
        &mut self,
        kind: i32,
        family: u16,
        flags: i32,
        sequence: u32,
    ) -> *mut libc::nlmsghdr {
        // SAFETY: there is room for the largest message, aligned for its header.
        unsafe { sys::nftnl_nlmsg_build_hdr(self.start(), kind as u16, family, flags as u16, sequence) }
    }

    /// The message as it stands, padded to a multiple of four.
    pub(crate) fn message(&self) -> &[u8] {
        // A message begins with its own length.
        let words = (self.0[0] as usize).div_ceil(size_of::<u32>()).min(self.0.len());
        let words = &self.0[..words];
        // SAFETY: numbers may be looked at as the bytes they consist of.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
    }
}

fn set_flag(message: &mut [u8], flag: i32) {
    // struct nlmsghdr: length 4, type 2, flags 2.
    if let Some(bytes) = message.get_mut(6..8) {
        let flags = u16::from_ne_bytes([bytes[0], bytes[1]]) | flag as u16;
        bytes.copy_from_slice(&flags.to_ne_bytes());
    }
}

/// Elements as the kernel wants them.
pub(crate) fn raw_elements(elements: &[Element], key: KeyType) -> Vec<RawElement> {
    let raw = |element: &Element| RawElement {
        key: raw_key(&element.key, key),
        timeout_ms: element.timeout.map(|t| t.as_millis() as u64),
        data: element.data.clone(),
    };
    elements.iter().map(raw).collect()
}

/// A part of a key, in as many registers as it needs.
fn filled_up(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A key as the kernel compares it.
pub(crate) fn raw_key(key: &Key, kind: KeyType) -> Vec<u8> {
    let bytes = match key {
        Key::Ipv4(a) => a.octets().to_vec(),
        Key::Ipv6(a) => a.octets().to_vec(),
        Key::UnixNs(ns) => ns.to_ne_bytes().to_vec(),
        Key::DeviceIndex(index) => index.to_ne_bytes().to_vec(),
        Key::Slice(n) => n.to_ne_bytes().to_vec(),
        Key::Named(n, _) => vec![*n],
        Key::Raw(bytes) => bytes.clone(),
        Key::RawPair(a, b) => [filled_up(a), filled_up(b)].concat(),
        Key::ProtocolPort(protocol, port) => {
            [filled_up(&[protocol.number()]), filled_up(&port.to_be_bytes())].concat()
        }
        Key::Ipv4Port(a, port) => [a.octets().to_vec(), filled_up(&port.to_be_bytes())].concat(),
        Key::Ipv6Port(a, port) => [a.octets().to_vec(), filled_up(&port.to_be_bytes())].concat(),
    };
    debug_assert_eq!(bytes.len(), kind.len() as usize, "{key:?} in a set of {kind:?}");
    bytes
}
