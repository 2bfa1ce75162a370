//! Everything that a core was told, in a file: a run that can be told again.
//!
//! A recording is a row of entries, each `length (4, little endian) | postcard`. Every start of an agent
//! begins with a header; a file may hold several runs. What a crash cut off at the end is left out.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use crate::gossip::BODY_MAX;
use onemac_core::node::{self, Input, Node};
use onemac_core::time::Time;
use serde::{Deserialize, Serialize};

/// An entry that claims to be longer is not one of ours: nothing is larger than a report.
const ENTRY_MAX: u32 = 2 * BODY_MAX as u32;

/// How an agent began: all that [`Node`] is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// What it knew.
    pub with: node::Start,
    /// When it began.
    pub at: Time,
}

impl Start {
    /// The node as it was when it began.
    pub fn node(&self) -> Node {
        Node::start(self.with.clone(), self.at)
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// An agent has started.
    Start(Box<Start>),
    /// Its core was told this at this time.
    Told(Time, Input),
}

/// How many entries may wait for the disk: some seconds of a large cluster.
const QUEUE: usize = 4096;

/// Writes a recording, from a thread of its own: the loop does not wait for a disk. A failure ends the recording, not
/// the agent, and so does a disk that cannot keep up: after a gap nothing could be replayed.
pub struct Recorder {
    entries: Option<SyncSender<Entry>>,
    /// Says why writing has ended; nothing, if it was told to.
    ended: Receiver<io::Error>,
    path: PathBuf,
}

impl Recorder {
    /// Does nothing.
    pub fn off() -> Self {
        Recorder { entries: None, ended: mpsc::channel().1, path: PathBuf::new() }
    }

    /// Appends to `path`, which only its owner may read: it holds what the cluster says to itself.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Self::to(file, path)
    }

    fn to(file: impl Write + Send + 'static, path: &Path) -> io::Result<Self> {
        let (entries, queue) = mpsc::sync_channel(QUEUE);
        let (failed, ended) = mpsc::channel();
        thread::Builder::new().name("recorder".into()).spawn(move || {
            if let Err(error) = write_all(file, &queue) {
                let _ = failed.send(error);
            }
        })?;
        Ok(Recorder { entries: Some(entries), ended, path: path.into() })
    }

    /// Notes an entry; the reason, if that was the end of the recording.
    pub fn note(&mut self, entry: Entry) -> Result<(), String> {
        let Some(entries) = &self.entries else { return Ok(()) };
        let why = match entries.try_send(entry) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => "the disk does not keep up".into(),
            Err(TrySendError::Disconnected(_)) => self
                .ended
                .try_recv()
                .map_or_else(|_| "its thread has ended".into(), |error| error.to_string()),
        };
        self.entries = None;
        Err(format!("the recording to {} has ended: {why}", self.path.display()))
    }

    /// Notes what the core is told, if anybody listens.
    pub fn told(&mut self, now: Time, input: &Input) -> Result<(), String> {
        match self.entries {
            Some(_) => self.note(Entry::Told(now, input.clone())),
            None => Ok(()),
        }
    }

    /// Ends the recording. Waits until all is written, at most so long; whether nothing is being written any more.
    pub fn finish(&mut self, limit: Duration) -> bool {
        self.entries = None;
        // The thread drops its end when it has written all.
        !matches!(self.ended.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }
}

fn write_all(file: impl Write, entries: &Receiver<Entry>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    for entry in entries {
        // Ticks, of which there are several a second, also flush.
        let flush = !matches!(
            entry,
            Entry::Told(_, Input::Heard(_) | Input::Sent { .. } | Input::Frame | Input::Renewed { .. })
        );
        write(&mut file, &entry, flush)?;
    }
    file.flush()
}

fn write(file: &mut impl Write, entry: &Entry, flush: bool) -> io::Result<()> {
    let bytes = postcard::to_stdvec(entry).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    file.write_all(&len.to_le_bytes())?;
    file.write_all(&bytes)?;
    if flush { file.flush() } else { Ok(()) }
}

/// The entries of a recording, until its end or the first that cannot be read.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Entry>>> {
    let mut file = BufReader::new(File::open(path)?);
    Ok(std::iter::from_fn(move || next(&mut file).transpose()))
}

fn next(file: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes(len);
    if len > ENTRY_MAX {
        return Err(io::Error::other("this is not a recording of onemac"));
    }
    let mut bytes = vec![0; len as usize];
    match file.read_exact(&mut bytes) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let entry = postcard::from_bytes(&bytes);
    entry.map(Some).map_err(|_| io::Error::other("an entry is damaged, or of another version of onemac"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemac_core::node::{Follow, Partition};
    use onemac_core::time::Timing;
    use onemac_core::view::{Cluster, DefinitionId};
    use std::time::Duration;

    fn start() -> Start {
        let with = node::Start {
            host: "a".into(),
            mac: [2, 0, 0, 0, 0, 1],
            cluster: Cluster {
                name: "c".into(),
                definition: DefinitionId([3; 16]),
                slices: 16,
                hosts: [("a".into(), 1), ("b".into(), 1)].into(),
                services: vec!["default".into()],
            },
            timing: Timing { heartbeat: Duration::from_millis(100), lease: Duration::from_millis(800) },
            partition: Partition::Serve,
            follow: Follow { services: ["default".into()].into(), drain_timeout: Duration::from_secs(600) },
            incarnation: 7,
            leftover: Default::default(),
            lease_until: None,
            memory: None,
        };
        Start { with, at: Time::from_millis(5) }
    }

    #[test]
    fn what_is_written_is_read_up_to_a_torn_end() {
        let path = std::env::temp_dir().join(format!("onemac-record-{}", std::process::id()));
        let entries = [
            Entry::Start(Box::new(start())),
            Entry::Told(Time(6), Input::Tick),
            Entry::Told(Time(7), Input::Committed { change: 1, ok: true }),
            Entry::Told(Time(8), Input::Stranger { host: "b".into() }),
        ];
        for half in entries.chunks(2) {
            let mut recorder = Recorder::open(&path).unwrap();
            half.iter().for_each(|e| recorder.note(e.clone()).unwrap());
            assert!(recorder.finish(Duration::from_secs(10)));
        }
        let read_all = || read(&path).unwrap().collect::<io::Result<Vec<_>>>();
        assert_eq!(read_all().unwrap(), entries);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read_all().unwrap(), entries[..3]);
        std::fs::write(&path, b"something else altogether").unwrap();
        assert!(read_all().is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_disk_that_stalls_ends_the_recording_and_holds_nobody_up() {
        let (reader, mut stalled) = io::pipe().unwrap();
        // All but a page of what a pipe holds (64 KiB, pipe(7)), so that the queue does not fit into the rest.
        stalled.write_all(&[0; 60 * 1024]).unwrap();
        let path = std::env::temp_dir().join(format!("onemac-stalled-{}", std::process::id()));
        let mut recorder = Recorder::to(stalled, &path).unwrap();
        // More than that and the queue hold.
        let why = (0..100_000).find_map(|i| recorder.told(Time(i), &Input::Tick).err()).unwrap();
        assert!(why.contains("does not keep up"), "{why}");
        assert_eq!(recorder.told(Time(0), &Input::Tick), Ok(()), "told once");
        assert!(!recorder.finish(Duration::from_millis(1)), "still at it");
        drop(reader);
        assert!(recorder.finish(Duration::from_secs(10)));
    }

    #[test]
    fn a_recorded_life_decides_the_same_again() {
        let decide = |mut node: Node| {
            for ms in (5..3000).step_by(50) {
                node.handle(Time::from_millis(ms), Input::Tick);
                if ms == 55 {
                    node.handle(Time::from_millis(ms), Input::Committed { change: 1, ok: true });
                }
            }
            std::iter::from_fn(|| node.poll_action()).collect::<Vec<_>>()
        };
        let first = decide(start().node());
        assert!(first.len() > 10);
        assert_eq!(decide(start().node()), first);
    }
}
