//! What a download tells about itself, so that a command line can draw bars. The types see to it
//! that every download ends exactly once.

use super::{Download, FetchError};

/// How a download ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Over the network.
    Fetched,
    /// It was in the cache.
    Cached,
    /// The error was returned.
    Failed,
    /// Nobody waits for it any more.
    Cancelled,
}

/// Is told of every download that begins.
pub trait DownloadReporter: Send + Sync {
    /// A download begins.
    fn start(&self, download: &Download) -> Box<dyn DownloadStatus>;
}

/// Is told how one download goes.
pub trait DownloadStatus: Send {
    /// So many bytes are there; less than before where it had to start again.
    fn progress(&mut self, bytes: u64);
    /// It is over. Called exactly once.
    fn end(self: Box<Self>, ending: Ending);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl DownloadReporter for Silent {
    fn start(&self, _: &Download) -> Box<dyn DownloadStatus> {
        Box::new(Self)
    }
}

impl DownloadStatus for Silent {
    fn progress(&mut self, _: u64) {}
    fn end(self: Box<Self>, _: Ending) {}
}

/// Ends its download when it is dropped, if nobody else did.
pub(super) struct Status(Option<Box<dyn DownloadStatus>>);

impl Status {
    pub(super) fn start(reporter: &dyn DownloadReporter, download: &Download) -> Self {
        Self(Some(reporter.start(download)))
    }

    pub(super) fn progress(&mut self, bytes: u64) {
        if let Some(status) = &mut self.0 {
            status.progress(bytes);
        }
    }

    /// Ends as this result says.
    pub(super) fn end_with<T>(
        self,
        result: Result<(T, Ending), FetchError>,
    ) -> Result<T, FetchError> {
        match result {
            Ok((value, ending)) => {
                self.end(ending);
                Ok(value)
            }
            Err(error) => {
                self.end(Ending::Failed);
                Err(error)
            }
        }
    }

    pub(super) fn end(mut self, ending: Ending) {
        if let Some(status) = self.0.take() {
            status.end(ending);
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Some(status) = self.0.take() {
            status.end(Ending::Cancelled);
        }
    }
}
