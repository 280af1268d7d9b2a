//! Writes in a thread of its own: a reader that does not read, as a pager that waits or a full disk's
//! journal, keeps nobody from hearing signals and from detaching.
//!
//! One piece is written at a time, and nothing is taken from the ring meanwhile. So what does not find
//! its way out fills the ring, where the kernel counts what it has no room for.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};
use tokio::sync::mpsc::{Receiver, channel};

/// A pipe takes so many bytes as a whole or not at all (`PIPE_BUF`): what is said to be written is.
const ATOMIC: usize = 4096;

/// Lines, packets or another kind of whole things, one after the other.
#[derive(Debug, Default)]
pub struct Piece {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Where in them each thing that counts ends.
    pub ends: Vec<usize>,
}

/// Writes pieces.
#[derive(Debug)]
pub struct Writer {
    to: SyncSender<Vec<u8>>,
    done: Receiver<(Vec<u8>, io::Result<()>)>,
    /// Where things end in what is being written; `None`: nothing is.
    ends: Option<Vec<usize>>,
    /// How much of it is written.
    written: Arc<AtomicUsize>,
    printed: u64,
    /// Of pieces that could not be written.
    failed: u64,
    /// The last piece's room.
    room: Vec<u8>,
}

impl Writer {
    /// To this file.
    pub fn new(mut file: impl Write + Send + 'static) -> io::Result<Self> {
        let (to, pieces) = mpsc::sync_channel::<Vec<u8>>(1);
        let (sender, done) = channel(1);
        let written = Arc::new(AtomicUsize::new(0));
        let progress = written.clone();
        thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            for bytes in pieces {
                let result = write(&mut file, &bytes, &progress);
                if sender.blocking_send((bytes, result)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { to, done, ends: None, written, printed: 0, failed: 0, room: vec![] })
    }

    /// Whether a piece is being written.
    pub fn busy(&self) -> bool {
        self.ends.is_some()
    }

    /// An empty piece.
    pub fn piece(&mut self) -> Piece {
        Piece { bytes: std::mem::take(&mut self.room), ends: vec![] }
    }

    /// Has it written. To be called when nothing is being written.
    pub fn write(&mut self, piece: Piece) -> io::Result<()> {
        if piece.bytes.is_empty() {
            self.room = piece.bytes;
            return Ok(());
        }
        self.written.store(0, Ordering::Relaxed);
        let gone = |_| io::Error::other("the thread that writes is gone");
        self.to.try_send(piece.bytes).map_err(gone)?;
        self.ends = Some(piece.ends);
        Ok(())
    }

    /// Until what was handed over is written; for ever, if nothing was. Nothing is lost if it is not
    /// waited for to the end.
    pub async fn written(&mut self) -> io::Result<()> {
        if !self.busy() {
            return std::future::pending().await;
        }
        let (mut bytes, result) =
            self.done.recv().await.ok_or_else(|| io::Error::other("the thread panicked"))?;
        (self.printed, self.failed) = (self.printed(), self.waiting());
        self.ends = None;
        bytes.clear();
        self.room = bytes;
        result
    }

    /// Bytes of the piece that are written, to see whether it goes on.
    pub fn progress(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    /// Things that were written to their end.
    pub fn printed(&self) -> u64 {
        self.printed + self.out()
    }

    /// Things that were handed over and are not written, or could not be.
    pub fn waiting(&self) -> u64 {
        self.failed + self.ends.as_ref().map_or(0, |ends| ends.len() as u64 - self.out())
    }

    /// Of the piece that is being written.
    fn out(&self) -> u64 {
        let written = self.progress();
        let whole = |ends: &Vec<usize>| ends.partition_point(|end| *end <= written) as u64;
        self.ends.as_ref().map_or(0, whole)
    }
}

/// All of it; `written` tells how much already.
fn write(file: &mut impl Write, bytes: &[u8], written: &AtomicUsize) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match file.write(&bytes[at..bytes.len().min(at + ATOMIC)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        written.store(at, Ordering::Relaxed);
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn piece(lines: &[&str]) -> Piece {
        let mut piece = Piece::default();
        for line in lines {
            piece.bytes.extend(line.as_bytes());
            piece.ends.push(piece.bytes.len());
        }
        piece
    }

    #[tokio::test]
    async fn what_is_written_is_counted() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut writer = Writer::new(pipe).unwrap();
        for lines in [&["a\n", "bc\n"][..], &[], &["d\n"]] {
            writer.write(piece(lines)).unwrap();
            if writer.busy() {
                writer.written().await.unwrap();
            }
        }
        assert_eq!((writer.printed(), writer.waiting(), writer.busy()), (3, 0, false));
        drop(writer);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "a\nbc\nd\n");
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_blocks_nobody() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut writer = Writer::new(pipe).unwrap();
        // More than a pipe holds, in lines of 1000 bytes.
        let line = "x".repeat(999) + "\n";
        writer.write(piece(&vec![&*line; 1000])).unwrap();
        assert!(writer.busy());
        assert_eq!(writer.printed() + writer.waiting(), 1000);
        let mut some = vec![0; 300_000];
        reader.read_exact(&mut some).unwrap();
        assert!(writer.waiting() > 0 && writer.busy());
        let rest = thread::spawn(move || {
            let mut rest = vec![];
            reader.read_to_end(&mut rest).unwrap();
            rest.len()
        });
        writer.written().await.unwrap();
        assert_eq!((writer.printed(), writer.waiting()), (1000, 0));
        drop(writer);
        assert_eq!(rest.join().unwrap(), 700_000);
    }

    #[tokio::test]
    async fn nobody_reads_any_more() {
        let (reader, pipe) = io::pipe().unwrap();
        let mut writer = Writer::new(pipe).unwrap();
        drop(reader);
        writer.write(piece(&["a\n"])).unwrap();
        let error = writer.written().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!((writer.printed(), writer.waiting(), writer.busy()), (0, 1, false));
    }
}
