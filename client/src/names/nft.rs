//! Has `nft` list a ruleset.
//!
//! It is asked in the calling thread's network namespace, which the child inherits. Whatever it does,
//! this ends: after a minute or 64 MiB it is killed.

use super::listing::{Listing, Reader};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    io::{self, Read},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest time that a listing may take. One of 100,000 rules took 13 s on a slow and busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Most bytes read: 100,000 rules with comments have 9 MiB.
const MAX_BYTES: usize = 64 << 20;
/// Most bytes kept of what it says when it fails.
const MAX_MESSAGE: usize = 512;
/// Where it is besides `PATH`, which lacks these for users but root.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No such program.
    #[error("nft is not installed: install the package nftables")]
    Missing,
    /// It cannot be run.
    #[error("cannot run nft: {0}")]
    Start(io::Error),
    /// It ran and said no.
    #[error("nft failed ({status}): {message}: listing rules needs CAP_NET_ADMIN")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        message: String,
    },
    /// It did not end.
    #[error("nft took longer than {} s to list the ruleset and was killed", TIMEOUT.as_secs())]
    TimedOut,
    /// It listed too much.
    #[error("the ruleset's listing is longer than {} MiB", MAX_BYTES >> 20)]
    TooLong,
    /// Reading what it says failed.
    #[error("cannot read what nft lists: {0}")]
    Read(#[from] io::Error),
}

/// The ruleset, of which at most so many rules are taken.
pub fn list(program: &Path, max_rules: usize) -> Result<Listing, NftError> {
    let listing = run(program, &[], max_rules)?;
    if listing.incomplete {
        // Rulesets without chains that have no name are spared what doubles the time.
        return Ok(run(program, &["--debug=netlink"], max_rules).unwrap_or(listing));
    }
    Ok(listing)
}

/// What `nft` prints when it is given these arguments.
pub fn output(program: &Path, arguments: &[&str]) -> Result<Vec<u8>, NftError> {
    let mut output = vec![];
    finish(start(program, arguments)?, |bytes| output.extend(bytes))?;
    Ok(output)
}

fn run(program: &Path, options: &[&str], max_rules: usize) -> Result<Listing, NftError> {
    let arguments = [options, &["-a", "-s", "-t", "list", "ruleset"]].concat();
    let mut reader = Reader::new(max_rules);
    finish(start(program, &arguments)?, |bytes| reader.push(bytes))?;
    Ok(reader.finish())
}

fn finish(mut child: Child, take: impl FnMut(&[u8])) -> Result<(), NftError> {
    let message = read(&mut child, take);
    if message.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let message = message?;
    if !status.success() {
        let message = String::from_utf8_lossy(&message).trim().to_owned();
        return Err(NftError::Failed { status, message });
    }
    Ok(())
}

fn start(program: &Path, arguments: &[&str]) -> Result<Child, NftError> {
    let others = PLACES.iter().map(Path::new).filter(|_| program == Path::new("nft"));
    for place in std::iter::once(program).chain(others) {
        let started = Command::new(place)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NftError::Start(error)),
        }
    }
    Err(NftError::Missing)
}

/// Hands over what it prints, and returns what it says besides. One after the other: who says more than a pipe
/// holds before the listing ends does not get on, and is killed.
fn read(child: &mut Child, mut take: impl FnMut(&[u8])) -> Result<Vec<u8>, NftError> {
    let deadline = Instant::now() + TIMEOUT;
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(io::Error::from)?;
    let mut message = vec![];
    if let Some(stdout) = child.stdout.take() {
        drain(stdout, deadline, &mut take)?;
    }
    if let Some(stderr) = child.stderr.take() {
        drain(stderr, deadline, |bytes| {
            let room = MAX_MESSAGE - message.len();
            message.extend(&bytes[..bytes.len().min(room)]);
        })?;
    }
    wait(&ended, deadline)?;
    Ok(message)
}

fn drain(
    mut pipe: impl Read + AsFd,
    deadline: Instant,
    mut take: impl FnMut(&[u8]),
) -> Result<(), NftError> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        wait(&pipe, deadline)?;
        let count = pipe.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        total += count;
        if total > MAX_BYTES {
            return Err(NftError::TooLong);
        }
        take(&buffer[..count]);
    }
}

/// Until there is something to read, or the end of it.
fn wait(file: &impl AsFd, deadline: Instant) -> Result<(), NftError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(NftError::TimedOut),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A script in nft's place. A shell writes it: a file that this process has open for writing
    /// can be open in another test's child as well, and could not be run then.
    fn script(directory: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = directory.path().join("nft");
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod +x "$2""#, "sh", text]);
        assert!(shell.arg(&path).status().unwrap().success());
        path
    }

    fn listed(text: &str) -> Result<Listing, NftError> {
        let directory = tempfile::tempdir().unwrap();
        list(&script(&directory, text), 100)
    }

    #[test]
    fn asks_for_handles_and_reads_the_answer() {
        let listing = listed(
            r#"[ "$*" = "-a -s -t list ruleset" ] || exit 1
            printf 'table ip t { # handle 1\n\tchain c { # handle 1\n\t\tdrop # handle 2\n'"#,
        );
        assert_eq!(&*listing.unwrap().rules.get(1, 2).unwrap().text, "drop");
    }

    #[test]
    fn asks_for_more_where_chains_have_no_name() {
        let listing = listed(
            r#"case $1 in
            --debug=netlink) [ "$*" = "--debug=netlink -a -s -t list ruleset" ] || exit 1
                printf 'ip t c 5\n  [ immediate reg 0 jump -> __chain0 ]\n\nip t __chain0 4\n' ;;
            esac
            printf 'table ip t { # handle 1\n\tchain c { # handle 1\n'
            printf '\t\tjump {\n\t\t\treject\n\t\t} # handle 5\n'"#,
        );
        let mut rules = listing.unwrap().rules;
        assert_eq!(&*rules.get(1, 4).unwrap().text, "jump { reject }");
        assert!(rules.get(1, 4).unwrap().reject && !rules.get(1, 5).unwrap().reject);
    }

    #[test]
    fn says_why_it_failed() {
        let failed = listed("echo 'Operation not permitted' >&2; exit 1").unwrap_err().to_string();
        assert_eq!(
            failed,
            "nft failed (exit status: 1): Operation not permitted: listing rules needs CAP_NET_ADMIN"
        );
        let missing = list(Path::new("/nonexistent/nft"), 1).unwrap_err();
        assert!(matches!(missing, NftError::Missing), "{missing}");
        let directory = tempfile::tempdir().unwrap();
        let not_a_program = list(directory.path(), 1).unwrap_err();
        assert!(matches!(not_a_program, NftError::Start(_)), "{not_a_program}");
    }

    #[test]
    fn endless_output_ends() {
        assert!(matches!(listed("exec cat /dev/zero"), Err(NftError::TooLong)));
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = start(&script(&directory, "exec sleep 1000"), &[]).unwrap();
        let stdout = child.stdout.take().unwrap();
        // What is over at once stands for a minute that is over.
        let result = drain(stdout, Instant::now(), |_| {});
        assert!(matches!(result, Err(NftError::TimedOut)));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
