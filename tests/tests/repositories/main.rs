//! Other distributions' repositories, from the packages to the exported proof: a kernel of Debian's in packages of
//! rpm, pacman and apk, made and signed with the distributions' own tools, through the scripts of `ci/workflows` as
//! the hourly workflow calls them. What is booted comes from these packages only.
//!
//! Left out, and said, where `NFDROP_OFFLINE` is set, or QEMU, `nft` or a distribution's tools are missing.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what was run, and what not, is said")]

mod distributions;
mod killed;
mod runner;

use distributions::Repository;
use nfdrop_db::{Proof, ProofResult, Store};
use nfdrop_testkit::{apk, pacman, rpm};
use runner::Runner;
use std::{fs, time::Instant};

/// Crawls, proves, judges and publishes a repository, and looks at what became of its kernel.
fn run(repository: &Repository, prove_options: &str) {
    let begun = Instant::now();
    let name = repository.name;
    let runner = Runner::new(repository, prove_options);
    for step in ["crawl", "prove", "gate", "publish"] {
        let (code, said) = runner.step(step);
        assert_eq!(code, 0, "{name}: {step}: {said}");
        println!("--- {name}: {step}, {:.1?}\n{said}", begun.elapsed());
    }
    let store = Store::open_read_only(runner.path("nfdrop/new.sqlite")).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let provable = store.provable().unwrap();
    let [build] = &provable[..] else { panic!("{name}: {provable:?}") };
    assert_eq!(build.kernels, [(name.to_owned(), repository.releases[0].clone())]);
    let stored = store.proof(&build.build_id).unwrap().unwrap();
    let proof = Proof::parse_canonical(&stored.bytes).unwrap();
    assert_eq!(proof.result, ProofResult::Proven, "{name}: {:?}", proof.detail);
    assert!(proof.is_of(&store.record(&build.build_id).unwrap().unwrap()));
    // The site has what the database has, signed.
    let site = runner.path(&format!("nfdrop/site/buildid/{}", build.build_id));
    assert!(site.join("plan").exists() && site.join("plan.minisig").exists(), "{name}");
    assert_eq!(fs::read(site.join("proof")).unwrap(), stored.bytes, "{name}");
    let signature = fs::read_to_string(site.join("proof.minisig")).unwrap();
    assert_eq!(Some(signature), stored.signature, "{name}");
    println!("{name}: proven, {} parts, {:.1?}", proof.parts.len(), begun.elapsed());
}

/// The crawl's packages are not there any more: they are fetched again.
#[test]
fn rpms_are_crawled_proven_gated_and_exported() {
    if let Some(repository) = distributions::fedora() {
        run(&repository, "--cache second");
    }
}

#[test]
fn packages_of_arch_are_crawled_proven_gated_and_exported() {
    if let Some(repository) = distributions::arch(1) {
        run(&repository, "");
    }
}

#[test]
fn packages_of_alpine_are_crawled_proven_gated_and_exported() {
    if let Some(repository) = distributions::alpine() {
        run(&repository, "");
    }
}
