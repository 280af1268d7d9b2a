//! `make bench`: what the indexer costs, in CPU seconds of this process, user and system, all
//! threads. Wall time says little on a busy machine, so none is shown. Prints figures and how they
//! compare with the goals, and never fails because of them: a test that depends on the machine it
//! runs on is none.

#![expect(clippy::print_stdout, reason = "the figures are this program's data")]

mod common;

use anyhow::Context as _;
use common::{Cached, cached, percent, stored};
use nfdrop_db::{KernelRelease, Store, body::InputKey};
use nfdrop_indexer::{crawl, fetch::default_cache};
use nfdrop_resolver::{
    image, kernel,
    resolve::{self, Stage},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The resolver, per module.
const RESOLVE_GOAL: Duration = Duration::from_millis(300);
/// A whole kernel, from downloaded packages to stored plan.
const KERNEL_GOAL: Duration = Duration::from_millis(2500);
/// Every figure of the resolver is the least of so many: whatever else the machine does only adds.
const ROUNDS: usize = 3;

fn main() -> anyhow::Result<()> {
    // `cargo bench` passes `--bench`, and people pass parts of names.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let of_interest =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    resolver(&of_interest)?;
    println!();
    kernels(&of_interest)
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// What became of one resolution, and the CPU time of its stages.
struct Resolution {
    outcome: String,
    stages: [Duration; STAGES.len()],
}

const STAGES: [(Stage, &str); 4] = [
    (Stage::Link, "link"),
    (Stage::Runs, "runs"),
    (Stage::Choice, "choice"),
    (Stage::Proof, "proof"),
];

impl Resolution {
    fn of(function: &image::Function) -> Self {
        let mut stages = [Duration::ZERO; STAGES.len()];
        let mut current = 0;
        let mut since = cpu();
        let mut enters = |stage| {
            let now = cpu();
            stages[current] += now.saturating_sub(since);
            since = now;
            current = STAGES.iter().position(|(other, _)| *other == stage).unwrap_or(current);
        };
        let result = resolve::resolve_watched(function, &mut enters);
        // The end of the last stage looks like the beginning of another.
        enters(Stage::Proof);
        let outcome = result.map_or_else(|failed| failed.reason.to_string(), |_| "plan".to_owned());
        Self { outcome, stages }
    }

    fn total(&self) -> Duration {
        self.stages.iter().sum()
    }
}

/// The resolver on every extract of the corpus, and on those of other compilers and configurations.
fn resolver(of_interest: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    println!("resolver, per module: CPU seconds, and the share of each stage\n");
    print!("{:<36} {:>7} {:>7}", "extract", "CPU s", "of goal");
    for (_, name) in STAGES {
        print!(" {name:>7}");
    }
    println!("  outcome");
    let mut most = Duration::ZERO;
    let variants = extracts(&corpus.join("variants"))?;
    for path in extracts(&corpus)?.into_iter().chain(variants) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if !of_interest(&name) {
            continue;
        }
        let file = fs::read(&path).with_context(|| path.display().to_string())?;
        let function = image::load(&file, None).with_context(|| path.display().to_string())?;
        let rounds = (0..ROUNDS).map(|_| Resolution::of(&function));
        let Some(best) = rounds.min_by_key(Resolution::total) else { continue };
        let total = best.total();
        most = most.max(total);
        print!("{name:<36} {:>7.3} {:>7}", total.as_secs_f64(), percent(total, RESOLVE_GOAL));
        for stage in best.stages {
            print!(" {:>7}", percent(stage, total));
        }
        println!("  {}", best.outcome);
    }
    println!(
        "\ngoal: at most {:.1} s; the slowest takes {:.3} s, {} of it",
        RESOLVE_GOAL.as_secs_f64(),
        most.as_secs_f64(),
        percent(most, RESOLVE_GOAL)
    );
    Ok(())
}

fn extracts(corpus: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(corpus).with_context(|| corpus.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    Ok(paths)
}

/// The work on one kernel once its packages are on disk, in the order it is done.
const WORK: [&str; 7] = ["hash", "unpack", "vmlinuz", "BTF", "ELF", "resolve", "store"];
/// The place of the resolver there.
const RESOLVE: usize = 5;

/// Whole kernels, from `.deb` to stored plan.
fn kernels(of_interest: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    let kernels = default_cache().map_or_else(Vec::new, |cache| cached(&cache.join("packages")));
    if kernels.is_empty() {
        println!("whole kernels: no packages in the cache; `make run` fetches some");
        return Ok(());
    }
    println!("whole kernels, .deb to stored plan: CPU seconds, and the share of each stage\n");
    print!("{:<36} {:>7} {:>7}", "release", "CPU s", "of goal");
    for name in WORK {
        print!(" {name:>7}");
    }
    println!("  outcome");
    let directory = tempfile::tempdir()?;
    let store = Store::create_or_open(directory.path().join("bench.sqlite"))?;
    let mut most = Duration::ZERO;
    let mut crawl = WholeCrawl::default();
    for kernel in kernels.iter().filter(|kernel| of_interest(&kernel.release)) {
        let Worked { stages, input, outcome } =
            work(kernel, &store).with_context(|| kernel.release.clone())?;
        let total = stages.iter().sum();
        most = most.max(total);
        let seconds = total.as_secs_f64();
        print!("{:<36} {seconds:>7.3} {:>7}", kernel.release, percent(total, KERNEL_GOAL));
        for stage in stages {
            print!(" {:>7}", percent(stage, total));
        }
        println!("  {outcome}");
        crawl.add(&kernel.release, &stages, input);
    }
    println!(
        "\ngoal: at most {:.1} s; the slowest takes {:.3} s, {} of it",
        KERNEL_GOAL.as_secs_f64(),
        most.as_secs_f64(),
        percent(most, KERNEL_GOAL)
    );
    crawl.print();
    Ok(())
}

/// All kernels as a crawl takes them: the resolver runs once per body, all else once per kernel.
#[derive(Default)]
struct WholeCrawl {
    kernels: usize,
    bodies: HashSet<InputKey>,
    stages: [Duration; WORK.len()],
    /// By flavour, the longest the resolver took, and for which release.
    slowest: BTreeMap<String, (Duration, String)>,
}

impl WholeCrawl {
    fn add(&mut self, release: &str, stages: &[Duration; WORK.len()], input: InputKey) {
        self.kernels += 1;
        let first = self.bodies.insert(input);
        for (index, (sum, stage)) in self.stages.iter_mut().zip(stages).enumerate() {
            if index != RESOLVE || first {
                *sum += *stage;
            }
        }
        let slowest = self.slowest.entry(KernelRelease(release).flavour().to_owned()).or_default();
        *slowest = slowest.clone().max((stages[RESOLVE], release.to_owned()));
    }

    fn print(&self) {
        println!("\nresolver, the slowest of each flavour\n");
        for (flavour, (time, release)) in &self.slowest {
            let (seconds, share) = (time.as_secs_f64(), percent(*time, RESOLVE_GOAL));
            println!("{flavour:<16} {seconds:>7.3} s {share:>5} of goal  {release}");
        }
        let (kernels, bodies) = (self.kernels, self.bodies.len());
        println!("\na crawl of these {kernels} kernels, the resolver once per body ({bodies})\n");
        let total: Duration = self.stages.iter().sum();
        for (name, stage) in WORK.iter().zip(self.stages) {
            println!("{name:<16} {:>7.3} s {:>5}", stage.as_secs_f64(), percent(stage, total));
        }
        let [_, unpack, vmlinuz, .., resolve, _] = self.stages;
        let ratio = (unpack + vmlinuz).as_secs_f64() / resolve.as_secs_f64().max(f64::EPSILON);
        println!(
            "\nunpack and vmlinuz, which is decompression but for a few headers, take {ratio:.0} times \
             as long as the resolver"
        );
    }
}

/// What one kernel took.
struct Worked {
    stages: [Duration; WORK.len()],
    input: InputKey,
    outcome: String,
}

/// What a crawl does with one kernel, a stage at a time, on one thread.
fn work(kernel: &Cached, store: &Store) -> anyhow::Result<Worked> {
    let mut laps = Laps::new();
    for path in [Some(&kernel.image), kernel.modules.as_ref()].into_iter().flatten() {
        io::copy(&mut File::open(path)?, &mut Hasher(Sha256::new()))?;
    }
    let hash = laps.lap();
    let files = crawl::unpack(&kernel.image, kernel.modules.as_deref())?;
    let unpack = laps.lap();
    let (Some(vmlinuz), Some(module)) = (&files.vmlinuz, &files.nf_tables) else {
        anyhow::bail!("the packages have no kernel image or no nf_tables module");
    };
    let kernel_image = image::vmlinux_btf(vmlinuz)?;
    let image = laps.lap();
    // Without BTF first: what reading the fields adds is the share of BTF.
    image::load(module, None)?;
    let elf = laps.lap();
    let btf = Some(kernel_image.btf.as_slice()).filter(|btf| !btf.is_empty());
    let function = image::load(module, btf)?;
    let fields = laps.lap().saturating_sub(elf);
    let build_id = function.build_id.clone().context("the module has no build-id")?;
    let input = kernel::input_key(&function);
    let body = kernel::resolve(&function);
    let resolve = laps.lap();
    let record = body.outcome.record(&build_id, kernel::object_name(function.object));
    let outcome = match &record.reason {
        Some(reason) => reason.to_string(),
        None => "plan".to_owned(),
    };
    store.put_kernel(&stored(&kernel.release, record, input, kernel_image.build_id))?;
    let put = laps.lap();
    Ok(Worked { stages: [hash, unpack, image, fields, elf, resolve, put], input, outcome })
}

/// CPU time between one call and the next.
struct Laps(Duration);

impl Laps {
    fn new() -> Self {
        Self(cpu())
    }

    fn lap(&mut self) -> Duration {
        let now = cpu();
        now.saturating_sub(std::mem::replace(&mut self.0, now))
    }
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
