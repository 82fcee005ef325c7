//! NVIDIA's devices: a hook that has NVIDIA's own program put them, and the driver's libraries, into the container.

use super::{Spec, default::made};
use oci_spec::runtime::HookBuilder;
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal};

/// NVIDIA's program.
const PROGRAM: &str = "nvidia-container-cli";
/// What fills in what the program has to know; its `oci-hook` is containerd's.
const FILLER: &str = "wharfd";
/// All that a driver can be used for.
const CAPABILITIES: [&str; 6] = ["compute", "compat32", "graphics", "utility", "video", "display"];

/// Adds the hook, if any device is named.
///
/// # Errors
/// `Internal` for a program that is not on the `PATH`.
///
/// # Spec
/// containerd 1.6 `contrib/nvidia`, as `ctr --gpus` calls it: a hook before the start, in this process's environment.
pub(super) fn hook(spec: &mut Spec, gpus: &[i64]) -> Answer<()> {
    if gpus.is_empty() {
        return Ok(());
    }
    let filler = find(FILLER).or_else(beside).ok_or_else(|| missing(FILLER))?;
    let program = find(PROGRAM).ok_or_else(|| missing(PROGRAM))?;
    let devices: Vec<_> = gpus.iter().map(i64::to_string).collect();
    let mut args: Vec<String> = [FILLER, "oci-hook", "--"].map(str::to_owned).into();
    args.push(program.to_string_lossy().into_owned());
    args.extend(["--load-kmods".to_owned(), "configure".to_owned(), format!("--device={}", devices.join(","))]);
    args.extend(CAPABILITIES.map(|capability| format!("--{capability}")));
    args.extend(["--pid={{pid}}".to_owned(), "{{rootfs}}".to_owned()]);
    // What is not text cannot be in a specification.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some(format!("{}={}", name.into_string().ok()?, value.into_string().ok()?))
    };
    let environment: Vec<_> = env::vars_os().filter_map(text).collect();
    let hook = made(HookBuilder::default().path(filler).args(args).env(environment).build())?;
    let hooks = spec.hooks_mut().get_or_insert_default();
    hooks.prestart_mut().get_or_insert_default().push(hook);
    Ok(())
}

/// In the words of `ctr`.
fn missing(program: &str) -> Refusal {
    Refusal::internal(format!("exec: {program:?}: executable file not found in $PATH"))
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = env::split_paths(&env::var_os("PATH")?).collect::<Vec<_>>();
    // A relative one would be another one for the hook.
    folders.into_iter().filter(|folder| folder.is_absolute()).map(|folder| folder.join(program)).find(|path| runs(path))
}

/// The program in this one's own folder, where they are built or installed together.
fn beside() -> Option<PathBuf> {
    let path = env::current_exe().ok()?.parent()?.join(FILLER);
    runs(&path).then_some(path)
}

fn runs(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
