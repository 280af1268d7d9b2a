//! `make bench`: what the indexer costs, in CPU seconds of this process, user and system, all
//! threads. Wall time says little on a busy machine, so none is shown. Prints figures and how they
//! compare with the goals, and never fails because of them: a test that depends on the machine it
//! runs on is none.

#![expect(clippy::print_stdout, reason = "the figures are this program's data")]

use anyhow::Context as _;
use nfdrop_indexer::{
    image,
    resolve::{self, Stage},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// The resolver, per module.
const RESOLVE_GOAL: Duration = Duration::from_millis(500);
/// Every figure is the least of so many: whatever else the machine does only adds.
const ROUNDS: usize = 3;

fn main() -> anyhow::Result<()> {
    // `cargo bench` passes `--bench`, and people pass parts of names.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let of_interest =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    resolver(&of_interest)
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

/// The resolver on every extract of the corpus.
fn resolver(of_interest: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    println!("resolver, per module: CPU seconds, and the share of each stage\n");
    print!("{:<36} {:>7} {:>7}", "extract", "CPU s", "of goal");
    for (_, name) in STAGES {
        print!(" {name:>7}");
    }
    println!("  outcome");
    let mut most = Duration::ZERO;
    for path in extracts(&corpus)? {
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

fn percent(part: Duration, whole: Duration) -> String {
    if whole.is_zero() {
        return "-".to_owned();
    }
    format!("{:.0} %", 100.0 * part.as_secs_f64() / whole.as_secs_f64())
}
