//! `nfdrop-server`.

use anyhow::Context;
use clap::{CommandFactory, Parser};
use mimalloc::MiMalloc;
use minisign_verify::PublicKey;
use nfdrop_server::{
    App, Database, ahead,
    cli::{Cli, Command, ServeArgs},
    serve,
    serve::{Limits, listen},
    service::Service,
    tls::Tls,
    upstream::{Disk, Upstream},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Strangers open, feed and drop thousands of connections; glibc's heap grows with them, and keeps what it
/// has. README has the figures.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli { command: Some(Command::Completions { shell }), .. } => {
            let mut script = vec![];
            let name = env!("CARGO_PKG_NAME");
            clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
            io::stdout().write_all(&script).context("cannot write to stdout")
        }
        Cli { command: Some(Command::Man), .. } => clap_mangen::Man::new(Cli::command())
            .render(&mut io::stdout())
            .context("cannot write to stdout"),
        Cli { serve: Some(args), .. } => run(args).await,
        Cli { serve: None, .. } => Err(anyhow::anyhow!("--db FILE is missing: see --help")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let limits = Limits { connections: files_for(args.connections)?, ..Limits::default() };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::read(certificate, key)?)),
        _ => None,
    };
    let upstream = upstream(&args)?;
    let database = Database::open(&args.db)?;
    // Before the line that says so: whoever reads it may send signals at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = listen(args.listen).with_context(|| {
        format!("cannot listen on {}: choose another address with --listen", args.listen)
    })?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    say(&format!("listening on {scheme}://{}", listener.local_addr()?));
    let reloaded = tls.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match reloaded.as_ref().map(|tls| tls.reload()) {
                Some(Ok(())) => say("certificate and key are read again"),
                Some(Err(error)) => say(&format!("error: {error}; the old ones are used on")),
                None => {}
            }
        }
    });
    tokio::spawn(database.clone().follow());
    let app = App::new(database, upstream);
    ahead::start(app.database(), app.metrics()).context("cannot start another thread")?;
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say("shutting down, answers under way are finished");
    };
    serve(listener, Service::from(app), tls, limits, shutdown).await;
    Ok(())
}

fn upstream(args: &ServeArgs) -> anyhow::Result<Option<Upstream>> {
    if args.upstream.is_empty() {
        return Ok(None);
    }
    let key = args.upstream_pubkey.as_ref().map(|path| {
        PublicKey::from_file(path).with_context(|| {
            format!("{}: give --upstream-pubkey a minisign public key", path.display())
        })
    });
    let disk = args.upstream_cache.as_ref();
    let disk = disk.map(|directory| Disk::open(directory, args.upstream_cache_size << 20));
    Ok(Some(Upstream::new(&args.upstream, key.transpose()?, disk.transpose()?)?))
}

/// Raises the limit of open files, as far as it may be, to what so many connections need; how many
/// connections there can be then.
fn files_for(connections: u32) -> anyhow::Result<usize> {
    /// For the database, its log and shared memory, by each of its connections; and other servers.
    const OTHERS: u64 = 256;
    let wanted = u64::from(connections) + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    if soft >= wanted {
        return Ok(connections as usize);
    }
    let raised = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum })
        .context("cannot raise the limit of open files: see `ulimit -n`, or lower --connections")?;
    if raised < wanted {
        let possible = raised.saturating_sub(OTHERS).max(16);
        say(&format!("the limit of open files leaves {possible} connections: see `ulimit -Hn`"));
        return Ok(possible as usize);
    }
    Ok(connections as usize)
}

fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
