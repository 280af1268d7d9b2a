//! Compiles the BPF program with clang, whose version does not matter from 11 on. `CLANG` names
//! another one than the first of `clang`, `clang-30` … `clang-11` that is there.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = "bpf/nfdrop.bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    let header = format!("{}.h", env::var("CARGO_CFG_TARGET_ARCH")?);
    println!("cargo:rerun-if-changed=bpf");
    if !Path::new("bpf").join(&header).is_file() {
        return Err(
            format!("client/bpf/{header} is missing: it has the registers at a probe").into()
        );
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    let object = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("nfdrop.bpf.o");
    let clang = clang()?;
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    command.arg(format!("-DARCH_HEADER=\"{header}\""));
    // Where Debian has the kernel's headers for one architecture; others have them among the rest.
    let headers = Path::new("/usr/include/x86_64-linux-gnu");
    if headers.is_dir() {
        command.arg("-idirafter").arg(headers);
    }
    // Paths of the machine it is built on do not belong into what is built.
    command.arg(format!("-fdebug-prefix-map={}=.", env::var("CARGO_MANIFEST_DIR")?));
    command.args(["-c", SOURCE, "-o"]).arg(&object);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{clang} cannot compile client/{SOURCE}; it needs libbpf's and the kernel's headers \
             (Debian: libbpf-dev, linux-libc-dev; `ci/install-deps` installs them)\n{said}"
        )
        .into());
    }
    Ok(())
}

fn clang() -> Result<String, String> {
    let named = env::var("CLANG").ok();
    let versions = (11..=30).rev().map(|version| format!("clang-{version}"));
    let candidates = named.into_iter().chain(["clang".to_owned()]).chain(versions);
    let works = |name: &String| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(works).ok_or_else(|| {
        "no clang, which the BPF program is compiled with: `ci/install-deps` installs it, or set \
         CLANG"
            .to_owned()
    })
}
