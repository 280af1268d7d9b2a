//! `nfdrop-server`.

use anyhow::Context;
use clap::{CommandFactory, Parser};
use nfdrop_db::store::Store;
use nfdrop_server::{
    Database,
    cli::{Cli, Command, ServeArgs},
    router, serve,
    serve::Limits,
};
use std::{
    io::{self, Write},
    process::ExitCode,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

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
    let store = Store::open_read_only(&args.db)?;
    // Before the line that says so: whoever reads it may send signals at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!("cannot listen on {}: choose another address with --listen", args.listen)
    })?;
    say(&format!("listening on http://{}", listener.local_addr()?));
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say("shutting down, answers under way are finished");
    };
    serve(listener, router(Database::new(store)), Limits::default(), shutdown).await;
    Ok(())
}

fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
