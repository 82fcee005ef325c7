//! Which binary a runtime's name means.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use wharf_messages::{Answer, Refusal, container::DEFAULT_RUNTIME};

/// Finds shim binaries: beside the daemon first, then on the search path.
#[derive(Debug, Clone)]
pub struct ShimBinaries {
    /// Our own shim, which serves the default runtime's name.
    own: PathBuf,
    /// Folders in the order they are tried.
    folders: Vec<PathBuf>,
}

impl ShimBinaries {
    /// Looks in the daemon's own folder, then along `path` (as `$PATH` is written).
    #[must_use]
    pub fn new(own: PathBuf, beside: Option<&Path>, path: &str) -> Self {
        let folders = beside.map(Path::to_path_buf).into_iter().chain(std::env::split_paths(path)).collect();
        Self { own, folders }
    }

    /// Finds the binary of a runtime's name, or takes an absolute path as it is.
    ///
    /// `io.containerd.runc.v2` is wharf's own shim: it takes runc's options and gives the same containers. Debian's
    /// `containerd-shim-runc-v2` is had by its path.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is neither, `NotFound` for one without an executable.
    ///
    /// # Spec
    /// containerd `runtime/v2/shim/util.go` `BinaryName`: the last two dot-separated parts make the name.
    pub fn find(&self, runtime: &str) -> Answer<PathBuf> {
        if runtime.starts_with('/') {
            let path = PathBuf::from(runtime);
            return if executable(&path) { Ok(path) } else { Err(missing(runtime, runtime)) };
        }
        if runtime == DEFAULT_RUNTIME {
            return if executable(&self.own) {
                Ok(self.own.clone())
            } else {
                Err(missing(runtime, &self.own.to_string_lossy()))
            };
        }
        let fits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let parts: Vec<_> = runtime.split('.').collect();
        let [.., name, version] = parts.as_slice() else {
            return Err(invalid(runtime));
        };
        if !parts.iter().all(|p| fits(p)) {
            return Err(invalid(runtime));
        }
        let binary = format!("containerd-shim-{name}-{version}");
        self.folders
            .iter()
            .map(|folder| folder.join(&binary))
            .find(|path| executable(path))
            .ok_or_else(|| missing(runtime, &binary))
    }
}

/// A search path that begins with a folder, and goes on as the daemon's own variable does.
#[must_use]
pub fn search_path(first: &Path, variable: &str) -> String {
    let first = first.to_string_lossy();
    match std::env::var(variable) {
        Ok(rest) if !rest.is_empty() => format!("{first}:{rest}"),
        _ => first.into_owned(),
    }
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn invalid(runtime: &str) -> Refusal {
    Refusal::invalid(format!("runtime {runtime:?}: expected a name such as io.containerd.runc.v2 or an absolute path"))
}

fn missing(runtime: &str, binary: &str) -> Refusal {
    Refusal::not_found(format!("runtime {runtime:?}: no executable {binary}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_binaries() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let own = make("wharf-shim", 0o755);
        let other = make("containerd-shim-other-v1", 0o755);
        make("containerd-shim-plain-v1", 0o644);
        let binaries = ShimBinaries::new(own.clone(), None, dir.path().to_str().unwrap());
        assert_eq!(binaries.find("io.containerd.runc.v2").unwrap(), own);
        assert_eq!(binaries.find("io.containerd.other.v1").unwrap(), other);
        assert_eq!(binaries.find(other.to_str().unwrap()).unwrap(), other);
        use wharf_messages::RefusalKind::{InvalidArgument, NotFound};
        for (name, kind) in [
            ("io.containerd.plain.v1", NotFound),
            ("io.containerd.absent.v1", NotFound),
            ("/no/such/shim", NotFound),
            ("nonsense", InvalidArgument),
            ("io.containerd.../../x.v1", InvalidArgument),
            ("", InvalidArgument),
        ] {
            assert_eq!(binaries.find(name).unwrap_err().kind, kind, "{name}");
        }
    }
}
