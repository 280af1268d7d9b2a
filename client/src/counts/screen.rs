//! The terminal that `top` draws on. However the program ends but by SIGKILL, it is as before.

use super::table::Size;
use rustix::{
    fs::OFlags,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Read, Stdout, Write},
    os::unix::fs::OpenOptionsExt,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// A terminal in use.
#[derive(Debug)]
pub struct Screen {
    stdout: Stdout,
    /// The keyboard, and how it was before; `None` where there is none.
    keys: Option<(AsyncFd<File>, Termios)>,
}

impl Screen {
    /// Takes the terminal; `None` if stdout is none. To be called within tokio's runtime.
    #[expect(
        deprecated,
        reason = "unsound for types whose descriptor changes, which a File's does not"
    )]
    pub fn enter() -> io::Result<Option<Self>> {
        let mut stdout = io::stdout();
        if !stdout.is_terminal() {
            return Ok(None);
        }
        // Another open file than stdin: that one may be shared, and is to stay blocking.
        let keyboard = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/tty")
            .ok();
        let keys = keyboard.and_then(|keyboard| {
            let before = tcgetattr(&keyboard).ok()?;
            let mut quiet = before.clone();
            // Keys come at once and are not shown; Ctrl-C still is a signal.
            quiet.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            let keys = AsyncFd::with_interest(keyboard, Interest::READABLE).ok()?;
            tcsetattr(keys.get_ref(), OptionalActions::Now, &quiet).ok()?;
            Some((keys, before))
        });
        let screen = Self { stdout: io::stdout(), keys };
        stdout.write_all(ENTER.as_bytes())?;
        stdout.flush()?;
        Ok(Some(screen))
    }

    /// How much fits; of a terminal that does not say, what all have.
    pub fn size(&self) -> Size {
        let size = tcgetwinsize(&self.stdout).ok().filter(|size| size.ws_col > 0);
        size.map_or(Size { columns: 80, lines: 24 }, |size| Size {
            columns: size.ws_col.into(),
            lines: usize::from(size.ws_row).max(2),
        })
    }

    /// What shows these lines instead of those before.
    pub fn frame(&self, lines: &str) -> String {
        let lines = lines.lines().map(|line| format!("{line}{CLEAR_LINE}"));
        // No line feed behind the last: it would scroll a screen that is full.
        let lines = lines.collect::<Vec<_>>().join("\n");
        format!("{HOME}{lines}{CLEAR_BELOW}")
    }

    /// Until `q` is pressed; for ever where there is no keyboard.
    pub async fn quit(&self) {
        if let Some((keys, _)) = &self.keys {
            while let Ok(mut ready) = keys.readable().await {
                let mut pressed = [0; 64];
                match ready.try_io(|keys| keys.get_ref().read(&mut pressed)) {
                    Ok(Ok(count)) if pressed[..count].contains(&b'q') => return,
                    // The terminal is gone.
                    Ok(Ok(0) | Err(_)) => break,
                    Ok(Ok(_)) | Err(_) => {}
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some((keys, before)) = &self.keys {
            let _ = tcsetattr(keys.get_ref(), OptionalActions::Now, before);
        }
        let _ = self.stdout.write_all(LEAVE.as_bytes());
        let _ = self.stdout.flush();
    }
}
