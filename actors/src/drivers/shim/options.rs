//! What the daemon itself reads of a runtime's options; the rest is the shim's.

use containerd_shim_protos::{
    protobuf::Message,
    shim::oci::{CheckpointOptions, Options},
};
use wharf_messages::{Answer, Any, Refusal};

/// The type of runc's options.
const RUNC: &str = "containerd.runc.v1.Options";
/// The type of what its checkpoints are made by.
const CHECKPOINT: &str = "containerd.runc.v1.CheckpointOptions";

/// The folder that a new process is to be restored from, if the options name one.
///
/// # Errors
/// `InvalidArgument` for options that are not what their type says.
///
/// # Spec
/// containerd 1.6 `services/tasks/local.go`, `getRestorePath`: `criu_image_path`.
pub fn restore_path(options: Option<&Any>) -> Answer<String> {
    let Some(options) = options.filter(|any| any.type_url.rsplit('/').next() == Some(RUNC)) else {
        return Ok(String::new());
    };
    Options::parse_from_bytes(&options.value)
        .map(|options| options.criu_image_path)
        .map_err(|e| Refusal::invalid(format!("runtime options {RUNC}: {e}")))
}

/// The folder that a checkpoint goes to, if its options name one.
///
/// # Errors
/// `Unknown`, as by containerd, for options that are not what their type says.
///
/// # Spec
/// containerd 1.6 `services/tasks/local.go`, `getCheckpointPath`: `image_path`.
pub fn checkpoint_path(options: Option<&Any>) -> Answer<String> {
    let Some(options) = options.filter(|any| any.type_url.rsplit('/').next() == Some(CHECKPOINT)) else {
        return Ok(String::new());
    };
    CheckpointOptions::parse_from_bytes(&options.value)
        .map(|options| options.image_path)
        .map_err(|e| Refusal::unknown(format!("checkpoint options {CHECKPOINT}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_read_from_runcs_options_alone() {
        let options = Options { criu_image_path: "/image".to_owned(), ..Default::default() };
        let any = |type_url: &str, value| Any { type_url: type_url.to_owned(), value };
        let bytes = options.write_to_bytes().unwrap();
        assert_eq!(restore_path(Some(&any(RUNC, bytes.clone().into()))).unwrap(), "/image");
        assert_eq!(restore_path(Some(&any("other.Options", bytes.into()))).unwrap(), "");
        assert_eq!(restore_path(None).unwrap(), "");
        assert!(restore_path(Some(&any(RUNC, vec![0xff].into()))).is_err());
    }
}
