//! Environments, merged as containerd merges them.

use super::read_limited;
use std::path::Path;
use wharf_messages::{Answer, Refusal};

/// The path of an image that sets none at all.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The largest file of variables.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// An image's environment under what files and options say.
pub(super) fn merge(image: Option<&[String]>, files: &[impl AsRef<Path>], wanted: &[String]) -> Answer<Vec<String>> {
    let mut ours = Vec::new();
    for file in files {
        set_all(&mut ours, read(file.as_ref())?.iter());
    }
    set_all(&mut ours, wanted.iter());
    let mut env = match image {
        None => Vec::new(),
        Some([]) => vec![DEFAULT_PATH.to_owned()],
        Some(image) => image.to_vec(),
    };
    set_all(&mut env, ours.iter());
    Ok(env)
}

/// Sets each variable where it stands, or after the others. Of a variable given twice the last holds (`ctr` leaves both,
/// and most programs then see the first).
pub(super) fn set_all<'a>(env: &mut Vec<String>, wanted: impl Iterator<Item = &'a String>) {
    for variable in wanted {
        let Some((key, _)) = variable.split_once('=') else { continue };
        match env.iter_mut().find(|known| known.split_once('=').is_some_and(|(name, _)| name == key)) {
            Some(known) => known.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
}

fn read(path: &Path) -> Answer<Vec<String>> {
    let text = String::from_utf8(read_limited(path, FILE_MAX_BYTES)?)
        .map_err(|_| Refusal::invalid(format!("environment file {} is not UTF-8", path.display())))?;
    Ok(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
}
