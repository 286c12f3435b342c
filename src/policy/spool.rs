//! The spool's format: records of events that could not be committed in time, one behind the other in a file.
//!
//! A record is a mark, the payload's length, the payload's checksum and the payload (JSON). A server that is killed leaves
//! at most a torn tail behind; whatever else is damaged costs the records that it hit and no others, because reading goes
//! on at the next mark.

use serde::{Deserialize, Serialize};

use super::events::Event;

/// What a record begins with. No byte of it can be part of UTF-8, hence of a payload.
const MARK: [u8; 4] = [0xFF, 0xF5, 0xFE, 0xF8];

/// Mark, length and checksum.
const HEADER: usize = MARK.len() + 4 + 4;

/// A transaction of a worker, in which events may have been committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// When the shared memory was laid out that the worker served, in microseconds since 2000-01-01 UTC.
    pub origin: i64,
    /// The worker, counted since then.
    pub drain: i64,
    /// The transaction, counted by the worker.
    pub number: i64,
}

/// An event on its way into the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// How often; the event is a sample of them.
    pub occurrences: i64,
    /// When it happened last, in microseconds since 2000-01-01 UTC.
    pub last_at: i64,
    /// The transaction that may have committed it already.
    pub doubt: Option<Batch>,
}

impl Record {
    /// The record as a spool holds it.
    ///
    /// # Errors
    /// When it can't be written as JSON, which no event meets.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let payload = serde_json::to_vec(self)?;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&MARK);
        // An event is cut to a few thousand bytes before it gets here.
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }
}

/// What a spool file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The records that can be read, in the order in which they were written.
    pub records: Vec<Record>,
    /// How many bytes belong to no such record.
    pub damaged: usize,
    /// In how many places they are, the end of the file included: so many records at least are lost.
    pub damages: usize,
}

/// Reads a spool file, whatever its state.
pub fn decode(mut bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    let mut sound = true;
    while !bytes.is_empty() {
        let taken = match first(bytes) {
            Some((record, length)) => {
                contents.records.push(record);
                sound = true;
                length
            }
            None => {
                contents.damages += usize::from(sound);
                sound = false;
                let next = bytes.get(1..).and_then(|rest| rest.windows(MARK.len()).position(|w| w == MARK));
                let skipped = next.map_or(bytes.len(), |n| n + 1);
                contents.damaged += skipped;
                skipped
            }
        };
        bytes = bytes.get(taken..).unwrap_or(&[]);
    }
    contents
}

/// The record at the front, and how long it is.
fn first(bytes: &[u8]) -> Option<(Record, usize)> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, HEADER + payload.len()))
}

#[cfg(test)]
mod tests {
    use super::super::events::{Origin, Outcome};
    use super::super::rules::Attempt;
    use super::*;

    fn record(n: i64) -> Record {
        let attempt = Attempt {
            backend: Some("rebuilt".into()),
            command: "UPDATE".into(),
            table: None,
            tenant: Some(format!("é{n}")),
            owner: None,
            classified: None,
        };
        let event = Event {
            outcome: Outcome::Refused,
            ..Event::in_break_glass(&attempt, "no".repeat(n as usize), n, Origin::default())
        };
        Record { event, occurrences: n, last_at: n, doubt: Some(Batch { origin: n, drain: 1, number: 2 }) }
    }

    fn file(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|r| r.encode().unwrap_or_default()).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let records: Vec<Record> = (1..20).map(record).collect();
        assert_eq!(decode(&file(&records)), Contents { records, damaged: 0, damages: 0 });
        assert_eq!(decode(&[]), Contents::default());
    }

    #[test]
    fn a_torn_tail_costs_the_last_record_alone() {
        let records: Vec<Record> = (1..4).map(record).collect();
        let whole = file(&records);
        let last = records[2].encode().map_or(0, |b| b.len());
        for cut in 1..last {
            let contents = decode(&whole[..whole.len() - cut]);
            assert_eq!(contents.records, records[..2]);
            assert_eq!((contents.damaged, contents.damages), (last - cut, 1), "{cut} bytes missing");
        }
    }

    #[test]
    fn damage_costs_no_other_record() {
        let records: Vec<Record> = (1..6).map(record).collect();
        let whole = file(&records);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let contents = decode(&damaged);
            assert_eq!(contents.records.len(), 4, "byte {at}");
            assert_eq!(contents.damages, 1, "byte {at}");
        }
        let mut garbage = b"rubbish".to_vec();
        garbage.extend_from_slice(&whole);
        assert_eq!(decode(&garbage).records, records);
    }
}
