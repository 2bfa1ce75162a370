//! What the kernel holds of our tables, read back into plain data.

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    slice,
};

use nftnl::nftnl_sys::{self as sys, libc};

use super::{
    Error,
    object::{self, Home},
    socket::Socket,
};

/// A table as it was found. Handles, counters' values and remaining times are left out: they are not wanted
/// to be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub userdata: Vec<u8>,
    pub sets: Vec<FoundSet>,
    /// In the kernel's order, which is the order in which they were made.
    pub chains: Vec<FoundChain>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundSet {
    pub name: String,
    pub flags: u32,
    pub key_type: u32,
    pub key_len: u32,
    /// In a map, the number of the type of its data.
    pub data_type: Option<u32>,
    /// Default of its elements, in milliseconds.
    pub timeout: Option<u64>,
    pub size: Option<u32>,
    pub userdata: Vec<u8>,
    pub elements: BTreeMap<Vec<u8>, FoundElement>,
}

/// What is kept with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundElement {
    /// How long it is going to live, if not for ever.
    pub left_ms: Option<u64>,
    /// In a map of verdicts: the number of this one, and the chain that it leads to.
    pub verdict: Option<(u32, String)>,
    /// In a map of other things: the bytes.
    pub data: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundChain {
    pub name: String,
    pub hook: Option<FoundHook>,
    pub userdata: Vec<u8>,
    pub rules: Vec<FoundRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundHook {
    pub kind: String,
    pub number: u32,
    pub device: String,
    pub priority: i32,
    pub policy: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundRule {
    /// Each expression as libnftnl prints it.
    pub code: Vec<String>,
    pub userdata: Vec<u8>,
}

const DUMP: i32 = libc::NLM_F_DUMP;

/// Reads one table with all that is in it; `None` if it is not there.
pub(super) fn table(socket: &mut Socket, home: Home<'_>) -> Result<Option<Found>, Error> {
    let Some(userdata) = table_userdata(socket, home)? else { return Ok(None) };
    let mut found = Found { userdata, sets: sets(socket, home)?, chains: chains(socket, home)? };
    for set in &mut found.sets {
        set.elements = elements(socket, home, &set.name)?;
    }
    let mut rules = rules(socket, home)?;
    for chain in &mut found.chains {
        chain.rules = rules.remove(&chain.name).unwrap_or_default();
    }
    Ok(Some(found))
}

/// The comment of the table, if there is such a table.
pub(super) fn table_userdata(socket: &mut Socket, home: Home<'_>) -> Result<Option<Vec<u8>>, Error> {
    let what = format!("read table {} {}", home.family.name(), home.table);
    let named = object::table(home, &[])?;
    let mut userdata = Vec::new();
    let there = socket.ask(
        &what,
        libc::NFT_MSG_GETTABLE,
        home,
        0,
        // SAFETY: header and object are valid, and the buffer has room for any message.
        |header| unsafe { sys::nftnl_table_nlmsg_build_payload(header, named.as_ptr()) },
        &mut |message| {
            let object = object::empty_table();
            // SAFETY: the message is whole and the object valid; the data is copied before either goes.
            unsafe {
                if sys::nftnl_table_nlmsg_parse(message, object.as_ptr()) < 0 {
                    return false;
                }
                let mut len = 0;
                let data =
                    sys::nftnl_table_get_data(object.as_ptr(), sys::NFTNL_TABLE_USERDATA as u16, &mut len);
                userdata = bytes(data.cast(), len);
            }
            true
        },
    )?;
    Ok(there.then_some(userdata))
}

/// The sets of a table, without their elements.
pub(super) fn sets(socket: &mut Socket, home: Home<'_>) -> Result<Vec<FoundSet>, Error> {
    let what = format!("list the sets of table {} {}", home.family.name(), home.table);
    let named = object::sets_of(home)?;
    let mut found = Vec::new();
    socket.ask(
        &what,
        libc::NFT_MSG_GETSET,
        home,
        DUMP,
        // SAFETY: header and object are valid, and the buffer has room for any message.
        |header| unsafe { sys::nftnl_set_nlmsg_build_payload(header, named.as_ptr()) },
        &mut |message| {
            let object = object::empty_set();
            let s = object.as_ptr();
            // SAFETY: the message is whole and the object valid; data is copied before either goes.
            unsafe {
                if sys::nftnl_set_nlmsg_parse(message, s) < 0 {
                    return false;
                }
                let mut len = 0;
                let data = sys::nftnl_set_get_data(s, sys::NFTNL_SET_USERDATA as u16, &mut len);
                found.push(FoundSet {
                    name: text(sys::nftnl_set_get_str(s, sys::NFTNL_SET_NAME as u16)),
                    flags: sys::nftnl_set_get_u32(s, sys::NFTNL_SET_FLAGS as u16),
                    key_type: sys::nftnl_set_get_u32(s, sys::NFTNL_SET_KEY_TYPE as u16),
                    key_len: sys::nftnl_set_get_u32(s, sys::NFTNL_SET_KEY_LEN as u16),
                    data_type: sys::nftnl_set_is_set(s, sys::NFTNL_SET_DATA_TYPE as u16)
                        .then(|| sys::nftnl_set_get_u32(s, sys::NFTNL_SET_DATA_TYPE as u16)),
                    timeout: sys::nftnl_set_is_set(s, sys::NFTNL_SET_TIMEOUT as u16)
                        .then(|| sys::nftnl_set_get_u64(s, sys::NFTNL_SET_TIMEOUT as u16)),
                    size: sys::nftnl_set_is_set(s, sys::NFTNL_SET_DESC_SIZE as u16)
                        .then(|| sys::nftnl_set_get_u32(s, sys::NFTNL_SET_DESC_SIZE as u16)),
                    userdata: bytes(data.cast(), len),
                    elements: BTreeMap::new(),
                });
            }
            true
        },
    )?;
    Ok(found)
}

/// The elements of a set by their keys.
pub(super) fn elements(
    socket: &mut Socket,
    home: Home<'_>,
    set: &str,
) -> Result<BTreeMap<Vec<u8>, FoundElement>, Error> {
    let what = format!("list the elements of set {} {} {set}", home.family.name(), home.table);
    let named = object::set_named(home, set)?;
    let mut found = BTreeMap::new();
    socket.ask(
        &what,
        libc::NFT_MSG_GETSETELEM,
        home,
        DUMP,
        // SAFETY: header and object are valid, and the buffer has room for any message.
        |header| unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, named.as_ptr()) },
        &mut |message| {
            let object = object::empty_set();
            // SAFETY: the message is whole and the object valid.
            unsafe {
                if sys::nftnl_set_elems_nlmsg_parse(message, object.as_ptr()) < 0 {
                    return false;
                }
                let iterator = sys::nftnl_set_elems_iter_create(object.as_ptr());
                if iterator.is_null() {
                    return false;
                }
                loop {
                    let element = sys::nftnl_set_elems_iter_next(iterator);
                    if element.is_null() {
                        break;
                    }
                    let mut len = 0;
                    let key = sys::nftnl_set_elem_get(element, sys::NFTNL_SET_ELEM_KEY as u16, &mut len);
                    let key = bytes(key.cast(), len);
                    let expires = sys::NFTNL_SET_ELEM_EXPIRATION as u16;
                    let left_ms = sys::nftnl_set_elem_is_set(element, expires)
                        .then(|| sys::nftnl_set_elem_get_u64(element, expires));
                    let number = sys::NFTNL_SET_ELEM_VERDICT as u16;
                    let chain = sys::NFTNL_SET_ELEM_CHAIN as u16;
                    let verdict = sys::nftnl_set_elem_is_set(element, number).then(|| {
                        let number = sys::nftnl_set_elem_get_u32(element, number);
                        let chain = if sys::nftnl_set_elem_is_set(element, chain) {
                            text(sys::nftnl_set_elem_get_str(element, chain))
                        } else {
                            String::new()
                        };
                        (number, chain)
                    });
                    let data = sys::NFTNL_SET_ELEM_DATA as u16;
                    let data = sys::nftnl_set_elem_is_set(element, data).then(|| {
                        let pointer = sys::nftnl_set_elem_get(element, data, &mut len);
                        bytes(pointer.cast(), len)
                    });
                    found.insert(key, FoundElement { left_ms, verdict, data });
                }
                sys::nftnl_set_elems_iter_destroy(iterator);
            }
            true
        },
    )?;
    Ok(found)
}

fn chains(socket: &mut Socket, home: Home<'_>) -> Result<Vec<FoundChain>, Error> {
    let what = format!("list the chains of table {} {}", home.family.name(), home.table);
    let mut found = Vec::new();
    // The kernel lists the chains of all tables of the family: others' are left out here.
    let mut each = |message: *const libc::nlmsghdr| {
        let object = object::empty_chain();
        let c = object.as_ptr();
        // SAFETY: the message is whole and the object valid; strings and data are copied before either goes.
        unsafe {
            if sys::nftnl_chain_nlmsg_parse(message, c) < 0 {
                return false;
            }
            if text(sys::nftnl_chain_get_str(c, sys::NFTNL_CHAIN_TABLE as u16)) != home.table {
                return true;
            }
            let mut len = 0;
            let data = sys::nftnl_chain_get_data(c, sys::NFTNL_CHAIN_USERDATA as u16, &mut len);
            let hook = sys::nftnl_chain_is_set(c, sys::NFTNL_CHAIN_HOOKNUM as u16).then(|| FoundHook {
                kind: text(sys::nftnl_chain_get_str(c, sys::NFTNL_CHAIN_TYPE as u16)),
                number: sys::nftnl_chain_get_u32(c, sys::NFTNL_CHAIN_HOOKNUM as u16),
                device: devices(c),
                priority: sys::nftnl_chain_get_s32(c, sys::NFTNL_CHAIN_PRIO as u16),
                policy: sys::nftnl_chain_get_u32(c, sys::NFTNL_CHAIN_POLICY as u16),
            });
            found.push(FoundChain {
                name: text(sys::nftnl_chain_get_str(c, sys::NFTNL_CHAIN_NAME as u16)),
                hook,
                userdata: bytes(data.cast(), len),
                rules: Vec::new(),
            });
        }
        true
    };
    socket.ask(&what, libc::NFT_MSG_GETCHAIN, home, DUMP, |_| {}, &mut each)?;
    Ok(found)
}

/// The device of a base chain, or all of them if there are several.
///
/// # Safety
/// `chain` must be valid.
unsafe fn devices(chain: *const sys::nftnl_chain) -> String {
    // SAFETY: the chain is valid; the list of devices ends with a null pointer.
    unsafe {
        if sys::nftnl_chain_is_set(chain, sys::NFTNL_CHAIN_DEV as u16) {
            return text(sys::nftnl_chain_get_str(chain, sys::NFTNL_CHAIN_DEV as u16));
        }
        if !sys::nftnl_chain_is_set(chain, sys::NFTNL_CHAIN_DEVICES as u16) {
            return String::new();
        }
        let mut names = Vec::new();
        let mut next = sys::nftnl_chain_get_array(chain, sys::NFTNL_CHAIN_DEVICES as u16);
        while !next.is_null() && !(*next).is_null() {
            names.push(text(*next));
            next = next.add(1);
        }
        names.join(", ")
    }
}

/// The rules of a table by chain, in order.
fn rules(socket: &mut Socket, home: Home<'_>) -> Result<BTreeMap<String, Vec<FoundRule>>, Error> {
    let what = format!("list the rules of table {} {}", home.family.name(), home.table);
    let named = object::rules_of(home, None)?;
    let mut found: BTreeMap<String, Vec<FoundRule>> = BTreeMap::new();
    socket.ask(
        &what,
        libc::NFT_MSG_GETRULE,
        home,
        DUMP,
        // SAFETY: header and object are valid, and the buffer has room for any message.
        |header| unsafe { sys::nftnl_rule_nlmsg_build_payload(header, named.as_ptr()) },
        &mut |message| {
            let object = object::empty_rule();
            // SAFETY: the message is whole and the object valid; strings and data are copied before either
            // goes; the iterator is freed here.
            unsafe {
                if sys::nftnl_rule_nlmsg_parse(message, object.as_ptr()) < 0 {
                    return false;
                }
                let mut len = 0;
                let data =
                    sys::nftnl_rule_get_data(object.as_ptr(), sys::NFTNL_RULE_USERDATA as u16, &mut len);
                let mut rule = FoundRule { code: Vec::new(), userdata: bytes(data.cast(), len) };
                let iterator = sys::nftnl_expr_iter_create(object.as_ptr());
                if iterator.is_null() {
                    return false;
                }
                loop {
                    let expression = sys::nftnl_expr_iter_next(iterator);
                    if expression.is_null() {
                        break;
                    }
                    rule.code.push(object::print(expression));
                }
                sys::nftnl_expr_iter_destroy(iterator);
                let chain = text(sys::nftnl_rule_get_str(object.as_ptr(), sys::NFTNL_RULE_CHAIN as u16));
                found.entry(chain).or_default().push(rule);
            }
            true
        },
    )?;
    Ok(found)
}

/// The first eight bytes that a rule of the chain compares something with.
pub(super) fn compared(socket: &mut Socket, home: Home<'_>, chain: &str) -> Result<Option<[u8; 8]>, Error> {
    let what = format!("list the rules of chain {} {} {chain}", home.family.name(), home.table);
    let named = object::rules_of(home, Some(chain))?;
    let mut found = None;
    socket.ask(
        &what,
        libc::NFT_MSG_GETRULE,
        home,
        DUMP,
        // SAFETY: header and object are valid, and the buffer has room for any message.
        |header| unsafe { sys::nftnl_rule_nlmsg_build_payload(header, named.as_ptr()) },
        &mut |message| {
            let object = object::empty_rule();
            // SAFETY: the message is whole and the object valid; data is copied before either goes; the
            // iterator is freed here.
            unsafe {
                if sys::nftnl_rule_nlmsg_parse(message, object.as_ptr()) < 0 {
                    return false;
                }
                let iterator = sys::nftnl_expr_iter_create(object.as_ptr());
                if iterator.is_null() {
                    return false;
                }
                loop {
                    let expression = sys::nftnl_expr_iter_next(iterator);
                    if expression.is_null() {
                        break;
                    }
                    if text(sys::nftnl_expr_get_str(expression, sys::NFTNL_EXPR_NAME as u16)) != "cmp" {
                        continue;
                    }
                    let mut len = 0;
                    let data = sys::nftnl_expr_get(expression, sys::NFTNL_EXPR_CMP_DATA as u16, &mut len);
                    found = found.or(bytes(data.cast(), len).try_into().ok());
                }
                sys::nftnl_expr_iter_destroy(iterator);
            }
            true
        },
    )?;
    Ok(found)
}

/// Address and port, of a key that consists of both and is as long as it must be for one IP version.
pub(super) fn client(key: &[u8]) -> Option<(IpAddr, u16)> {
    // The port stands in the first half of its register.
    let (address, [high, low, _, _]) = key.split_last_chunk()?;
    let v4 = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into());
    let v6 = || Some(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into());
    Some((v4().or_else(v6)?, u16::from_be_bytes([*high, *low])))
}

/// How many transactions the network namespace has seen.
pub(super) fn generation(socket: &mut Socket) -> Result<u32, Error> {
    let mut generation = None;
    let home = Home { family: crate::model::Family::Netdev, table: "" };
    socket.ask(
        "read the generation of the rulesets",
        libc::NFT_MSG_GETGEN,
        home,
        0,
        |_| {},
        &mut |message| {
            // SAFETY: the message is whole; the object is freed here.
            unsafe {
                let object = sys::nftnl_gen_alloc();
                if object.is_null() {
                    return false;
                }
                let parsed = sys::nftnl_gen_nlmsg_parse(message, object) >= 0;
                if parsed {
                    generation = Some(sys::nftnl_gen_get_u32(object, sys::NFTNL_GEN_ID as u16));
                }
                sys::nftnl_gen_free(object);
                parsed
            }
        },
    )?;
    generation.ok_or_else(|| Error::Unreadable { what: "read the generation of the rulesets".into() })
}

/// # Safety
/// `pointer` must be null or point to a string that ends with a zero byte.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// # Safety
/// `pointer` must be null or point to `len` bytes.
unsafe fn bytes(pointer: *const u8, len: u32) -> Vec<u8> {
    if pointer.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { slice::from_raw_parts(pointer, len as usize) }.to_vec()
}
