//! Programs from an image onto the host: what is right in `bin` (and `lib`) of its layers.
//!
//! ```text
//!   layers, one over the other --> a folder beside the target --> all names free? --> renamed into the target
//! ```
//!
//! INSTALL-1. Whatever an image says, nothing of the host is touched but names in `bin` and `lib` of the target, and
//! none that is taken unless it may be replaced.
//!
//! # Spec
//! containerd `Client.Install` and `services/opt`.

use super::resolve;
use crate::{
    Wharf,
    drivers::{
        differ::{self, ApplyOptions},
        scratch::ScratchFolder,
    },
};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use wharf_messages::{
    Answer, Meta, Refusal, RefusalKind,
    descriptor::media_type::{self, Compression},
    image::InstallImage,
};
use wharf_store::refuse;

/// Where programs are, in layers and on the host.
const PROGRAMS: &str = "bin";
/// Where libraries are.
const LIBRARIES: &str = "lib";

/// Installs an image; answers where.
///
/// # Errors
/// `NotFound` for the image, this machine's manifest or a layer that is not here, `AlreadyExists` for a name that is
/// taken, `InvalidArgument` for a path that is not absolute, and what the layers and the disk say.
pub async fn install(wharf: Wharf, meta: Meta, call: InstallImage, cancel: CancellationToken) -> Answer<String> {
    let name = call.name.clone();
    let work = {
        let wharf = wharf.clone();
        move || run(&wharf, &meta, &call, &cancel)
    };
    wharf.pool.run("install an image", work).await.map_err(|refusal| refusal.context(format!("install {name}")))
}

fn run(wharf: &Wharf, meta: &Meta, call: &InstallImage, cancel: &CancellationToken) -> Answer<String> {
    let target = call.path.as_ref().map_or_else(|| wharf.config.opt.clone(), PathBuf::from);
    if !target.is_absolute() {
        return Err(Refusal::invalid(format!("install path {:?} is not absolute", target.display())));
    }
    let namespace = meta.namespace()?;
    let reader = wharf.store.read()?;
    let image = reader.image(namespace, &call.name)?.ok_or_else(|| refuse::no_image(&call.name))?;
    let resolved = resolve::resolve(&wharf.store, &reader, namespace, &image.target, None)?;
    let folders: Vec<String> =
        [Some(PROGRAMS), call.libraries.then_some(LIBRARIES)].into_iter().flatten().map(str::to_owned).collect();
    make_folder(&target)?;
    // On the target's own disk, so that what is there can be renamed into it.
    let staged = ScratchFolder::new(&target)?;
    let options = ApplyOptions { only: folders.clone(), late_parent: false, ..wharf.drivers.apply.clone() };
    for layer in &resolved.layers {
        if reader.content(namespace, &layer.digest)?.is_none() {
            return Err(refuse::no_content(&layer.digest));
        }
        let (mut file, _) = wharf.store.blobs().read(&layer.digest)?;
        let packed = media_type::layer_compression(&layer.media_type).unwrap_or(Compression::None);
        differ::apply(&mut file, packed, &[staged.mount()], &options, &|| cancel.is_cancelled())
            .map_err(|refusal| refusal.context(format!("layer {}", layer.digest)))?;
    }
    place(staged.path(), &target, &folders, call.replace)?;
    Ok(target.to_string_lossy().into_owned())
}

/// Moves what was staged to its place; looks whether all of it can be moved before any of it is.
fn place(staged: &Path, target: &Path, folders: &[String], replace: bool) -> Answer<()> {
    let mut moves = Vec::new();
    for folder in folders {
        let from = staged.join(folder);
        let entries = match fs::read_dir(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| Refusal::io(format!("read {}", from.display()), &e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| Refusal::io(format!("read {}", from.display()), &e))?;
            let to = target.join(folder).join(entry.file_name());
            let there = match fs::symlink_metadata(&to) {
                Ok(there) => Some(there),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(Refusal::io(format!("look at {}", to.display()), &error)),
            };
            if there.is_some() && !replace {
                let what = Path::new(folder).join(entry.file_name());
                let why = format!("cannot replace {} in {}", what.display(), target.display());
                return Err(Refusal { kind: RefusalKind::AlreadyExists, ..Refusal::invalid(why) });
            }
            // Of a folder nothing is installed but its name; one that is there has it.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !(is_folder && there.is_some_and(|there| there.is_dir())) {
                moves.push((entry.path(), to));
            }
        }
        make_folder(&target.join(folder))?;
    }
    for (from, to) in moves {
        fs::rename(&from, &to).map_err(|e| Refusal::io(format!("install {}", to.display()), &e))?;
    }
    Ok(())
}

/// Makes a folder in which everybody can find what he knows the name of, as containerd's are.
fn make_folder(path: &Path) -> Answer<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.map_err(|e| Refusal::io(format!("make {}", path.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, each with its own path in it.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    #[test]
    fn names_that_are_taken_are_taken_unless_they_may_be_replaced() {
        let folders = ["bin".to_owned(), "lib".to_owned()];
        let staged = tree(&["bin/a", "bin/b", "lib/c"]);
        let target = tree(&["bin/b", "bin/other"]);
        fs::write(target.path().join("bin/b"), "mine").unwrap();
        let refusal = place(staged.path(), target.path(), &folders, false).unwrap_err();
        assert!(refusal.is(RefusalKind::AlreadyExists) && refusal.detail.starts_with("cannot replace bin/b in /"));
        assert!(!target.path().join("bin/a").exists(), "nothing is done by halves");
        place(staged.path(), target.path(), &folders, true).unwrap();
        for (file, text) in [("bin/a", "bin/a"), ("bin/b", "bin/b"), ("lib/c", "lib/c"), ("bin/other", "bin/other")] {
            assert_eq!(fs::read_to_string(target.path().join(file)).unwrap(), text);
        }
    }

    #[test]
    fn folders_that_are_there_stay_as_they_are() {
        let folders = ["bin".to_owned()];
        let staged = tree(&["bin/d/x"]);
        fs::remove_file(staged.path().join("bin/d/x")).unwrap();
        let target = tree(&["bin/d/mine"]);
        place(staged.path(), target.path(), &folders, true).unwrap();
        assert!(target.path().join("bin/d/mine").exists());
    }
}
