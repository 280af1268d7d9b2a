//! The function of a kernel without the rest of it. Of packages only the parts that hold it are fetched,
//! and of those only an extract is kept, a few kilobytes: what a kernel's body is costs a mirror
//! little, and once.

use super::mirror::Mirror;
use anyhow::{Context, Result, bail};
use nfdrop_db::hex;
use nfdrop_indexer::{
    fetch::{Download, Remote, Silent},
    package::{self, KernelFiles, Limits, Wanted},
    source::kernel::{KernelSet, PackageRef, PackageSet},
};
use nfdrop_resolver::{
    image::{self, Function, extract},
    kernel::{Files, load},
};
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

impl Mirror {
    /// The function, as the resolver gets it. What fetched parts say is vouched for by the connection
    /// alone: enough to choose a kernel by. A kernel that is booted is fetched whole, and verified.
    pub fn function(&self, set: &KernelSet) -> Result<Function> {
        let PackageSet::Complete { image, modules } = &set.packages else {
            bail!("{}: its packages are not complete", set.release);
        };
        let kept = self.kept(set, modules.as_ref().unwrap_or(image))?;
        // One that cannot be read is made again.
        if let Some(function) = fs::read(&kept).ok().and_then(|b| image::load(&b, None).ok()) {
            return Ok(function);
        }
        let files = match modules {
            None => self.kernel_files(image, Wanted::Both)?,
            Some(modules) => {
                let nf_tables = self.kernel_files(modules, Wanted::NfTables)?.nf_tables;
                KernelFiles { nf_tables, ..self.kernel_files(image, Wanted::Vmlinuz)? }
            }
        };
        let nf_tables = files.nf_tables.as_ref().map(|file| file.bytes.as_slice());
        let (function, _) = load(Files { vmlinuz: files.vmlinuz.as_deref(), nf_tables });
        let function = function.with_context(|| set.release.clone())?;
        let folder = kept.parent().context("no directory")?;
        fs::create_dir_all(folder)?;
        // In place only once it is whole.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(extract::to_json(&function).as_bytes())?;
        file.persist(&kept)?;
        Ok(function)
    }

    /// Where a function is kept, by the package that holds it: a release may be built more than once.
    fn kept(&self, set: &KernelSet, package: &PackageRef) -> Result<PathBuf> {
        let sha256 = hex::encode(&package.sha256.context("an apt index gives every hash")?);
        let name = format!("{}-{}-{}.json", set.distro, set.release, &sha256[..16]);
        Ok(self.cache.join("functions").join(name))
    }

    /// The files of a kernel that a package holds, of as little of it as will do.
    fn kernel_files(&self, package: &PackageRef, wanted: Wanted) -> Result<KernelFiles> {
        self.first_listed(package, |download: Download| async move {
            let fetcher = &self.reader.fetcher;
            if !fetcher.has(&download) {
                let pick = move |remote: &Remote| {
                    package::pick_kernel_files(remote, wanted, &Limits::default()).ok()
                };
                if let Some(files) = fetcher.parts(&download, &Silent, pick).await? {
                    return Ok(files);
                }
            }
            let file = File::open(fetcher.verified(&download, &Silent).await?)?;
            Ok(package::unpack(&file, wanted, &Limits::default())?)
        })
    }
}
