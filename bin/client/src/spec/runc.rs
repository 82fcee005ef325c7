//! The options of containerd's runc shim, in the form in which a container's record carries them.

use wharf_messages::Any;

/// What can be asked of the shim beside the spec.
///
/// # Spec
/// containerd `runtime/v2/runc/options/oci.proto`, message `containerd.runc.v1.Options`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuncOptions {
    /// Enter the root by chroot instead of pivot_root (for a root on a RAM disk).
    pub no_pivot_root: bool,
    /// No session keyring of its own.
    pub no_new_keyring: bool,
    /// A cgroup for the shim itself.
    pub shim_cgroup: String,
    /// Owner of the standard streams.
    pub io_uid: u32,
    /// Group of the standard streams.
    pub io_gid: u32,
    /// Another OCI runtime: its path or name.
    pub binary_name: String,
    /// Where that runtime keeps its state.
    pub root: String,
    /// Have systemd make the cgroups.
    pub systemd_cgroup: bool,
}

impl RuncOptions {
    /// The type's URL.
    pub const URL: &'static str = "containerd.runc.v1.Options";

    /// Encodes them as protobuf.
    #[must_use]
    pub fn to_any(&self) -> Any {
        let mut value = Vec::new();
        let number = |value: &mut Vec<u8>, field: u8, number: u32| {
            if number != 0 {
                value.push(field << 3);
                varint(value, number.into());
            }
        };
        let text = |value: &mut Vec<u8>, field: u8, text: &str| {
            if !text.is_empty() {
                value.push(field << 3 | 2);
                varint(value, text.len() as u64);
                value.extend_from_slice(text.as_bytes());
            }
        };
        number(&mut value, 1, self.no_pivot_root.into());
        number(&mut value, 2, self.no_new_keyring.into());
        text(&mut value, 3, &self.shim_cgroup);
        number(&mut value, 4, self.io_uid);
        number(&mut value, 5, self.io_gid);
        text(&mut value, 6, &self.binary_name);
        text(&mut value, 7, &self.root);
        number(&mut value, 9, self.systemd_cgroup.into());
        Any::new(Self::URL, value)
    }
}

fn varint(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}
