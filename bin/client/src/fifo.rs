//! A container's standard streams: FIFOs made for them, and bytes carried through them.
//!
//! The shim opens both ends of a container's output, so a client that goes away does not end the container, and the
//! output ends only when the shim lets go of it: after the process has ended and everything it wrote was passed on.
//!
//! # Spec
//! API reference, section 3 "I/O"; containerd `pkg/cio`.

use rustix::fs::{CWD, FileType, Mode};
use std::{
    fs::{self, DirBuilder},
    hash::{BuildHasher, RandomState},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf},
    net::unix::pipe::{OpenOptions, Receiver, Sender},
    task::JoinHandle,
};
use wharf_messages::{Answer, Refusal, task::Stdio};

/// Where FIFOs are made unless told otherwise.
pub const DEFAULT_DIR: &str = "/run/wharf/fifo";
/// How much is carried at a time: half of what a pipe holds, so that writer and reader overlap.
const COPY_BYTES: usize = 32 << 10;

/// Which streams a process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Whether it has input.
    pub stdin: bool,
    /// Whether it has a terminal: one output stream for both kinds of output.
    pub terminal: bool,
}

/// FIFOs in a folder of their own. Dropping it removes them; whoever has them open keeps them.
#[derive(Debug)]
pub struct FifoSet {
    folder: Option<PathBuf>,
    stdio: Stdio,
}

impl FifoSet {
    /// Makes the FIFOs of a process in a new folder below `parent` (none means [`DEFAULT_DIR`]), named after the
    /// process.
    ///
    /// # Errors
    /// What the file system refuses, naming the path.
    pub fn create(parent: Option<&Path>, name: &str, wanted: Wanted) -> Answer<Self> {
        let parent = parent.unwrap_or(Path::new(DEFAULT_DIR));
        let failed = |path: &Path, error: std::io::Error| Refusal::io(format!("make {}", path.display()), &error);
        DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(|error| failed(parent, error))?;
        let folder = loop {
            let folder = parent.join(format!("{:016x}", RandomState::new().hash_one(name)));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => break folder,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&folder, error)),
            }
        };
        // From here on the folder is removed whatever happens.
        let mut set = Self { folder: Some(folder.clone()), stdio: Stdio::default() };
        let make = |stream: &str, wanted: bool| {
            if !wanted {
                return Ok(String::new());
            }
            let path = folder.join(format!("{name}-{stream}"));
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0)
                .map_err(|error| failed(&path, error.into()))?;
            path.into_os_string()
                .into_string()
                .map_err(|_| Refusal::invalid(format!("FIFO folder {} is not UTF-8", parent.display())))
        };
        set.stdio = Stdio {
            stdin: make("stdin", wanted.stdin)?,
            stdout: make("stdout", true)?,
            stderr: make("stderr", !wanted.terminal)?,
            terminal: wanted.terminal,
        };
        Ok(set)
    }

    /// What to tell the daemon.
    #[must_use]
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    /// Opens this side's ends; see [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self) -> Answer<Streams> {
        open(&self.stdio)
    }

    /// Leaves the FIFOs where they are, for a container that outlives this client.
    pub fn keep(mut self) {
        self.folder = None;
    }
}

impl Drop for FifoSet {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // What cannot be removed stays below /run until the next boot; there is nobody to tell.
            fs::remove_dir_all(folder).ok();
        }
    }
}

/// Opens this side's ends of a process's FIFOs, without waiting for the shim to open its own. Streams that are absent,
/// or are not FIFOs (`file://` and the like), stay absent.
///
/// # Errors
/// `NotFound`, `InvalidArgument` for a path that is not a FIFO. Must be called on a tokio runtime.
pub fn open(stdio: &Stdio) -> Answer<Streams> {
    let is_path = |path: &&String| path.starts_with('/');
    let failed = |path: &str, error: &std::io::Error| Refusal::io(format!("open FIFO {path}"), error);
    // Opened for both ways, since a FIFO without a reader cannot be opened for writing alone.
    let stdin = Some(&stdio.stdin)
        .filter(is_path)
        .map(|path| OpenOptions::new().read_write(true).open_sender(path).map_err(|error| failed(path, &error)));
    // For reading alone, to see the end of it; until the shim opens its end, the kernel reports neither bytes nor an end.
    let output = |path: &String| {
        let path = Some(path).filter(is_path);
        path.map(|path| OpenOptions::new().open_receiver(path).map_err(|error| failed(path, &error))).transpose()
    };
    Ok(Streams { stdin: stdin.transpose()?, stdout: output(&stdio.stdout)?, stderr: output(&stdio.stderr)? })
}

/// This side's ends.
#[derive(Debug)]
pub struct Streams {
    /// To the process.
    pub stdin: Option<Sender>,
    /// From the process.
    pub stdout: Option<Receiver>,
    /// From the process.
    pub stderr: Option<Receiver>,
}

impl Streams {
    /// Carries bytes both ways until the streams end. A stream without a counterpart is closed.
    pub fn copy(
        self,
        input: Option<impl AsyncRead + Send + Unpin + 'static>,
        output: impl AsyncWrite + Send + Unpin + 'static,
        errors: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Copying {
        let input = self.stdin.zip(input).map(|(to, from)| tokio::spawn(carry(from, to)));
        let output = self.stdout.map(|from| tokio::spawn(carry_away(from, output)));
        let errors = self.stderr.map(|from| tokio::spawn(carry_away(from, errors)));
        Copying { input, open_input: None, output: [output, errors] }
    }
}

/// Bytes being carried. Dropping it stops that.
#[derive(Debug)]
pub struct Copying {
    input: Option<JoinHandle<std::io::Result<Sender>>>,
    open_input: Option<Sender>,
    output: [Option<JoinHandle<std::io::Result<()>>>; 2],
}

impl Copying {
    /// Waits until the input has ended and is passed on: the time to tell the daemon to close the process's input, and
    /// then to call [`Copying::close_input`]. Without input it waits for ever.
    ///
    /// # Errors
    /// The error that ended it.
    ///
    /// # Cancel safety
    /// May be called again after it was dropped.
    pub async fn input_ended(&mut self) -> Answer<()> {
        match &mut self.input {
            Some(task) => {
                let ended = join(task, "standard input").await;
                self.input = None;
                self.open_input = Some(ended?);
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Lets go of the input's FIFO. Not before the task was created: a FIFO that nobody has open forgets its bytes.
    pub fn close_input(&mut self) {
        self.open_input = None;
    }

    /// Waits until all output has been passed on.
    ///
    /// # Errors
    /// The error that ended it before.
    ///
    /// # Cancel safety
    /// May be called again after it was dropped.
    pub async fn output_ended(&mut self) -> Answer<()> {
        let mut answer = Ok(());
        for (place, what) in self.output.iter_mut().zip(["standard output", "standard error"]) {
            if let Some(task) = place {
                let ended = join(task, what).await;
                *place = None;
                answer = answer.and(ended);
            }
        }
        answer
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.input.iter().for_each(JoinHandle::abort);
        self.output.iter().flatten().for_each(JoinHandle::abort);
    }
}

async fn join<T>(task: &mut JoinHandle<std::io::Result<T>>, what: &str) -> Answer<T> {
    match task.await {
        Ok(ended) => ended.map_err(|error| Refusal::io(what, &error)),
        Err(error) => Err(Refusal::internal(format!("{what}: {error}"))),
    }
}

/// Carries to the end and lets go of both sides.
async fn carry_away(from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    carry(from, to).await.map(drop)
}

async fn carry<W: AsyncWrite + Unpin>(from: impl AsyncRead + Unpin, mut to: W) -> std::io::Result<W> {
    copy_buf(&mut BufReader::with_capacity(COPY_BYTES, from), &mut to).await?;
    to.flush().await?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn bytes_go_through_and_the_end_comes_with_the_shims() {
        let parent = tempfile::tempdir().unwrap();
        let wanted = Wanted { stdin: true, terminal: false };
        let set = FifoSet::create(Some(parent.path()), "web", wanted).unwrap();
        let streams = set.open().unwrap();

        let (mine, mut seen) = tokio::io::duplex(1 << 20);
        let (my_errors, mut seen_errors) = tokio::io::duplex(1 << 20);
        let mut copying = streams.copy(Some(&b"question"[..]), mine, my_errors);
        copying.input_ended().await.unwrap();

        // The shim comes later and holds both ends of the output.
        let shim = |path: &str| OpenOptions::new().read_write(true).open_sender(path).unwrap();
        let mut input = OpenOptions::new().open_receiver(&set.stdio().stdin).unwrap();
        let (mut output, errors) = (shim(&set.stdio().stdout), shim(&set.stdio().stderr));
        let mut question = [0; 8];
        copying.close_input();
        input.read_exact(&mut question).await.unwrap();
        output.write_all(b"answer").await.unwrap();
        drop((output, errors));
        copying.output_ended().await.unwrap();
        drop(copying);

        let (mut text, mut error_text) = (String::new(), String::new());
        seen.read_to_string(&mut text).await.unwrap();
        seen_errors.read_to_string(&mut error_text).await.unwrap();
        assert_eq!((&question, text.as_str(), error_text.as_str()), (b"question", "answer", ""));
    }

    #[tokio::test]
    async fn output_does_not_end_before_the_shim_has_come() {
        let parent = tempfile::tempdir().unwrap();
        let set = FifoSet::create(Some(parent.path()), "web", Wanted { terminal: true, ..Wanted::default() }).unwrap();
        assert_eq!((set.stdio().stdin.as_str(), set.stdio().stderr.as_str()), ("", ""));
        let mut stdout = set.open().unwrap().stdout.unwrap();
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            stdout.read_to_string(&mut text).await.map(|_| text)
        });
        // The reader has had its turn, and found neither bytes nor an end.
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        let mut shim = OpenOptions::new().read_write(true).open_sender(&set.stdio().stdout).unwrap();
        shim.write_all(b"late").await.unwrap();
        drop(shim);
        assert_eq!(reading.await.unwrap().unwrap(), "late");
    }

    #[tokio::test]
    async fn folders_go_with_the_set_unless_kept() {
        let parent = tempfile::tempdir().unwrap();
        let entries = || fs::read_dir(parent.path()).unwrap().count();
        let set = FifoSet::create(Some(parent.path()), "a", Wanted::default()).unwrap();
        assert_eq!(entries(), 1);
        drop(set);
        assert_eq!(entries(), 0);
        FifoSet::create(Some(parent.path()), "a", Wanted::default()).unwrap().keep();
        assert_eq!(entries(), 1);
        // A name with a slash leaves nothing behind.
        assert!(FifoSet::create(Some(parent.path()), "a/b", Wanted::default()).is_err());
        assert_eq!(entries(), 1);
    }

    #[tokio::test]
    async fn what_is_not_a_fifo_is_absent_or_refused() {
        let stdio = Stdio { stdout: "file:///tmp/log".into(), ..Stdio::default() };
        assert!(open(&stdio).unwrap().stdout.is_none());
        let stdio = Stdio { stdout: "/etc/passwd".into(), ..Stdio::default() };
        assert!(open(&stdio).unwrap_err().detail.contains("/etc/passwd"));
    }
}
