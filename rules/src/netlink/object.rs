//! The kernel's objects as libnftnl holds them, made from our data. All calls that build them are here.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    ptr::NonNull,
};

use nftnl::nftnl_sys as sys;

use super::Error;
use crate::{
    bytecode::{Attribute, Bytecode},
    model::*,
};

/// A libnftnl object that is freed with us.
pub(crate) struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*const T),
}

impl<T> Owned<T> {
    /// Takes over what an allocator of libnftnl returned.
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*const T)) -> Self {
        // These allocations are a few hundred bytes: without them nothing can go on, as in std.
        let Some(pointer) = NonNull::new(pointer) else { std::process::abort() };
        Self { pointer, free }
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }

    /// Gives the object away: whoever got the pointer frees it.
    fn release(self) -> *mut T {
        let pointer = self.pointer.as_ptr();
        std::mem::forget(self);
        pointer
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the matching allocator and was not given away.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

pub(crate) fn empty_table() -> Owned<sys::nftnl_table> {
    // SAFETY: allocates, takes nothing.
    Owned::new(unsafe { sys::nftnl_table_alloc() }, sys::nftnl_table_free)
}

pub(crate) fn empty_chain() -> Owned<sys::nftnl_chain> {
    // SAFETY: as above.
    Owned::new(unsafe { sys::nftnl_chain_alloc() }, sys::nftnl_chain_free)
}

pub(crate) fn empty_rule() -> Owned<sys::nftnl_rule> {
    // SAFETY: as above.
    Owned::new(unsafe { sys::nftnl_rule_alloc() }, sys::nftnl_rule_free)
}

pub(crate) fn empty_set() -> Owned<sys::nftnl_set> {
    // SAFETY: as above.
    Owned::new(unsafe { sys::nftnl_set_alloc() }, sys::nftnl_set_free)
}

/// A string for the kernel.
pub(crate) fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::BadName { name: text.into() })
}

/// Where an object is: family and name of its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home<'a> {
    pub family: Family,
    pub table: &'a str,
}

impl<'a> From<&'a Table> for Home<'a> {
    fn from(table: &'a Table) -> Self {
        Self { family: table.family, table: &table.name }
    }
}

impl Home<'_> {
    pub(crate) fn family_number(self) -> u16 {
        match self.family {
            Family::Netdev => nftnl::ProtoFamily::NetDev as u16,
            Family::Inet => nftnl::ProtoFamily::Inet as u16,
            Family::Arp => nftnl::ProtoFamily::Arp as u16,
        }
    }
}

/// A table, with its comment if it is to be made.
pub(crate) fn table(home: Home<'_>, userdata: &[u8]) -> Result<Owned<sys::nftnl_table>, Error> {
    let name = c_string(home.table)?;
    let object = empty_table();
    // SAFETY: the object is valid; libnftnl copies name and user data.
    unsafe {
        sys::nftnl_table_set_u32(
            object.as_ptr(),
            sys::NFTNL_TABLE_FAMILY as u16,
            home.family_number().into(),
        );
        sys::nftnl_table_set_str(object.as_ptr(), sys::NFTNL_TABLE_NAME as u16, name.as_ptr());
        if !userdata.is_empty() {
            sys::nftnl_table_set_data(
                object.as_ptr(),
                sys::NFTNL_TABLE_USERDATA as u16,
                userdata.as_ptr().cast(),
                userdata.len() as u32,
            );
        }
    }
    Ok(object)
}

/// A chain as a request names it.
pub(crate) fn chain_named(home: Home<'_>, name: &str) -> Result<Owned<sys::nftnl_chain>, Error> {
    let (table, name) = (c_string(home.table)?, c_string(name)?);
    let object = empty_chain();
    let c = object.as_ptr();
    // SAFETY: the object is valid; libnftnl copies strings.
    unsafe {
        sys::nftnl_chain_set_u32(c, sys::NFTNL_CHAIN_FAMILY as u16, home.family_number().into());
        sys::nftnl_chain_set_str(c, sys::NFTNL_CHAIN_TABLE as u16, table.as_ptr());
        sys::nftnl_chain_set_str(c, sys::NFTNL_CHAIN_NAME as u16, name.as_ptr());
    }
    Ok(object)
}

/// A chain with its hook and comment.
pub(crate) fn chain(home: Home<'_>, chain: &Chain) -> Result<Owned<sys::nftnl_chain>, Error> {
    let device = chain.hook.as_ref().and_then(Hook::device).map(c_string).transpose()?;
    let userdata = chain.userdata();
    let object = chain_named(home, &chain.name)?;
    let c = object.as_ptr();
    // SAFETY: the object is valid; libnftnl copies strings and user data.
    unsafe {
        if let Some(hook) = &chain.hook {
            sys::nftnl_chain_set_str(c, sys::NFTNL_CHAIN_TYPE as u16, FILTER.as_ptr());
            sys::nftnl_chain_set_u32(c, sys::NFTNL_CHAIN_HOOKNUM as u16, hook.number());
            sys::nftnl_chain_set_s32(c, sys::NFTNL_CHAIN_PRIO as u16, hook.priority);
            sys::nftnl_chain_set_u32(c, sys::NFTNL_CHAIN_POLICY as u16, POLICY_ACCEPT);
        }
        if let Some(device) = &device {
            sys::nftnl_chain_set_str(c, sys::NFTNL_CHAIN_DEV as u16, device.as_ptr());
        }
        sys::nftnl_chain_set_data(
            c,
            sys::NFTNL_CHAIN_USERDATA as u16,
            userdata.as_ptr().cast(),
            userdata.len() as u32,
        );
    }
    Ok(object)
}

/// The type of all our base chains.
pub(crate) const FILTER: &CStr = c"filter";
/// And their policy.
pub(crate) const POLICY_ACCEPT: u32 = sys::libc::NF_ACCEPT as u32;

/// Table and chain of rules, as a request names them.
pub(crate) fn rules_of(home: Home<'_>, chain: Option<&str>) -> Result<Owned<sys::nftnl_rule>, Error> {
    let table = c_string(home.table)?;
    let chain = chain.map(c_string).transpose()?;
    let object = empty_rule();
    let r = object.as_ptr();
    // SAFETY: the object is valid; libnftnl copies strings.
    unsafe {
        sys::nftnl_rule_set_u32(r, sys::NFTNL_RULE_FAMILY as u16, home.family_number().into());
        sys::nftnl_rule_set_str(r, sys::NFTNL_RULE_TABLE as u16, table.as_ptr());
        if let Some(chain) = &chain {
            sys::nftnl_rule_set_str(r, sys::NFTNL_RULE_CHAIN as u16, chain.as_ptr());
        }
    }
    Ok(object)
}

/// A rule with its expressions and comment.
pub(crate) fn rule(home: Home<'_>, chain: &str, rule: &Rule) -> Result<Owned<sys::nftnl_rule>, Error> {
    let object = rules_of(home, Some(chain))?;
    let userdata = rule.userdata();
    for code in rule.bytecode(home.family) {
        let expression = expression(&code)?;
        // SAFETY: both are valid; the rule takes the expression over.
        unsafe { sys::nftnl_rule_add_expr(object.as_ptr(), expression.release()) };
    }
    if !userdata.is_empty() {
        // SAFETY: the object is valid; libnftnl copies the data.
        unsafe {
            sys::nftnl_rule_set_data(
                object.as_ptr(),
                sys::NFTNL_RULE_USERDATA as u16,
                userdata.as_ptr().cast(),
                userdata.len() as u32,
            );
        }
    }
    Ok(object)
}

/// One expression.
pub(crate) fn expression(code: &Bytecode) -> Result<Owned<sys::nftnl_expr>, Error> {
    // SAFETY: the name ends with a zero byte. An expression unknown to libnftnl yields null.
    let object = Owned::new(unsafe { sys::nftnl_expr_alloc(code.name.as_ptr()) }, sys::nftnl_expr_free);
    for (number, value) in &code.attributes {
        let number = *number as u16;
        // SAFETY: the expression is valid; libnftnl copies what it is given.
        unsafe {
            match value {
                Attribute::U8(value) => sys::nftnl_expr_set_u8(object.as_ptr(), number, *value),
                Attribute::U32(value) => sys::nftnl_expr_set_u32(object.as_ptr(), number, *value),
                Attribute::Bytes(bytes) => {
                    sys::nftnl_expr_set(
                        object.as_ptr(),
                        number,
                        bytes.as_ptr().cast::<c_void>(),
                        bytes.len() as u32,
                    );
                }
                Attribute::Text(text) => {
                    sys::nftnl_expr_set_str(object.as_ptr(), number, c_string(text)?.as_ptr());
                }
            }
        }
    }
    Ok(object)
}

/// The expression as libnftnl prints it, the form that `nft --debug=netlink` shows. Counters without their
/// values: those are not part of what was wanted.
///
/// # Safety
/// `expression` must point to a valid expression.
pub(crate) unsafe fn print(expression: *const sys::nftnl_expr) -> String {
    let mut buffer = [0u8; 1024];
    // SAFETY: the caller vouches for the expression; the buffer's length is passed, and the text is cut and
    // ended with a zero byte if it does not fit.
    let (name, text) = unsafe {
        let name = sys::nftnl_expr_get_str(expression, sys::NFTNL_EXPR_NAME as u16);
        sys::nftnl_expr_snprintf(
            buffer.as_mut_ptr().cast::<c_char>(),
            buffer.len(),
            expression,
            sys::NFTNL_OUTPUT_DEFAULT,
            0,
        );
        (CStr::from_ptr(name), CStr::from_bytes_until_nul(&buffer).unwrap_or_default())
    };
    if name == c"counter" {
        return "counter".into();
    }
    let mut words = vec![name.to_string_lossy().into_owned()];
    words.extend(text.to_string_lossy().split_whitespace().map(str::to_owned));
    let text = words.join(" ");
    // Kernels say so where nobody has asked for one.
    text.strip_suffix(" timeout 0ms").map(str::to_owned).unwrap_or(text)
}

/// A set as a request names it.
pub(crate) fn set_named(home: Home<'_>, name: &str) -> Result<Owned<sys::nftnl_set>, Error> {
    let object = sets_of(home)?;
    let name = c_string(name)?;
    // SAFETY: the object is valid; libnftnl copies the string.
    unsafe { sys::nftnl_set_set_str(object.as_ptr(), sys::NFTNL_SET_NAME as u16, name.as_ptr()) };
    Ok(object)
}

/// All sets of a table, as a request names them.
pub(crate) fn sets_of(home: Home<'_>) -> Result<Owned<sys::nftnl_set>, Error> {
    let table = c_string(home.table)?;
    let object = empty_set();
    // SAFETY: the object is valid; libnftnl copies the string.
    unsafe {
        sys::nftnl_set_set_u32(object.as_ptr(), sys::NFTNL_SET_FAMILY as u16, home.family_number().into());
        sys::nftnl_set_set_str(object.as_ptr(), sys::NFTNL_SET_TABLE as u16, table.as_ptr());
    }
    Ok(object)
}

/// A set without its elements. `id` must be unique in the transaction.
pub(crate) fn set(home: Home<'_>, set: &Set, id: u32) -> Result<Owned<sys::nftnl_set>, Error> {
    let object = set_named(home, &set.name)?;
    let userdata = set.userdata();
    let s = object.as_ptr();
    // SAFETY: the object is valid; libnftnl copies the data.
    unsafe {
        sys::nftnl_set_set_u32(s, sys::NFTNL_SET_ID as u16, id);
        sys::nftnl_set_set_u32(s, sys::NFTNL_SET_FLAGS as u16, set.flags());
        sys::nftnl_set_set_u32(s, sys::NFTNL_SET_KEY_TYPE as u16, set.key.number());
        sys::nftnl_set_set_u32(s, sys::NFTNL_SET_KEY_LEN as u16, set.key.len());
        if let Some(kind) = set.data {
            let (number, len) = kind.number_and_len();
            sys::nftnl_set_set_u32(s, sys::NFTNL_SET_DATA_TYPE as u16, number);
            sys::nftnl_set_set_u32(s, sys::NFTNL_SET_DATA_LEN as u16, len);
        }
        if let Timeout::All(after) = set.timeout {
            sys::nftnl_set_set_u64(s, sys::NFTNL_SET_TIMEOUT as u16, after.as_millis() as u64);
        }
        if let Some(size) = set.size {
            sys::nftnl_set_set_u32(s, sys::NFTNL_SET_DESC_SIZE as u16, size);
        }
        sys::nftnl_set_set_data(
            s,
            sys::NFTNL_SET_USERDATA as u16,
            userdata.as_ptr().cast(),
            userdata.len() as u32,
        );
    }
    Ok(object)
}

/// An element as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawElement {
    pub key: Vec<u8>,
    pub timeout_ms: Option<u64>,
    pub data: Option<Data>,
}

/// Elements to be added to or taken out of a set.
pub(crate) fn elements(
    home: Home<'_>,
    set: &str,
    elements: &[RawElement],
) -> Result<Owned<sys::nftnl_set>, Error> {
    let object = set_named(home, set)?;
    for element in elements {
        let verdict = match &element.data {
            Some(Data::Verdict(verdict)) => Some(verdict),
            _ => None,
        };
        let chain = verdict.and_then(Verdict::chain).map(c_string).transpose()?;
        // SAFETY: the element is valid once it is not null; the set takes it over; the rest is copied.
        unsafe {
            let Some(raw) = NonNull::new(sys::nftnl_set_elem_alloc()) else { std::process::abort() };
            sys::nftnl_set_elem_set(
                raw.as_ptr(),
                sys::NFTNL_SET_ELEM_KEY as u16,
                element.key.as_ptr().cast(),
                element.key.len() as u32,
            );
            if let Some(ms) = element.timeout_ms {
                sys::nftnl_set_elem_set_u64(raw.as_ptr(), sys::NFTNL_SET_ELEM_TIMEOUT as u16, ms);
            }
            if let Some(Data::Mac(mac)) = &element.data {
                sys::nftnl_set_elem_set(
                    raw.as_ptr(),
                    sys::NFTNL_SET_ELEM_DATA as u16,
                    mac.0.as_ptr().cast(),
                    mac.0.len() as u32,
                );
            }
            if let Some(verdict) = verdict {
                sys::nftnl_set_elem_set_u32(
                    raw.as_ptr(),
                    sys::NFTNL_SET_ELEM_VERDICT as u16,
                    verdict.number(),
                );
            }
            if let Some(chain) = &chain {
                sys::nftnl_set_elem_set_str(raw.as_ptr(), sys::NFTNL_SET_ELEM_CHAIN as u16, chain.as_ptr());
            }
            sys::nftnl_set_elem_add(object.as_ptr(), raw.as_ptr());
        }
    }
    Ok(object)
}
