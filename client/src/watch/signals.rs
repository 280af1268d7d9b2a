//! The signals that mean something to a run.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals, heard from when this is made.
pub(super) struct Signals {
    /// To tell how it stands.
    pub(super) tell: Signal,
    /// To end.
    pub(super) end: End,
}

/// Those that say to end.
pub(super) struct End {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

/// One of them came.
pub(super) struct Ended;

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let end = End {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        Ok(Self { tell: signal(SignalKind::user_defined1())?, end })
    }
}

impl End {
    /// Until one comes.
    pub(super) async fn heard(&mut self) -> Ended {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
        Ended
    }
}
