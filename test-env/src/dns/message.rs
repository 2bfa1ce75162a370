//! The one question, and reading who answered it.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption, NSIDPayload};
use hickory_proto::rr::{Name, RecordType};

use crate::nameserver::ZONE;

/// The question, ready to send but for its number.
#[derive(Clone, Debug)]
pub(super) struct Question {
    bytes: Vec<u8>,
}

impl Question {
    /// TXT of the lab's zone with an empty NSID option, which asks the server for its name (RFC 5001).
    pub fn new() -> Result<Self> {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_str(ZONE)?, RecordType::TXT));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::NSID(NSIDPayload::new(Vec::new())?));
        message.set_edns(edns);
        Ok(Self { bytes: message.to_vec()? })
    }

    /// The message with this number.
    pub fn numbered(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }
}

/// Reads answers. Answers of one host differ only in their number, so each text is parsed once.
#[derive(Debug, Default)]
pub(super) struct Reader {
    known: HashMap<Vec<u8>, Arc<str>>,
}

impl Reader {
    /// The number of an answer and the name of the host that gave it.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(u16, Arc<str>)> {
        ensure!(bytes.len() > 12, "an answer of {} bytes", bytes.len());
        let (id, rest) = bytes.split_at(2);
        let id = u16::from_be_bytes([id[0], id[1]]);
        if let Some(who) = self.known.get(rest) {
            return Ok((id, Arc::clone(who)));
        }
        let who = parse(bytes)?;
        self.known.insert(rest.to_vec(), Arc::clone(&who));
        Ok((id, who))
    }
}

fn parse(bytes: &[u8]) -> Result<Arc<str>> {
    let message = Message::from_vec(bytes).context("not a DNS message")?;
    ensure!(message.metadata.message_type == MessageType::Response, "a query came back, not an answer");
    ensure!(
        message.metadata.response_code == ResponseCode::NoError,
        "answered {}",
        message.metadata.response_code
    );
    ensure!(message.answers.len() == 1, "{} records instead of one", message.answers.len());
    let edns = message.edns.as_ref().context("an answer without EDNS")?;
    match edns.option(EdnsCode::NSID) {
        Some(EdnsOption::NSID(name)) => Ok(String::from_utf8_lossy(name.as_ref()).into()),
        _ => anyhow::bail!("an answer that does not tell its server's name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_question_reads_back_with_its_number_and_an_nsid_request() {
        let bytes = Question::new().unwrap().numbered(0xbeef);
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.id, 0xbeef);
        assert_eq!(message.queries[0].query_type, RecordType::TXT);
        assert!(message.edns.unwrap().option(EdnsCode::NSID).is_some());
    }

    #[test]
    fn an_answer_tells_who_gave_it_also_the_second_time() {
        let mut message = Message::response(7, OpCode::Query);
        let name = Name::from_str(ZONE).unwrap();
        let text = hickory_proto::rr::rdata::TXT::new(vec!["served".to_owned()]);
        message.add_answer(hickory_proto::rr::Record::from_rdata(
            name,
            60,
            hickory_proto::rr::RData::TXT(text),
        ));
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::NSID(NSIDPayload::new(b"h3".to_vec()).unwrap()));
        message.set_edns(edns);
        let mut bytes = message.to_vec().unwrap();
        let mut reader = Reader::default();
        assert_eq!(reader.read(&bytes).unwrap(), (7, "h3".into()));
        bytes[1] = 9;
        assert_eq!(reader.read(&bytes).unwrap(), (9, "h3".into()));
    }

    #[test]
    fn the_question_itself_is_no_answer() {
        let bytes = Question::new().unwrap().numbered(1);
        assert!(Reader::default().read(&bytes).is_err());
    }
}
