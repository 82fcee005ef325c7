//! Starting a shim: its arguments, its environment, and the address it answers with.

use super::{ShimAddress, TaskId};
use containerd_shim_protos::{bootstrap_api::BootstrapResult, protobuf::Message};
use nix::{sys::signal::Signal, unistd::Pid};
use serde::Deserialize;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};
use wharf_messages::{Answer, Any, Refusal};

/// How long `start` may take. containerd gives it as long; a healthy one needs milliseconds.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long `delete` may take.
///
/// # Spec
/// API reference, section 3 "Shim bootstrap": cleanup 5 s.
const DELETE_LIMIT: Duration = Duration::from_secs(5);
/// An address or a refusal; a shim that says more is not believed.
const OUTPUT_MAX_BYTES: u64 = 64 << 10;

/// What every shim of this daemon is told.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// The daemon's socket; its ttrpc one has `.ttrpc` after it.
    pub daemon_address: String,
    /// Publishes an event for shims that do it by running a program.
    pub publish_binary: String,
    /// Where wharf's shim puts its socket; others have their own fixed place.
    pub socket_dir: String,
    /// Whether shims log in detail.
    pub debug: bool,
    /// What shims have in their environment instead of what the daemon has.
    pub env: Vec<(String, String)>,
}

impl Environment {
    fn command(&self, binary: &Path, task: &TaskId, bundle: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .arg("-namespace")
            .arg(task.namespace.as_str())
            .arg("-address")
            .arg(&self.daemon_address)
            .arg("-publish-binary")
            .arg(&self.publish_binary)
            .arg("-id")
            .arg(task.container.as_str());
        if self.debug {
            command.arg("-debug");
        }
        command
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .env("TTRPC_ADDRESS", format!("{}.ttrpc", self.daemon_address))
            .env("GRPC_ADDRESS", &self.daemon_address)
            .env("NAMESPACE", task.namespace.as_str())
            .env("MAX_SHIM_VERSION", "3")
            .env("GOMAXPROCS", "4")
            .env("WHARF_SHIM_SOCKET_DIR", &self.socket_dir)
            .current_dir(bundle)
            // Its own group: a signal for the daemon's terminal is not for containers.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let daemon = Pid::this();
        // SAFETY: between fork and exec it makes two system calls that are safe there and allocates nothing.
        unsafe { command.pre_exec(move || die_with(daemon)) };
        command
    }

    /// Runs the shim's `start`; it leaves the serving process behind and answers where that listens.
    pub(super) async fn start(
        &self,
        binary: &Path,
        task: &TaskId,
        bundle: &Path,
        options: Option<&Any>,
    ) -> Answer<ShimAddress> {
        let doing = || format!("start shim {} for {task}", binary.display());
        let mut command = self.command(binary, task, bundle);
        command.arg("start");
        let stdin = options.map(encode_any).transpose()?.unwrap_or_default();
        let output = run(command, &stdin, START_LIMIT).await.map_err(|r| r.context(doing()))?;
        let (address, version) = parse_answer(&output).map_err(|r| r.context(doing()))?;
        Ok(ShimAddress { address, version, binary: binary.to_string_lossy().into_owned() })
    }

    /// Runs the shim's `delete`, which cleans up after a serving process that is gone; answers (pid, status, time).
    pub(super) async fn delete(
        &self,
        binary: &Path,
        task: &TaskId,
        bundle: &Path,
    ) -> Answer<(u32, u32, wharf_messages::Timestamp)> {
        let doing = || format!("clean up with shim {} for {task}", binary.display());
        let mut command = self.command(binary, task, bundle);
        command.arg("-bundle").arg(bundle).arg("delete");
        let output = run(command, &[], DELETE_LIMIT).await.map_err(|r| r.context(doing()))?;
        let response = containerd_shim_protos::api::DeleteResponse::parse_from_bytes(&output)
            .map_err(|e| Refusal::internal(format!("{}: its answer is no DeleteResponse: {e}", doing())))?;
        Ok((response.pid, response.exit_status, super::connection::timestamp(response.exited_at.as_ref())))
    }
}

/// Has the kernel end this process, a shim's verb, with the daemon: what a later daemon finds in the bundle is then all
/// there is, and nothing of this one goes on behind its back.
fn die_with(daemon: Pid) -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have gone before that took effect.
    if Pid::parent() == daemon { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
}

/// Runs a shim's verb to its end, within a time limit and with bounded output.
async fn run(mut command: Command, stdin: &[u8], limit: Duration) -> Answer<Vec<u8>> {
    let mut child = command.spawn().map_err(|e| Refusal::io("run it", &e))?;
    let talk = async {
        if let Some(mut pipe) = child.stdin.take() {
            match pipe.write_all(stdin).await {
                // A shim that has no use for its options closes the pipe early; its answer says how it went.
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(Refusal::io("write options", &e)),
                _ => {}
            }
        }
        // As in containerd, a shim must not leave its serving process the verb's own stdout and stderr.
        let (out, err, status) =
            tokio::try_join!(collect(child.stdout.take()), collect(child.stderr.take()), child.wait())
                .map_err(|e| Refusal::io("wait for it", &e))?;
        if status.success() {
            return Ok(out);
        }
        let words = if err.is_empty() { out } else { err };
        let words = String::from_utf8_lossy(&words);
        Err(Refusal::internal(match words.trim() {
            "" => format!("it ended with {status}"),
            words => words.to_owned(),
        }))
    };
    tokio::time::timeout(limit, talk)
        .await
        .map_err(|_| Refusal::deadline_exceeded(format!("it took longer than {} s", limit.as_secs())))?
}

async fn collect(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_MAX_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Reads what a shim's `start` printed, a plain address, JSON, or a `BootstrapResult`; answers where it listens, and its
/// version.
///
/// # Errors
/// `InvalidArgument` for what is no answer, `NotImplemented` for a protocol or a version that is not known.
///
/// # Spec
/// API reference, section 3 "Shim bootstrap"; containerd 2.x `core/runtime/v2/shim.go`, `parseStartResponse`.
pub fn parse_answer(output: &[u8]) -> Answer<(String, u32)> {
    #[derive(Deserialize)]
    struct Params {
        version: u32,
        address: String,
        #[serde(default)]
        protocol: String,
    }
    let checked = |address: String, version: u32, protocol: &str| {
        if !matches!(protocol, "" | "ttrpc") {
            return Err(Refusal::not_implemented(format!("its protocol {protocol:?} (ttrpc is known)")));
        }
        if !matches!(version, 2 | 3) {
            return Err(Refusal::not_implemented(format!("its version {version} (2 and 3 are known)")));
        }
        if !address.starts_with("unix://") || address.contains(['\0', '\n']) {
            return Err(Refusal::invalid(format!("its address {address:?} is no unix:// address")));
        }
        Ok((address, version))
    };
    let text = std::str::from_utf8(output).map(str::trim).unwrap_or_default();
    if text.starts_with('{') {
        let params: Params =
            serde_json::from_str(text).map_err(|e| Refusal::invalid(format!("its answer is not understood: {e}")))?;
        return checked(params.address, params.version, &params.protocol);
    }
    if text.starts_with("unix://") {
        return checked(text.to_owned(), 2, "");
    }
    let result = BootstrapResult::parse_from_bytes(output).ok().filter(|r| !r.address.is_empty()).ok_or_else(|| {
        Refusal::invalid(format!("its answer {:?} is no address", text.chars().take(200).collect::<String>()))
    })?;
    checked(result.address, u32::try_from(result.version).unwrap_or(0), &result.protocol)
}

fn encode_any(any: &Any) -> Answer<Vec<u8>> {
    super::connection::any(any)
        .write_to_bytes()
        .map_err(|e| Refusal::internal(format!("encode options {}: {e}", any.type_url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_of_answer_are_understood() {
        assert_eq!(parse_answer(b"unix:///run/a\n").unwrap(), ("unix:///run/a".to_owned(), 2));
        let json = br#"{"version":3,"address":"unix:///run/a","protocol":"ttrpc"}"#;
        assert_eq!(parse_answer(json).unwrap(), ("unix:///run/a".to_owned(), 3));
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/a".to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        };
        assert_eq!(parse_answer(&result.write_to_bytes().unwrap()).unwrap(), ("unix:///run/a".to_owned(), 3));
    }

    #[test]
    fn other_answers_are_refused() {
        for bad in [
            &b""[..],
            b"hello",
            b"{",
            br#"{"version":3,"address":"tcp://1.2.3.4","protocol":"ttrpc"}"#,
            br#"{"version":3,"address":"unix:///x","protocol":"grpc"}"#,
            br#"{"version":9,"address":"unix:///x"}"#,
            b"\xff\xff\xff",
        ] {
            assert!(parse_answer(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_a_failing_shim_says_is_passed_on() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let refusal = run(command, b"ignored", Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(refusal.detail, "no such thing");
    }

    #[tokio::test]
    async fn a_shim_that_hangs_is_given_up() {
        let mut command = Command::new("/bin/sleep");
        command.arg("600").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let refusal = run(command, b"", Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(refusal.kind, wharf_messages::RefusalKind::DeadlineExceeded);
    }
}
