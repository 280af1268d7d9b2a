//! `nfdrop-client`.

use clap::{CommandFactory, Parser};
use nfdrop_client::{
    cli::{Cli, Command, Common, DoctorArgs, DoctorFormat, PlanArgs, SelftestArgs},
    doctor,
    failure::Failure,
    fleet,
    host::Host,
    lookup::{self, Settings},
    running, selftest,
    show::{self, PlanFormat},
    terminal,
    watch::{self, View},
};
use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// Neither 0 nor one of the codes that say something about the kernel.
const OTHER: ExitCode = ExitCode::FAILURE;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // clap's own code for wrong arguments is 2, which means "no plan" here.
            return if error.use_stderr() { OTHER } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Some(Command::Plan(args)) => plan(args).await,
        Some(Command::Doctor(args)) => diagnose(args).await,
        Some(Command::Selftest(args)) => test(args).await,
        Some(Command::Completions { shell }) => {
            let mut script = vec![];
            let name = env!("CARGO_PKG_NAME");
            clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
            print(&script, ExitCode::SUCCESS)
        }
        Some(Command::Man { command }) => man(command.as_deref()),
        Some(Command::Top(common)) => run(&common, View::Top).await,
        None => run(&cli.watch.common, View::Lines(&cli.watch)).await,
    }
}

async fn run(common: &Common, view: View<'_>) -> ExitCode {
    let settings = match Settings::from_env(&common.ask) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, OTHER),
    };
    match watch::run(common, view, &settings, say).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, failure.exit_code()),
    }
}

async fn plan(args: PlanArgs) -> ExitCode {
    let settings = match Settings::from_env(&args.target.ask) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, OTHER),
    };
    if let Some(hosts) = &args.hosts {
        return preflight(&settings, hosts, args.format).await;
    }
    let found = async {
        let build_id = match args.target.build_id {
            Some(build_id) => build_id,
            None => running::find(&Host::new(args.target.ask.root))?.build_id,
        };
        match args.plan {
            Some(file) => lookup::from_file(&settings, &file, &build_id),
            None => {
                lookup::find(&settings, &build_id, |line| say(&format!("warning: {line}"))).await
            }
        }
    };
    let found = match found.await {
        Ok(found) => found,
        Err(failure) => return fail(&failure, failure.exit_code()),
    };
    let why_not = found.unresolved();
    let code = why_not.as_ref().map_or(ExitCode::SUCCESS, Failure::exit_code);
    if let Some(failure) = why_not {
        say(&format!("error: {failure}"));
    }
    match show::show(&found, args.format) {
        Ok(output) => print(&output, code),
        Err(failure) => fail(&failure, failure.exit_code()),
    }
}

async fn preflight(settings: &Settings, hosts: &Path, format: PlanFormat) -> ExitCode {
    if !matches!(format, PlanFormat::Text | PlanFormat::Json) {
        let failure =
            Failure::Options("--hosts prints --format text or json; scripts are of one build");
        return fail(&failure, failure.exit_code());
    }
    let hosts = match fleet::read(hosts) {
        Ok(hosts) => hosts,
        Err(error) => return fail(&error, OTHER),
    };
    let found = fleet::find(settings, hosts, |line| say(&format!("warning: {line}"))).await;
    let report = match found {
        Ok(report) => report,
        Err(failure) => return fail(&failure, failure.exit_code()),
    };
    let output = if matches!(format, PlanFormat::Json) { report.json() } else { report.text() };
    let code = print(output.as_bytes(), report.code().into());
    say(&report.summary());
    code
}

async fn diagnose(args: DoctorArgs) -> ExitCode {
    let settings = match Settings::from_env(&args.target.ask) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, OTHER),
    };
    let host = Host::new(args.target.ask.root);
    match doctor::examine(&host, &settings, args.target.build_id).await {
        Ok(report) => {
            let output = match args.format {
                DoctorFormat::Text => report.to_string(),
                DoctorFormat::Json => report.to_json(),
            };
            print(output.as_bytes(), report.code().into())
        }
        Err(failure) => fail(&failure, failure.exit_code()),
    }
}

async fn test(args: SelftestArgs) -> ExitCode {
    let settings = match Settings::from_env(&args.ask) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, OTHER),
    };
    let finished = match selftest::run(&args, &settings, say).await {
        Ok(finished) => finished,
        Err(failure) => return fail(&failure, failure.exit_code()),
    };
    let output = if args.json { finished.json() } else { terminal::plain(&finished.to_string()) };
    let code = finished.failure.as_ref().map_or(ExitCode::SUCCESS, Failure::exit_code);
    let code = print(output.as_bytes(), code);
    if let Some(failure) = &finished.failure {
        say(&format!("error: {failure}"));
    }
    code
}

fn man(command: Option<&str>) -> ExitCode {
    let mut cli = Cli::command();
    cli.build();
    let page = match command {
        None => Some(&cli),
        Some(name) => cli.find_subcommand(name),
    };
    let Some(page) = page else {
        return fail(&"no such command: `nfdrop-client --help` lists them", OTHER);
    };
    let mut text = vec![];
    match clap_mangen::Man::new(page.clone()).render(&mut text) {
        Ok(()) => print(&text, ExitCode::SUCCESS),
        Err(error) => fail(&error, OTHER),
    }
}

/// Writes data to stdout; `code` is what the process ends with when that works.
fn print(data: &[u8], code: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Ok(()) => code,
        // Whoever read it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(error) => fail(&format!("cannot write to stdout: {error}"), OTHER),
    }
}

fn fail(why: &dyn std::fmt::Display, code: ExitCode) -> ExitCode {
    say(&format!("error: {why}"));
    code
}

fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", terminal::plain(line));
}
