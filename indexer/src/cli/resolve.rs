//! `nfdrop-indexer resolve`.

use super::{
    ERROR, UNRESOLVED,
    inputs::{self, Input, Inputs},
    put, say,
};
use clap::ValueEnum;
use nfdrop_db::{
    Arch, BuildId, HexBytes, Layout, LayoutSource, Plan, Probe, Reason, Record, Status,
    body::BodyOutcome, render,
};
use nfdrop_indexer::analysis::{Analysis, Bodies, analyse};
use nfdrop_resolver::kernel::{Files, NoFunction};
use serde::Serialize;
use std::path::PathBuf;

/// Find the attach plan of kernel files
///
/// FILE is nf_tables.ko (plain, .xz, .zst, .gz), vmlinux, vmlinuz, a package (.deb, .rpm,
/// .pkg.tar.*, .apk), or an extract. Of split packages, give both together: linux-binary-* and
/// linux-modules-*, kernel-core and kernel-modules-core.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer resolve /lib/modules/$(uname -r)/kernel/net/netfilter/nf_tables.ko.xz \\
      --vmlinux /boot/vmlinuz-$(uname -r)
  nfdrop-indexer resolve linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb --format text
  nfdrop-indexer resolve linux-binary-*.deb linux-modules-*.deb --format bpftrace

Exit code: 0 all resolved, 2 some are not (the record says why), 1 error.")]
pub(super) struct Args {
    /// Files to resolve
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The kernel image that goes with a module; its BTF tells offsets that the client reads
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The record, one line a kernel
    Json,
    /// The record for people
    Text,
    /// A bpftrace script
    Bpftrace,
    /// Lines for tracefs' kprobe_events
    KprobeEvents,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let vmlinux = inputs::vmlinux(args.vmlinux.as_ref())?;
    let mut resolver = Resolver {
        format: args.format,
        vmlinux,
        bodies: Bodies::default(),
        code: 0,
        hinted: false,
    };
    let mut inputs = Inputs::default();
    let mut failed = false;
    for path in &args.files {
        match inputs.read(path) {
            Ok(Some(input)) => resolver.input(&input)?,
            Ok(None) => {}
            // The other files are still worth resolving.
            Err(error) => {
                say(format_args!("error: {error:#}"));
                failed = true;
            }
        }
    }
    for input in inputs.rest() {
        resolver.input(&input)?;
    }
    Ok(if failed { ERROR } else { resolver.code })
}

struct Resolver {
    format: Format,
    vmlinux: Option<Vec<u8>>,
    bodies: Bodies,
    code: u8,
    /// What `--vmlinux` is good for was said.
    hinted: bool,
}

impl Resolver {
    fn input(&mut self, input: &Input) -> anyhow::Result<()> {
        let name = &input.name;
        let analysis = match &input.content {
            Ok(content) => {
                let files = content.files(self.vmlinux.as_deref());
                analyse(files, &self.bodies, |_| None)
            }
            Err(NoFunction { reason, detail }) => {
                // As if there were no files, but with the package's own reason.
                let files = Files { vmlinuz: None, nf_tables: None };
                let mut analysis = analyse(files, &self.bodies, |_| None);
                let detail = Some(Record::clean_detail(detail));
                analysis.body.outcome = BodyOutcome::Unresolved { reason: *reason, detail };
                analysis
            }
        };
        match &analysis.body.outcome {
            BodyOutcome::Plan(_) => self.hint(name, &analysis),
            BodyOutcome::Unresolved { reason, detail } => {
                self.code = UNRESOLVED;
                say(format_args!("{name}: {reason}: {}", detail.as_deref().unwrap_or_default()));
                if *reason == Reason::NoSymbol {
                    say(format_args!(
                        "{name}: where nf_tables is a module, give nf_tables.ko, and the kernel image \
                         with --vmlinux"
                    ));
                }
            }
        }
        self.print(name, &analysis)
    }

    fn hint(&mut self, name: &str, analysis: &Analysis) {
        if analysis.build_id.is_none() {
            say(format_args!(
                "{name}: a listing without build-id and tables, so this plan is of no build, and \
                 drops while a static key is flipped (meta nftrace) may go by it: resolve the \
                 module or kernel image itself for one that clients take"
            ));
        }
        let shape = |plan: &Plan| plan.layout.source == LayoutSource::Shape;
        if self.vmlinux.is_none()
            && !self.hinted
            && analysis.vmlinux_build_id.is_none()
            && analysis.anonymous_plan().as_ref().is_some_and(shape)
        {
            self.hinted = true;
            say(format_args!(
                "{name}: without BTF the plan has the few offsets that all kernels of its kind \
                 share; --vmlinux FILE with the matching kernel image gives the client more"
            ));
        }
    }

    fn print(&mut self, name: &str, analysis: &Analysis) -> anyhow::Result<()> {
        let plan = |analysis: &Analysis| analysis.record()?.plan;
        match self.format {
            Format::Json => {
                let mut line = match analysis.record() {
                    Some(record) => record.to_bytes(),
                    None => nameless(analysis)?,
                };
                line.push(b'\n');
                put(&line)
            }
            Format::Text => put(text(name, analysis).as_bytes()),
            Format::Bpftrace | Format::KprobeEvents => {
                let Some(plan) = plan(analysis) else {
                    if matches!(analysis.body.outcome, BodyOutcome::Plan(_)) {
                        anyhow::bail!(
                            "{name}: a script is made for one build, and this has no build-id; \
                             --format json or text show the plan"
                        );
                    }
                    return Ok(());
                };
                let script = match self.format {
                    Format::Bpftrace => render::bpftrace(&plan)?,
                    _ => render::kprobe_events(&plan)?,
                };
                put(script.as_bytes())
            }
        }
    }
}

fn text(name: &str, analysis: &Analysis) -> String {
    let (record, build_id) = match (analysis.record(), BuildId::from_bytes(&[0; 20])) {
        (Some(record), _) => (record, true),
        (None, Ok(none)) => {
            let nameless = Analysis { build_id: Some(none), ..analysis.clone() };
            match nameless.record() {
                Some(record) => (record, false),
                None => return String::new(),
            }
        }
        (None, Err(_)) => return String::new(),
    };
    let text = render::text(&record);
    // The first line is the build-id.
    let (first, rest) = text.split_once('\n').unwrap_or_default();
    let first = if build_id { first } else { "build-id     none" };
    format!("file         {name}\n{first}\n{rest}\n")
}

/// A [`Record`] where no build-id can be read. Same members, same order.
#[derive(Serialize)]
struct Nameless<'a> {
    build_id: Option<()>,
    status: Status,
    reason: Option<Reason>,
    detail: Option<&'a str>,
    plan: Option<NamelessPlan<'a>>,
}

#[derive(Serialize)]
struct NamelessPlan<'a> {
    schema: u32,
    build_id: Option<()>,
    object: &'a str,
    arch: Arch,
    symbol: &'a str,
    symbol_size: u32,
    body_sha256: &'a HexBytes,
    probes: &'a [Probe],
    layout: &'a Layout,
    evidence: &'a nfdrop_db::Evidence,
}

fn nameless(analysis: &Analysis) -> anyhow::Result<Vec<u8>> {
    let plan = analysis.anonymous_plan();
    let (status, reason, detail) = match &analysis.body.outcome {
        BodyOutcome::Plan(_) => (Status::Resolved, None, None),
        BodyOutcome::Unresolved { reason, detail } => {
            (Status::Unresolved, Some(*reason), detail.as_deref())
        }
    };
    let plan = plan.as_ref().map(|plan| {
        // Named one by one, so that a new member is not forgotten here.
        let Plan {
            schema,
            build_id: _,
            object,
            arch,
            symbol,
            symbol_size,
            body_sha256,
            probes,
            layout,
            evidence,
        } = plan;
        NamelessPlan {
            schema: *schema,
            build_id: None,
            object,
            arch: *arch,
            symbol,
            symbol_size: *symbol_size,
            body_sha256,
            probes,
            layout,
            evidence,
        }
    });
    Ok(serde_json::to_vec(&Nameless { build_id: None, status, reason, detail, plan })?)
}
